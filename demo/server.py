"""Serves the miniature WebUI on this machine's loopback address."""

import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"


class Server:
    """A running miniature WebUI. Only one at a time in a process: the host it mimics is made of globals."""

    _running: "Server | None" = None

    def __init__(self, app: Any, listener: socket.socket) -> None:
        import uvicorn

        self.app = app
        self.url = f"http://{HOST}:{listener.getsockname()[1]}"
        """address without a slash at the end"""
        self._listener = listener
        self._uvicorn = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2))
        self._thread = threading.Thread(
            target=self._uvicorn.run, kwargs={"sockets": [listener]}, name="demo-server", daemon=True
        )

    def _start(self) -> None:
        self._thread.start()
        while not self._uvicorn.started:
            if not self._thread.is_alive():
                raise RuntimeError("The server of the miniature WebUI did not start; its log tells why.")
            time.sleep(0.02)
        Server._running = self

    def wait(self) -> None:
        """Blocks until the server ends or the user presses Ctrl+C."""
        while self._thread.is_alive():
            self._thread.join(timeout=0.5)

    def close(self) -> None:
        """Stops serving; the address is free afterwards."""
        self._uvicorn.should_exit = True
        self._thread.join(timeout=10)
        self._listener.close()
        Server._running = None

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()


def start(argv: Sequence[str] = ()) -> Server:
    """Starts a miniature WebUI in this process, with the arguments of `python -m demo`; `--port 0` takes any free port.

    Raises RuntimeError if one is running already, SystemExit if the arguments are wrong, and what the loading of the
    model raises.
    """
    if Server._running is not None:
        raise RuntimeError("A miniature WebUI runs in this process already: close it first.")
    folder = str(Path(__file__).resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)  # makes demo/modules the host's `modules`
    from modules import initialize
    from modules.shared_cmd_options import cmd_opts

    initialize.initialize(list(argv))
    server = Server(_make_app(api_only=cmd_opts.api_only), _listen(cmd_opts.port))
    server._start()
    return server


def _listen(port: int) -> socket.socket:
    """A socket on `port`, or on the next free one."""
    for candidate in [port] if port == 0 else range(port, min(port + 100, 65536)):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, candidate))
            listener.listen(128)
            return listener
        except OSError:
            listener.close()
    raise RuntimeError(f"No free port from {port} on: choose another with --port.")


def _make_app(api_only: bool) -> Any:
    """The FastAPI app: first the API, then what extensions add, then the page."""
    from fastapi import FastAPI
    from modules import gradio_compat, paths_internal, script_callbacks, ui, ui_head
    from modules.api.api import Api

    app = FastAPI(title="Miniature WebUI")
    gradio_compat.install(ui_head.page_head)
    blocks = ui.create_ui()
    Api(app)
    ui_head.add_routes(app)
    script_callbacks.call("app_started", None if api_only else blocks, app)
    if not api_only:
        gradio_compat.mount(app, blocks, allowed_paths=[paths_internal.data_path])
    return app
