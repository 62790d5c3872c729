"""The errors a person is meant to read: what was wrong, what is allowed, what to do."""


class OMSError(ValueError):
    """Anything One More Step refuses or fails at, in words a person can act on."""


class ModuleFileError(OMSError):
    """A file or folder that is not a whole, trustworthy OMS module or text encoder."""


class SettingError(OMSError):
    """A setting of the wrong type or out of its range; names the setting, the value and what is allowed."""


class DownloadError(OMSError):
    """A download that did not come to its end: no network, a server's refusal, no disk space, wrong content."""


class Cancelled(DownloadError):  # noqa: N818
    """A download that a person ended."""
