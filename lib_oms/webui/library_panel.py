"""OMS models on the page: what is here, a button for each that can be downloaded, and on top of the accordion the one
that is missing.
"""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from lib_oms.files import LATENTS_NAMES
from lib_oms.library.download import NAMES
from lib_oms.webui import downloading
from lib_oms.webui.controls import AT_ONCE, elem_id, unsaved
from lib_oms.webui.library_list import Look, Offer, error, here, look, terms


@dataclass(frozen=True)
class Panel:
    """What of it others change: the frame that folds, the components that `now` gives values for, the one that is to
    hold the name of the download that runs as the page is loaded, and the events at whose end a download has ended.
    """

    frame: gr.Accordion
    shown: tuple[Any, ...]
    running: gr.Textbox
    downloads: tuple[Any, ...]


@dataclass(frozen=True)
class _Row:
    """A line with its button. `name` holds what the button downloads."""

    frame: Any
    text: gr.HTML
    name: gr.Textbox
    button: gr.Button

    @property
    def parts(self) -> tuple[Any, ...]:
        return self.frame, self.text, self.name, self.button


@dataclass(frozen=True)
class _Progress:
    """How a download stands, and the button that ends it, there only while it runs."""

    status: gr.HTML
    cancel: gr.Button


@dataclass(frozen=True)
class Banner:
    """What stands on top while prompts lack something."""

    row: _Row
    progress: _Progress


def banner() -> Banner:
    """Adds the line on top; it shows nothing until `now` says so."""
    with gr.Column(visible=False, elem_id=elem_id("banner")) as frame:
        row = _row(elem_id("banner"), frame)
        progress = _progress(elem_id("banner"))
    return Banner(row, progress)


def build(frame: gr.Accordion, top: Banner) -> Panel:
    """Adds list and buttons to `frame`, which is open."""
    shown = gr.HTML("", elem_id=elem_id("library_table"))
    rows = []
    for number in range(len(NAMES)):
        with gr.Row(visible=False, elem_id=elem_id(f"offer_{number}"), elem_classes=["oms-offer"]) as line:
            rows.append(_row(elem_id(f"offer_{number}"), line))
    progress = _progress(elem_id("download"))
    gr.HTML(terms(), elem_id=elem_id("library_terms"))
    # A download goes on without its page, and a new page must show it.
    running = gr.Textbox(visible=False, elem_id=elem_id("download_running"))
    outputs = [part for one in (top.progress, progress) for part in (one.status, one.cancel)]
    for one in (top.progress, progress):
        one.cancel.click(fn=downloading.JOB.cancel, inputs=[], outputs=[], **AT_ONCE)
    downloads = [
        row.button.click(fn=_download, inputs=[row.name], outputs=outputs, show_progress=False)
        for row in (top.row, *rows)
    ]
    downloads.append(running.change(fn=_watch, inputs=[], outputs=outputs, show_progress=False))
    parts = [part for row in (top.row, *rows) for part in row.parts]
    return Panel(frame, (frame, shown, *parts), running, tuple(downloads))


def now() -> list[Any]:
    """Values for the components of `Panel.shown`."""
    seen = look()
    offers = seen.offers
    label = gr.update(label=f"OMS models: {_in_short(seen)}")
    rows = [_filled(one) for one in offers] + [_filled(None)] * (len(NAMES) - len(offers))
    return [label, here(seen), *_filled(seen.missing, _lack(seen)), *(part for row in rows for part in row)]


def _in_short(seen: Look) -> str:
    if seen.automatic:
        return f"Automatic is {seen.automatic}"
    return "none for this checkpoint" if seen.latents in LATENTS_NAMES else "what is here, and what can be downloaded"


def _lack(seen: Look) -> str:
    """What is missing, in words that a person reads first, as HTML."""
    if seen.missing is None:
        return ""
    what = "an OMS model" if seen.missing.title == seen.missing.name else f"the {seen.missing.title.lower()}"
    lacking = f"Prompts need {what} for this {LATENTS_NAMES[seen.latents or '']} checkpoint."
    return f"<b>{html.escape(lacking)}</b><br>Color, Picture and Brush work without."


def _row(elem_id: str, frame: Any) -> _Row:
    with gr.Row(elem_classes=["oms-row"]):
        with gr.Column(scale=4, min_width=160):
            text = gr.HTML("", elem_id=f"{elem_id}_text")
        button = unsaved(gr.Button("Download", scale=0, min_width=150, elem_id=f"{elem_id}_download"))
    return _Row(frame, text, gr.Textbox(visible=False, elem_id=f"{elem_id}_name"), button)


def _progress(elem_id: str) -> _Progress:
    status = gr.HTML("", elem_id=f"{elem_id}_status")
    return _Progress(status, unsaved(gr.Button("Cancel", visible=False, elem_id=f"{elem_id}_cancel")))


def _filled(one: Offer | None, text: str = "") -> list[Any]:
    """Values for the parts of a row; it is not there where it offers nothing."""
    if one is None:
        return [gr.update(visible=False), "", "", gr.update()]
    look_of_button = gr.update(value=one.button, variant="primary" if one.fits else "secondary")
    return [gr.update(visible=True), text or one.html, one.name, look_of_button]


def _download(name: Any) -> Iterator[list[Any]]:
    downloading.JOB.start(str(name))
    yield from _watch()


def _watch() -> Iterator[list[Any]]:
    job = downloading.JOB
    for told in job.watch():
        yield _both(told, job)
    yield _both(job.told, job)


def _both(told: str, job: downloading.Job) -> list[Any]:
    """For the top and the list alike: how it stands, and whether there is something to cancel."""
    return [_status(told, job), gr.update(visible=job.running)] * 2


def _status(told: str, job: downloading.Job) -> str:
    line = error(told) if job.failed else f"<div class='oms-told' role='status'>{html.escape(told)}</div>"
    if not job.running:
        return line if told else ""
    done = f"<div style='width: {job.percent:.1f}%'></div>"
    return f"{line}<div class='oms-bar' role='progressbar' aria-valuenow='{job.percent:.0f}'>{done}</div>"
