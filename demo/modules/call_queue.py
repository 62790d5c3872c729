"""One generation at a time, and errors that reach the browser (host file: modules/call_queue.py)."""

import html
import threading
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

from modules import errors, shared

queue_lock = threading.RLock()


def wrap_queued_call(func: Callable) -> Callable:
    """`func`, which waits for its turn."""

    @wraps(func)
    def handler(*args: Any, **kwargs: Any) -> Any:
        with queue_lock:
            return func(*args, **kwargs)

    return handler


def wrap_gradio_gpu_call(func: Callable, extra_outputs: list | None = None) -> Callable:
    """`func` as a handler of the page: waits for its turn; an exception becomes HTML in the last output."""

    @wraps(func)
    def handler(*args: Any, **kwargs: Any) -> tuple:
        started = time.perf_counter()
        with queue_lock:
            shared.state.begin(job="txt2img")
            try:
                results = list(func(*args, **kwargs))
            except Exception as e:
                errors.report(f"Error completing request\nArguments: {args} {kwargs}"[:4096], exc_info=True)
                message = html.escape(f"{type(e).__name__}: {e}")
                results = [*(extra_outputs or [None, ""]), f"<div class='error'>{message}</div>"]
            finally:
                shared.state.end()
        seconds = time.perf_counter() - started
        run = time.time_ns()  # the page draws a text anew, and so notices the end, only where it is another text
        time_taken = f"<p class='time'>Time taken: {seconds:.1f} sec.</p>"
        results[-1] += f"<div class='performance' data-run='{run}'>{time_taken}</div>"
        return tuple(results)

    return handler
