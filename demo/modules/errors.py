"""Reporting of errors that must not stop the host (host file: modules/errors.py)."""

import sys
import textwrap
import traceback

exception_records: list[dict] = []


def record_exception() -> None:
    """Remembers the exception being handled; the last five are kept."""
    exc = sys.exc_info()[1]
    if exc is None:
        return
    exception_records.append({"exception": str(exc), "traceback": traceback.format_exc()})
    del exception_records[:-5]


def report(message: str, *, exc_info: bool = False) -> None:
    """Prints `message` to stderr, each line behind three stars, with the current traceback if `exc_info`."""
    record_exception()
    for line in message.splitlines():
        print("***", line, file=sys.stderr)
    if exc_info:
        print(textwrap.indent(traceback.format_exc(), "    "), file=sys.stderr)
        print("---", file=sys.stderr)
    sys.stderr.flush()


def display(e: Exception, task: str) -> None:
    """Prints what failed and the exception with its traceback."""
    record_exception()
    print(f"{task or 'error'}: {type(e).__name__}", file=sys.stderr)
    traceback.print_exception(type(e), e, e.__traceback__, file=sys.stderr)
    sys.stderr.flush()


def print_error_explanation(message: str) -> None:
    """Prints a message to a person, framed by lines."""
    record_exception()
    frame = "=" * max(len(line) for line in message.strip().splitlines())
    print(frame, message.strip(), frame, sep="\n", file=sys.stderr)
