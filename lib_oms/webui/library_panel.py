"""The list of modules on the page, and the button that downloads what is missing."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from lib_oms.embedded import LATENTS as EMBEDDED
from lib_oms.errors import OMSError
from lib_oms.files import LATENTS_NAMES
from lib_oms.library import UNKNOWN
from lib_oms.library.listing import BROKEN, NOT_DOWNLOADED, READY, Listed, human_size, listing
from lib_oms.settings import AUTOMATIC
from lib_oms.webui import downloading, host, module_note, offer, sources

_HEAD = ("Name", "For", "Text encoder", "Size", "State")
_TEXT = "padding: 2px 6px; text-align: left; font-size: 0.85em; overflow-wrap: anywhere"
_CELL = f"{_TEXT}; border: 1px solid var(--border-color-primary, #9ca3af)"
_WORD = f"{_CELL}; white-space: nowrap"
_GROUP = f"{_CELL}; padding-top: 0.6em; font-weight: 600"
_WIDE = 24  # letters from which on a word may be broken, so that it does not push the others out of the page
_LONG, _SHORT = 240, 120  # letters of an explanation from which on it is folded, and those that then show
_BAR = "height: 0.6em; border-radius: 0.3em; background: var(--border-color-primary, #9ca3af); overflow: hidden"
_DONE = "height: 100%; background: var(--primary-500, #2563eb)"


@dataclass(frozen=True)
class Panel:
    """What of it others change: the frame that folds, the table, and the events at whose end a download has ended."""

    frame: gr.Accordion
    table: gr.HTML
    downloads: tuple[Any, ...]


def build() -> Panel:
    """Adds list and button to the open accordion, themselves folded away. The list is made anew whenever the page is
    loaded.
    """
    with gr.Accordion("OMS models", open=False, elem_id="oms_library") as frame:
        shown = gr.HTML(table, elem_id="oms_library_table")
        names = downloading.choices()
        name = gr.Dropdown(
            names,
            value=names[0],
            label="Published OMS model",
            info="Automatic: the one for the loaded checkpoint. Its text encoder comes along where there is none.",
            elem_id="oms_download_name",
        )
        with gr.Row():
            start = gr.Button("Download", elem_id="oms_download")
            cancel = gr.Button("Cancel download", elem_id="oms_download_cancel")
        status = gr.HTML("", elem_id="oms_download_status")
        # Filled as the page is loaded: a download goes on without its page, and a new page must show it.
        running = gr.Textbox(lambda: downloading.JOB.running_name, visible=False, elem_id="oms_download_running")
    cancel.click(fn=downloading.JOB.cancel, inputs=[], outputs=[], queue=False, show_progress=False)
    return Panel(
        frame,
        shown,
        (
            start.click(fn=_download, inputs=[name], outputs=[status], show_progress=False),
            running.change(fn=_watch, inputs=[], outputs=[status], show_progress=False),
        ),
    )


def table() -> str:
    """The list as HTML; names come from files and are escaped."""
    try:
        latents, automatic = host.latents_now(), offer.automatic()
        lines = [line for line in listing(sources.places(), latents) if line.fits or line.latents != EMBEDDED]
    except (OMSError, OSError) as error:
        return _error(str(error))
    body, group = "", ""
    for line in lines:
        title = _group(line, latents)
        if title != group:
            body += f"<tr><th colspan='{len(_HEAD)}' style='{_GROUP}'>{html.escape(title)}</th></tr>"
            group = title
        body += _rows(line, chosen=automatic is not None and line.state != BROKEN and line.name == automatic.name)
    made = f"<table style='width: 100%'><thead>{_row(_HEAD, 'th')}</thead><tbody>{body}</tbody></table>"
    return _missing_folders() + made + _terms(lines)


def _missing_folders() -> str:
    """A line for every folder that a person named and that is not there."""
    missing = ((folder, where) for folder, where in host.named_folders() if not folder.is_dir())
    return "".join(_error(f"There is no folder {folder}, which {where} names.") for folder, where in missing)


def _error(text: str) -> str:
    """A line in red; hosts have the class, and no color for it outside of their own log."""
    return f"<div class='error' style='{module_note.RED}; overflow-wrap: anywhere'>{html.escape(text)}</div>"


def _group(line: Listed, latents: str | None) -> str:
    """The heading under which a module stands; none where no checkpoint is known that could tell them apart."""
    if line.state == BROKEN:
        return "Cannot be used"
    if latents is None:
        return ""
    return f"\u2714 For {module_note.checkpoint_in_words()}" if line.fits else "For other checkpoints"


def _rows(line: Listed, *, chosen: bool) -> str:
    state = f"{line.state}, taken by {AUTOMATIC}" if chosen else line.state
    size = f"{human_size(line.size)} with text encoder" if line.text_encoder_size else human_size(line.size)
    told = ("", "") if line.state == BROKEN else (_latents(line.latents), line.text_encoder)
    row = _row((line.name, *told, size, state), "td")
    if line.state in (READY, NOT_DOWNLOADED):
        return row
    why = html.escape(line.why)
    if len(line.why) > _LONG:
        why = f"<details><summary>{html.escape(line.why[:_SHORT].rpartition(' ')[0])} ...</summary>{why}</details>"
    return f"{row}<tr><td colspan='{len(_HEAD)}' style='{_CELL}; padding-left: 2em'>{why}</td></tr>"


def _latents(latents: str) -> str:
    return LATENTS_NAMES.get(latents, "not said" if latents == UNKNOWN else latents)


def _terms(lines: Iterable[Listed]) -> str:
    """Where a download comes from and what it is under."""
    licenses = " and ".join(sorted({line.license for line in lines if line.license}))
    told = f"Downloads come from Hugging Face; the OMS models are under the license {licenses}." if licenses else ""
    return f"<p style='{_TEXT}'>{html.escape(told)}</p>" if told else ""


def _row(cells: Iterable[str], tag: str) -> str:
    return f"<tr>{''.join(_cell(cell, tag) for cell in cells)}</tr>"


def _cell(text: str, tag: str) -> str:
    style = _WORD if len(text) < _WIDE and " " not in text else _CELL
    return f"<{tag} style='{style}'>{html.escape(text)}</{tag}>"


def _download(name: Any) -> Iterator[str]:
    downloading.JOB.start(str(name))
    yield from _watch()


def _watch() -> Iterator[str]:
    job = downloading.JOB
    for told in job.watch():
        yield _status(told, job)
    yield _status(job.told, job)


def _status(told: str, job: downloading.Job) -> str:
    line = _error(told) if job.failed else f"<div class='comments'>{html.escape(told)}</div>"
    done = f"<div style='{_DONE}; width: {job.percent:.1f}%'></div>"
    bar = f"<div role='progressbar' style='{_BAR}'>{done}</div>" if job.running else ""
    return line + bar
