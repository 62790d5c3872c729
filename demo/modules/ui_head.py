"""What the page loads besides gradio: demo.js, and scripts and styles of extensions (host: ui_gradio_extensions.py)."""

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import FileResponse, JSONResponse
from modules import paths_internal, scripts

CONTENT_SECURITY_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob: ws: wss:; frame-ancestors 'self'; object-src 'none'"
)
"""Scripts and styles come from here, pictures from here or from the page itself: never from the internet."""


def _files() -> dict[str, Path]:
    """Page files by the name they are served under."""
    files = {name: Path(paths_internal.script_path) / "page" / name for name in ("demo.js", "style.css")}
    for suffix in (".js", ".mjs"):
        for folder, file in scripts.list_scripts("javascript", suffix):
            files[f"{Path(folder).name}/{file.name}"] = file
    for name in scripts.list_files_with_name("style.css"):
        files[f"{Path(name).parent.name}/style.css"] = Path(name)
    return files


def page_head() -> str:
    """HTML for the page's head."""
    parts = []
    for name, file in _files().items():
        url = f"/page/{name}?{file.stat().st_mtime}"
        if file.suffix == ".css":
            parts.append(f'<link rel="stylesheet" href="{url}">')
        else:
            kind = ' type="module"' if file.suffix == ".mjs" else ""
            parts.append(f'<script{kind} src="{url}"></script>')
    return "".join(parts)


def add_routes(app: FastAPI) -> None:
    """/page/NAME: a look-up in the list, never a path. And the policy that keeps the page at home."""
    types = {".js": "text/javascript", ".mjs": "text/javascript", ".css": "text/css"}

    @app.get("/page/{name:path}", response_model=None)
    def page_file(name: str) -> Any:
        file = _files().get(name)
        if file is None:
            return JSONResponse(status_code=404, content={"detail": "Not Found"})
        return FileResponse(str(file), media_type=types[file.suffix])

    @app.middleware("http")
    async def stay_at_home(request: Any, call_next: Any) -> Any:
        response = await call_next(request)
        response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
        return response
