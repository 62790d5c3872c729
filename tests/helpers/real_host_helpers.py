"""Starts a WebUI that is installed on this machine, with this repository linked in as an extension.

Environment variables name it:

OMS_WEBUI_DIR     the WebUI's folder (where launch.py is)
OMS_WEBUI_PYTHON  its interpreter; if not given, the one in the folder's venv
OMS_WEBUI_ARGS    more of its command line, such as "--ckpt FILE --no-half"

The WebUI's own settings are read and never written: the copies that it works with lie in a temporary folder. What
the extension's install.py does, it does (A1111 gets diffusers). Afterwards the links are gone.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from extension_helpers import ROOT, WebUI, free_port
from live_bytes import live_bytes
from safetensors.torch import save_file

START_SECONDS = 900

WATCHER = '''
import gc
import os
from pathlib import Path

import gradio as gr
import torch
from modules import script_callbacks, scripts, shared
from safetensors.torch import save_file

FOLDER = Path(os.environ["OMS_WATCHED"])
WATCHING = {"armed": False, "once": False, "batch": 0, "count": 0}


def first_call(params):
    if not WATCHING["armed"]:
        return
    WATCHING["armed"] = False
    batch = WATCHING["batch"]
    level = params.sigma.reshape(-1)[:1]
    seen = {"x": params.x[:batch].float().cpu().contiguous(), "level": level.float().cpu().contiguous()}
    save_file(seen, FOLDER / "part")
    (FOLDER / "part").rename(FOLDER / f"{WATCHING['count']:04d}.safetensors")
    WATCHING["count"] += 1
    shared.state.skipped = WATCHING["once"]


def add_routes(_, app):
    """Bytes of all tensors that are alive, reachable or not; from the first call on nothing is collected any more."""

    @app.get("/watcher/live-bytes")
    def count():
        gc.disable()
        gc.collect = lambda *args: 0
        return live_bytes()


script_callbacks.on_cfg_denoiser(first_call)
script_callbacks.on_app_started(add_routes)


class Watcher(scripts.Script):
    def title(self):
        return "Watcher"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        return [gr.Textbox("", label="Watcher state")]

    def process_before_every_sampling(self, p, state, **kwargs):
        WATCHING.update(armed=True, once=state == "one call is enough", batch=len(kwargs["noise"]))
        if state == "modified noise":
            p.modified_noise = -2 * kwargs["noise"]


'''
WATCHER += inspect.getsource(live_bytes)


def folder() -> Path | None:
    """The WebUI that the environment names."""
    named = os.environ.get("OMS_WEBUI_DIR")
    return Path(named).resolve() if named else None


def python(webui: Path) -> str:
    """The interpreter to start it with."""
    named = os.environ.get("OMS_WEBUI_PYTHON")
    own = webui / "venv" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    return named or str(own)


class RealWebUI(WebUI):
    """A running A1111, Forge or relative; the same face as the miniature one."""

    def __init__(self, temporary: Path, models: Path, **options: Any) -> None:
        self._options = options  # that its config.json has besides its own
        webui = folder()
        assert webui is not None
        assert (webui / "launch.py").is_file(), f"OMS_WEBUI_DIR={webui} holds no launch.py: it is no WebUI"
        self.folder = temporary
        self.watched = temporary / "watched"
        self.watched.mkdir(parents=True)
        watcher = temporary / "watcher"
        (watcher / "scripts").mkdir(parents=True)
        (watcher / "scripts" / "watcher.py").write_text(WATCHER, encoding="utf-8")
        self._log = temporary / "log.txt"
        self._params = webui / "params.txt"
        self._kept_params = self._params.read_bytes() if self._params.is_file() else None
        self._links = contextlib.ExitStack()
        try:
            # Scripts run in the order of these names: the watcher's hooks come first.
            for name, target in (("oms-under-test", ROOT), ("a-watcher-of-oms", watcher)):
                self._links.enter_context(_link(webui / "extensions" / name, target))
            self._start(webui, models)
        except BaseException:
            self.close()
            raise

    def _start(self, webui: Path, models: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        settings = self.folder / "config.json"
        own = webui / "config.json"
        kept = json.loads(own.read_text(encoding="utf-8")) if own.is_file() else {}
        kept["live_previews_enable"] = False  # which hosts download a network for
        kept |= self._options
        kept.setdefault("VERSION_UID", "PY313")  # without it Forge Neo takes this for an old one's, and asks to go on
        settings.write_text(json.dumps(kept), encoding="utf-8")
        arguments = [
            *("--api", "--port", str(port), "--oms-models-dir", str(models)),
            *("--ui-settings-file", str(settings), "--ui-config-file", str(self.folder / "ui-config.json")),
            *("--lora-dir", str(_write_loras(self.folder / "Lora"))),
            *shlex.split(os.environ.get("OMS_WEBUI_ARGS", "")),
        ]
        environment = {
            **{name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "COMMANDLINE_ARGS")},
            "OMS_WATCHED": str(self.watched),
            "GRADIO_ANALYTICS_ENABLED": "False",
            "SD_WEBUI_RESTARTING": "1",  # opens no browser
            "PYTHONUNBUFFERED": "1",
        }
        with self._log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [python(webui), "launch.py", *arguments],
                cwd=webui,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._wait()

    def _wait(self) -> None:
        give_up = time.monotonic() + START_SECONDS
        while time.monotonic() < give_up and self._process.poll() is None:
            # Asked earlier, hosts answer before they are ready, or fail to start: they add to an app that runs already.
            if "Startup time: " in self.console:
                self.get("/oms/v1/settings").raise_for_status()
                return
            time.sleep(1)
        raise RuntimeError(f"the WebUI did not start:\n{self.console[-6000:]}")

    @property
    def console(self) -> str:
        """All it has printed."""
        return self._log.read_text(encoding="utf-8", errors="replace") if self._log.is_file() else ""

    @property
    def on_cpu(self) -> bool:
        return "error" in json.dumps(self.get("/sdapi/v1/memory").json().get("cuda", {}))

    def close(self) -> None:
        process = getattr(self, "_process", None)
        try:
            if process is not None and process.poll() is None:
                process.terminate()
                try:
                    process.wait(timeout=30)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait(timeout=30)
        finally:
            self._links.close()
            if self._kept_params is not None:
                self._params.write_bytes(self._kept_params)


LORA, LORA_SD2 = "oms-test", "oms-test-sd2"


def _write_loras(folder: Path) -> Path:
    """LoRAs of rank 4, strong enough to be seen: of CLIP-L, for SD1.x ("te") and SDXL ("te1"), and of SD2.x's ViT-H."""
    folder.mkdir()
    _write_lora(folder / f"{LORA}.safetensors", 12, 768, {"te": ["mlp_fc1"], "te1": ["mlp_fc1"]})
    attention = [f"self_attn_{part}_proj" for part in ("q", "k", "v", "out")]
    _write_lora(folder / f"{LORA_SD2}.safetensors", 23, 1024, {"te": ["mlp_fc1", *attention]})
    return folder


def _write_lora(file: Path, layers: int, width: int, parts: dict[str, list[str]]) -> None:
    tensors, random = {}, torch.Generator().manual_seed(0)
    for layer, name in itertools.product(range(layers), parts):
        for part in parts[name]:
            key = f"lora_{name}_text_model_encoder_layers_{layer}_{part}"
            tensors[f"{key}.lora_down.weight"] = torch.randn(4, width, generator=random) / 28
            tensors[f"{key}.lora_up.weight"] = torch.randn(4 * width if "mlp" in part else width, 4, generator=random)
            tensors[f"{key}.alpha"] = torch.tensor(4.0)
    save_file(tensors, file)


@contextlib.contextmanager
def _link(place: Path, target: Path) -> Iterator[None]:
    if place.is_symlink():  # of a run that was killed
        place.unlink()
    place.symlink_to(target, target_is_directory=True)
    try:
        yield
    finally:
        place.unlink(missing_ok=True)
