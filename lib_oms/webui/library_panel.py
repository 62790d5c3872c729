"""The list of modules on the page, and the button that downloads what is missing."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator
from typing import Any

import gradio as gr

from lib_oms.errors import OMSError
from lib_oms.listing import LATENTS_NAMES, READY, human_size, listing
from lib_oms.webui import downloading, offer, sources

_HEAD = ("Name", "Latents", "Text encoder", "Size", "State")


def build(module_dropdown: gr.Dropdown, refresh: gr.Button) -> None:
    """Adds list and button to the open accordion; a download that ends, and `refresh`, update the dropdown, too."""
    with gr.Accordion("OMS modules", open=False, elem_id="oms_library"):
        shown = gr.HTML(table(), elem_id="oms_library_table")
        with gr.Row():
            names = downloading.choices()
            name = gr.Dropdown(names, value=names[0], label="Published OMS module", elem_id="oms_download_name")
            start = gr.Button("Download", elem_id="oms_download")
            cancel = gr.Button("Cancel download", elem_id="oms_download_cancel")
        status = gr.HTML("", elem_id="oms_download_status")
    start.click(fn=_download, inputs=[name], outputs=[status, shown, module_dropdown], show_progress=False)
    cancel.click(fn=downloading.JOB.cancel, inputs=[], outputs=[], queue=False, show_progress=False)
    refresh.click(fn=table, inputs=[], outputs=[shown], show_progress=False)


def table() -> str:
    """The list as HTML; names come from files and are escaped."""
    try:
        lines = listing(sources.places())
    except (OMSError, OSError) as error:
        return f"<p class='error'>{html.escape(str(error))}</p>"
    rows = [
        (line.name, LATENTS_NAMES.get(line.latents, line.latents), line.text_encoder, human_size(line.size),
         line.state if line.state == READY else f"{line.state}: {line.why}")
        for line in lines
    ]  # fmt: skip
    body = "".join(_row(row, "td") for row in rows)
    return f"<table><thead>{_row(_HEAD, 'th')}</thead><tbody>{body}</tbody></table>"


def _row(cells: Iterable[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def _download(name: Any) -> Iterator[tuple[Any, Any, Any]]:
    job = downloading.JOB
    job.start(str(name))
    for told in job.watch():
        yield _status(told, job), gr.update(), gr.update()
    yield _status(job.told, job), table(), gr.update(choices=offer.choices())


def _status(told: str, job: downloading.Job) -> str:
    kind = "error" if job.failed else "comments"
    bar = f"<progress max='100' value='{job.percent:.1f}' style='width: 100%'></progress>" if job.running else ""
    return f"<div class='{kind}'>{html.escape(told)}</div>{bar}"
