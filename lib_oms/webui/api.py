"""What the extension adds to the WebUI's HTTP API."""

from __future__ import annotations

from typing import Any

from lib_oms.settings import json_schema
from lib_oms.webui import host

SETTINGS_PATH = "/oms/v1/settings"


def register(demo: Any, app: Any) -> None:
    """Adds the routes to `app`, the host's FastAPI; a callback of on_app_started.

    Without models of pydantic, whose two generations declare them differently.
    """
    guards = host.api_guards(app)
    if guards is None:
        return
    app.add_api_route(
        SETTINGS_PATH,
        json_schema,
        methods=["GET"],
        response_model=None,
        summary="Settings' JSON schema",
        dependencies=guards,
    )
