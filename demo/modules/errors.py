"""Reporting of errors that must not stop the host (host file: modules/errors.py)."""

import sys
import textwrap
import traceback


def report(message: str, *, exc_info: bool = False) -> None:
    """Prints `message` to stderr, each line behind three stars, with the current traceback if `exc_info`."""
    for line in message.splitlines():
        print("***", line, file=sys.stderr)
    if exc_info:
        print(textwrap.indent(traceback.format_exc(), "    "), file=sys.stderr)
        print("---", file=sys.stderr)
    sys.stderr.flush()
