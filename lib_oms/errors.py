"""The errors a person is meant to read: what was wrong, what is allowed, what to do."""


class OMSError(ValueError):
    """Anything One More Step refuses or fails at, in words a person can act on."""


class ModuleFileError(OMSError):
    """A file or folder that is not a whole, trustworthy OMS module or text encoder."""


class SettingError(OMSError):
    """A setting of the wrong type or out of its range; names the setting, the value and what is allowed."""
