"""Lines for standard output, which may know fewer letters than the names of files hold."""

from __future__ import annotations

import sys


def say(text: str) -> None:
    """Prints a line. What standard output cannot show stands there as its number, such as \\u6697."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))
