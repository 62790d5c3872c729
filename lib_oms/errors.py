"""The errors a person is meant to read: what was wrong, what is allowed, what to do."""

import re

_no_text = re.compile(r"[\ud800-\udfff]")


def readable(text: str) -> str:
    """`text` with U+FFFD for bytes in files' names that are not UTF-8: a page with one of them could not be sent."""
    return _no_text.sub("\ufffd", text)


class OMSError(ValueError):
    """Anything One More Step refuses or fails at, in words a person can act on."""

    def __str__(self) -> str:
        # By these words Forge Neo (is_oom) knows errors of its own sampling: it then synchronizes a GPU, which ends a
        # server that has none. They may have come from an error that a message quotes, a file's name or a request.
        return re.sub("(out) (of) (memory)", r"\1-\2-\3", readable(super().__str__()), flags=re.IGNORECASE)


class ModuleFileError(OMSError):
    """A file or folder that is not a whole, trustworthy OMS module or text encoder."""


class SettingError(OMSError):
    """A setting of the wrong type or out of its range; names the setting, the value and what is allowed."""


class DownloadError(OMSError):
    """A download that did not come to its end: no network, a server's refusal, no disk space, wrong content."""


class Cancelled(DownloadError):  # noqa: N818
    """A download that a person ended."""
