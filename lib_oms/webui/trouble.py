"""How a person hears of what is wrong: a request that is refused, an accordion that says why there is none.

Imports nothing of the extension but its errors, so that it works where the rest cannot be imported.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import HTTPException
from modules import errors, shared

from lib_oms.console import say
from lib_oms.errors import OMSError

NAME = "One More Step"
INSTALL_FAILED = Path(__file__).resolve().parents[2] / "install-failed.txt"
"""What install.py could not do, in one line, and then what to run by hand; there only where it could not."""
_CALLED_NEXT = ("init", "sample")


class Refusal(HTTPException):
    """Ends a request; the text says why, to the person who made it.

    Hosts show the class's name before the text, on the page and in tracebacks (modules/call_queue.py), so it bears the
    name that a person knows. They answer an HTTPException over the API with its text and print no traceback for it
    (modules/api/api.py, handle_exception).
    """

    def __init__(self, text: str) -> None:
        super().__init__(status_code=500, detail=str(OMSError(text)))  # which writes nothing that hosts trip over

    def __str__(self) -> str:
        return self.detail


Refusal.__name__ = Refusal.__qualname__ = NAME
Refusal.__module__ = "builtins"  # of every other class tracebacks name the module, too


def refusal(p: Any, text: str) -> Refusal:
    """What to raise for `p`, a host's processing object. Of a request over the API hosts print nothing, so a line is
    printed here.
    """
    if getattr(p, "is_api", False):
        say(f"{NAME}: {text}")
    return Refusal(text)


def refuse(p: Any, text: str) -> None:
    """Makes the request end with `text` before anything is done for it.

    Hosts swallow what a hook raises, so it is raised where they do not: in the first of p's own methods that is called
    after the hooks `before_process` and `process`, which is `init` or, where there is none, `sample`.
    """

    def end(*args: Any, **kwargs: Any) -> Any:
        for name in _CALLED_NEXT:
            vars(p).pop(name, None)  # uncovers the class's own
        p.comment(f"{NAME}: {text}")  # an X/Y/Z plot swallows this, too, and goes on
        raise refusal(p, text)

    for name in _CALLED_NEXT:
        if hasattr(p, name):
            setattr(p, name, end)


def report(error: Exception) -> str:
    """What the accordion says of an error that leaves nothing to use; the console shows where it comes from."""
    if isinstance(error, OMSError):
        errors.report(f"{NAME} cannot be used: {error}")
        return str(error)
    errors.report(f"{NAME} cannot be used", exc_info=True)
    return f"{type(error).__name__}: {error}"


def accordion(problem: str) -> list[Any]:
    """An accordion that says what is wrong, and one control, so that the API can be told, too."""
    with gr.Accordion(NAME, open=True, elem_id="oms_accordion"):
        gr.Markdown(f"{NAME} cannot be used: {problem}\n\n{_remedy()}", elem_id="oms_problem")
        return [gr.Checkbox(False, label=NAME, visible=False, elem_id="oms_enabled")]


def _remedy() -> str:
    try:
        line, command = INSTALL_FAILED.read_text(encoding="utf-8").split("\n", 1)
    except (OSError, ValueError):
        return "The console shows more. Restart the WebUI when it is repaired."
    return f"{line}\n\nRun this by hand, then restart the WebUI:\n\n    {command.strip()}"


def stand_in(p: Any, problem: str) -> None:
    """Makes a request that asks for the step fail, instead of a picture that silently goes without."""
    text = f"it cannot be used: {problem}"
    if getattr(shared.opts, "oms_on_failure", "") == "continue without it":
        p.extra_generation_params["OMS skipped"] = text
    else:
        refuse(p, text)
