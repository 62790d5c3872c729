"""What a person sees of the step while it runs, and whether they have had enough of it."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from modules import shared

from lib_oms.webui.first_step import NotApplicable


@contextmanager
def shown() -> Iterator[None]:
    """What `begins` says beside the page's progress bar is gone when the body is left."""
    before = shared.state.textinfo
    try:
        yield
    finally:
        shared.state.textinfo = before


def begins(what: str) -> None:
    """Says on the page, by its progress bar, what is about to be done.

    Raises:
        NotApplicable: as `check`.
    """
    check()
    shared.state.textinfo = what


def check() -> None:
    """Ends the step where the picture was interrupted or skipped: the host ends it before its first step.

    Not where the host is to stop after the current picture, which is to be whole.

    Raises:
        NotApplicable: the picture was interrupted or skipped.
    """
    if getattr(shared.state, "interrupted", False) or getattr(shared.state, "skipped", False):
        raise NotApplicable("the picture was interrupted before the step was taken")


def let_go_of(error: BaseException | None) -> None:
    """Takes what the frames of an error's traceback hold from them: psi's whole work in hand, where it ran out of
    memory. The host keeps the error until the request is over, and what holds itself in a circle, longer.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
