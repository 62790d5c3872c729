"""Brings the miniature WebUI up, and serves it on this machine's loopback address (host file: webui.py)."""

import socket
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"


class Server:
    """A running miniature WebUI. Only one at a time in a process: the host it mimics is made of globals."""

    running: "Server | None" = None

    def __init__(self, app: Any, listener: socket.socket) -> None:
        import uvicorn

        self.url = f"http://{HOST}:{listener.getsockname()[1]}"
        """address without a slash at the end"""
        self._listener = listener
        self._uvicorn = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2))
        self._thread = threading.Thread(target=self._uvicorn.run, args=([listener],), name="demo-server", daemon=True)
        self._thread.start()
        while not self._uvicorn.started:
            if not self._thread.is_alive():
                raise RuntimeError("The server of the miniature WebUI did not start; its log tells why.")
            time.sleep(0.02)
        Server.running = self

    def wait(self) -> None:
        """Blocks until the server ends or the user presses Ctrl+C."""
        while self._thread.is_alive():
            self._thread.join(timeout=0.5)

    def close(self) -> None:
        """Stops serving; the address is free afterwards."""
        self._uvicorn.should_exit = True
        self._thread.join(timeout=10)
        self._listener.close()
        Server.running = None

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()


def start(argv: Sequence[str] = ()) -> Server:
    """Starts a miniature WebUI in this process, with the arguments of `python -m demo`; `--port 0` takes any free port.

    Modules of the host stay loaded from one to the next, as on Reload UI. Raises RuntimeError if one is running
    already, SystemExit if the arguments are wrong, and what the loading of the model raises.
    """
    if Server.running is not None:
        raise RuntimeError("A miniature WebUI runs in this process already: close it first.")
    folder = str(Path(__file__).resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)  # makes demo/modules the host's `modules`
    from modules import paths, shared_cmd_options

    shared_cmd_options.use(list(argv))
    paths.use(shared_cmd_options.cmd_opts.data_dir)
    from modules import call_queue, scripts, sd_models, shared

    shared.load_options()
    shared.state.__init__()
    sd_models.list_models()
    scripts.load_scripts()
    sd_models.reload_model_weights()
    # AUTOMATIC1111's way (initialize_util.py); Forge loads a checkpoint only when the next picture is made.
    reload = call_queue.wrap_queued_call(sd_models.reload_model_weights)
    shared.opts.data_labels["sd_model_checkpoint"].onchange = reload
    return Server(_make_app(shared.cmd_opts.api_only), _listen(shared.cmd_opts.port))


def _listen(port: int) -> socket.socket:
    """A socket on `port`, or on the next free one."""
    for candidate in [port] if port == 0 else range(port, min(port + 100, 65536)):
        with suppress(OSError):
            return socket.create_server((HOST, candidate))
    raise RuntimeError(f"No free port from {port} on: choose another with --port.")


def _make_app(api_only: bool) -> Any:
    """The FastAPI app: first the API, then what extensions add, then the page."""
    from fastapi import FastAPI
    from modules import gradio_compat, paths, script_callbacks, ui, ui_head
    from modules.api.api import Api

    app = FastAPI(title="Miniature WebUI")
    gradio_compat.install(ui_head.page_head)
    blocks = ui.create_ui()
    Api(app)
    ui_head.add_routes(app)
    script_callbacks.call("app_started", None if api_only else blocks, app)
    if not api_only:
        gradio_compat.mount(app, blocks, allowed_paths=[paths.data_path])
    return app
