"""What the page loads besides gradio: demo.js, and scripts and styles of extensions (host: ui_gradio_extensions.py)."""

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import FileResponse, JSONResponse
from modules import paths, scripts

CONTENT_SECURITY_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob: ws: wss:; frame-ancestors 'self'; object-src 'none'"
)
"""Scripts and styles come from here, pictures from here or from the page itself: never from the internet."""

_TAGS = {
    ".css": '<link rel="stylesheet" href="{}">',
    ".js": '<script src="{}"></script>',
    ".mjs": '<script type="module" src="{}"></script>',
}


def _files() -> dict[str, Path]:
    """Page files by the name they are served under."""
    files = {file.name: file for file in sorted((Path(paths.script_path) / "page").iterdir())}
    for pattern in ("javascript/*.js", "javascript/*.mjs", "style.css"):
        files |= {f"{folder.name}/{file.name}": file for folder, file in scripts.list_scripts(pattern)}
    return files


def page_head() -> str:
    """HTML for the page's head."""
    files = _files().items()
    return "".join(_TAGS[file.suffix].format(f"/page/{name}?{file.stat().st_mtime}") for name, file in files)


def add_routes(app: FastAPI) -> None:
    """/page/NAME: a look-up in the list, never a path. And the policy that keeps the page at home."""

    @app.get("/page/{name:path}", response_model=None)
    def page_file(name: str) -> Any:
        file = _files().get(name)
        if file is None:
            return JSONResponse(status_code=404, content={"detail": "Not Found"})
        return FileResponse(str(file), media_type="text/css" if file.suffix == ".css" else "text/javascript")

    @app.middleware("http")
    async def stay_at_home(request: Any, call_next: Any) -> Any:
        response = await call_next(request)
        response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
        return response
