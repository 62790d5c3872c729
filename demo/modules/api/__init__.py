"""The HTTP API below /sdapi/v1."""
