"""What the extension adds to the WebUI's HTTP API."""

from __future__ import annotations

from typing import Any

from fastapi import Body, HTTPException

from lib_oms.errors import OMSError
from lib_oms.settings import json_schema
from lib_oms.webui import host, preview_request
from lib_oms.webui.preview import preview

SETTINGS_PATH = "/oms/v1/settings"
PREVIEW_PATH = "/oms/v1/preview"


def register(demo: Any, app: Any) -> None:
    """Adds the routes to `app`, the host's FastAPI; a callback of on_app_started.

    Without models of pydantic, whose two generations declare them differently.
    """
    guards = host.api_guards(app)
    if guards is None:
        return
    for path, method, answer, summary in (
        (SETTINGS_PATH, "GET", json_schema, "Settings' JSON schema"),
        (PREVIEW_PATH, "POST", _preview, "What the step asks for, for one seed, without making a picture"),
    ):
        app.add_api_route(path, answer, methods=[method], response_model=None, summary=summary, dependencies=guards)


def _preview(body: Any = Body(None)) -> dict[str, Any]:  # noqa: B008  FastAPI's way
    """422: the request itself is wrong; 409: with what the WebUI has, generating would fail, too."""
    try:
        wanted, settings = preview_request.read(body)
    except OMSError as error:
        raise HTTPException(422, str(error)) from error
    try:
        return preview(wanted, settings).as_json()
    except OMSError as error:
        raise HTTPException(409, str(error)) from error
