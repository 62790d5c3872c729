"""A running WebUI for the extension's tests: the miniature one, with a second extension in it that watches.

The watcher writes down what reaches the denoiser first in every batch, and can put the host into states that are rare
in life: a Zero Terminal SNR schedule, unknown latents, noise that another extension has replaced, foreign samplers.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import torch
from PIL import Image
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
STEPS = 3
SIZE = 64

WATCHER = '''
import os
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import torch
from modules import script_callbacks, scripts, sd_samplers, sd_samplers_impl, shared
from modules.sd_samplers_common import SamplerData
from modules.sd_samplers_kdiffusion import KDiffusionSampler
from safetensors.torch import save_file

FOLDER = Path(os.environ["OMS_WATCHED"])
WATCHING = {"armed": False, "count": 0}


class OwnSigmas(KDiffusionSampler):
    """As DPM fast and DPM adaptive: scaled by the schedule's first sigma, started at the model's largest."""

    def sample(self, p, x, conditioning, unconditional_conditioning, steps=None, image_conditioning=None):
        first = self.get_sigmas(p, p.steps)[0]
        x = x * (torch.sqrt(1 + first**2) if shared.opts.sgm_noise_multiplier else first)
        self.initialize(p)
        text = {"cond": conditioning, "uncond": unconditional_conditioning, "cond_scale": p.cfg_scale}
        model = lambda x, sigma: self.model_wrap_cfg(x, sigma, **text)
        largest = self.model_wrap.sigmas[-1].item()
        return self.launch_sampling(1, lambda: self.func(model, x, sigma_min=0.03, sigma_max=largest))


def own_sigmas(model, x, sigma_min, sigma_max):
    return model(x, torch.tensor(sigma_max))


class LateSchedule(KDiffusionSampler):
    """As reForge's AlterSampler: sample() tells it the schedule, and before that it takes another for granted."""

    scheduler_name = None

    def get_sigmas(self, p, steps):
        if self.scheduler_name is None:
            self.scheduler_name = "Normal"
        asked, p.scheduler = p.scheduler, self.scheduler_name
        try:
            return super().get_sigmas(p, steps)
        finally:
            p.scheduler = asked

    def sample(self, p, x, conditioning, unconditional_conditioning, steps=None, image_conditioning=None):
        self.scheduler_name = p.scheduler
        return super().sample(p, x, conditioning, unconditional_conditioning, steps, image_conditioning)


class Mute(KDiffusionSampler):
    """Does not say where it starts."""

    get_sigmas = None

    def sample(self, p, x, conditioning, unconditional_conditioning, steps=None, image_conditioning=None):
        self.initialize(p)
        text = {"cond": conditioning, "uncond": unconditional_conditioning, "cond_scale": p.cfg_scale}
        return self.launch_sampling(1, lambda: self.model_wrap_cfg(x, torch.tensor(1.0), **text))


class OwnWay(Mute):
    """Has a method of the name, but not the host's."""

    def get_sigmas(self, first, last, rho):
        return None


for name, cls, func in (
    ("Own sigmas", OwnSigmas, own_sigmas),
    ("Late schedule", LateSchedule, sd_samplers_impl.euler),
    ("Mute", Mute, own_sigmas),
    ("Own way", OwnWay, own_sigmas),
):
    data = SamplerData(name, lambda model, cls=cls, func=func: cls(func, model), [], {})
    if name not in sd_samplers.all_samplers_map:
        sd_samplers.all_samplers.append(data)
        sd_samplers.all_samplers_map[name] = data


def first_call(params):
    if not WATCHING["armed"]:
        return
    WATCHING["armed"] = False
    batch = len(params.x) // 2
    seen = {"x": params.x[:batch].float().contiguous(), "level": params.sigma[:batch].float().contiguous()}
    # Under its final name only when it is whole.
    save_file(seen, FOLDER / "part")
    (FOLDER / "part").rename(FOLDER / f"{WATCHING['count']:04d}.safetensors")
    WATCHING["count"] += 1
    shared.state.skipped = WATCHING["once"]


script_callbacks.on_cfg_denoiser(first_call)


class Watcher(scripts.Script):
    def title(self):
        return "Watcher"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        return [gr.Textbox("", label="Watcher state")]

    def before_process(self, p, state):
        model = shared.sd_model
        self.put_back(model)  # a request that failed did not
        if not state:
            return
        model.kept_by_watcher = model.alphas_cumprod, model.oms_latents, model.is_sdxl
        if state == "zero terminal snr":
            root = model.alphas_cumprod.sqrt()
            root = (root - root[-1]) * root[0] / (root[0] - root[-1])
            model.alphas_cumprod = torch.cat([root[:-1] ** 2, torch.tensor([4.8973451890853435e-08])])
        if state == "unknown latents":
            model.oms_latents = None
        if state == "flow predictor":  # as Forge Neo gives an SDXL whose file is named "rectified"
            predictor = SimpleNamespace(prediction_type="const")
            model.oms_latents = None
            model.is_sdxl = True
            model.forge_objects = SimpleNamespace(unet=SimpleNamespace(model=SimpleNamespace(predictor=predictor)))
        if state.startswith("latents "):  # as another checkpoint, of another family, would declare
            model.oms_latents = state.partition(" ")[2]

    def process(self, p, state):
        if state == "dynamic prompts":  # as extensions that fill in wildcards do
            p.all_prompts = [f"{prompt}, number {i}" for i, prompt in enumerate(p.all_prompts)]

    def process_before_every_sampling(self, p, state, **kwargs):
        WATCHING.update(armed=True, once=state == "one call is enough")
        if state == "modified noise":
            p.modified_noise = -2 * kwargs["noise"]

    def postprocess(self, p, processed, state):
        self.put_back(shared.sd_model)

    def put_back(self, model):
        if getattr(model, "kept_by_watcher", None):
            model.alphas_cumprod, model.oms_latents, model.is_sdxl = model.kept_by_watcher
            model.kept_by_watcher = model.forge_objects = None
'''


@dataclass(frozen=True)
class Seen:
    """First call of the denoiser in one batch: latents [B, 4, h, w], and the sigma or timestep it was told."""

    x: torch.Tensor
    level: float


@dataclass(frozen=True)
class Made:
    """The answer to one request."""

    images: list[str]
    info: dict[str, Any]
    seen: list[Seen]

    @property
    def pixels(self) -> list[bytes]:
        """The pictures without what is written in their files."""
        return [Image.open(io.BytesIO(base64.b64decode(image))).convert("RGB").tobytes() for image in self.images]

    @property
    def infotext(self) -> str:
        return self.info["infotexts"][0]


class RequestFailed(Exception):  # noqa: N818
    """HTTP 500 with the host's body."""


def told(answer: dict[str, Any]) -> str:
    """What a client is told of an error: hosts call it "errors", "message" (Forge with its page) or, of errors that
    they have foreseen, "detail".
    """
    return answer.get("errors") or answer.get("message") or answer["detail"]


def flat(color: str, mode: str = "RGB") -> str:
    """A picture of one color in base64."""
    file = io.BytesIO()
    Image.new(mode, (SIZE, SIZE), color).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


SILENT = ("Mute", "Own way")
"""The watcher's samplers that do not tell where they start."""


class WebUI:
    """The miniature WebUI in this process, with this repository as an extension and the watcher as another."""

    def __init__(self, folder: Path, host_style: str, model: Path, *extra: str, extension: Path = ROOT) -> None:
        arguments = self._prepare(folder, host_style, model, extension)
        from demo import server  # not at the top: the newest libraries' environment has no gradio

        self._server = server.start([*arguments, "--port", "0", *extra])
        self.url = self._server.url

    def _prepare(self, folder: Path, host_style: str, model: Path, extension: Path) -> list[str]:
        """Makes the folders, and the command line that all ways of starting share."""
        self.folder = folder
        self.watched = folder / "watched"
        self.watched.mkdir(parents=True)
        os.environ["OMS_WATCHED"] = str(self.watched)
        watcher = folder / "a-watcher"
        (watcher / "scripts").mkdir(parents=True)
        (watcher / "scripts" / "watcher.py").write_text(WATCHER, encoding="utf-8")
        own_flags = ["--oms-models-dir", str(model.parent)] if (extension / "preload.py").exists() else []
        return [
            *("--host-style", host_style, "--model", str(model), "--data-dir", str(folder / "data")),
            *own_flags,
            *("--extension", str(watcher), "--extension", str(extension)),
        ]

    def close(self) -> None:
        self._server.close()

    def get(self, path: str) -> requests.Response:
        return requests.get(self.url + path, timeout=60)

    def options(self, **values: Any) -> None:
        requests.post(f"{self.url}/sdapi/v1/options", json=values, timeout=60).raise_for_status()

    def txt2img(self, *oms: Any, **fields: Any) -> Made:
        """One request; `oms` are the extension's arguments, `scripts` other always-on scripts with theirs. Raises
        RequestFailed with the host's message.
        """
        return self._generate("txt2img", oms, **fields)

    def img2img(self, *oms: Any, picture: str = "#000000", **fields: Any) -> Made:
        """The same for img2img at denoising strength 1, by default, from a picture of one color."""
        own = {"init_images": [flat(picture)], "denoising_strength": 1, "sampler_name": "Euler"}
        return self._generate("img2img", oms, **{**own, **fields})

    def _generate(
        self,
        route: str,
        oms: tuple[Any, ...],
        *,
        state: str = "",
        scripts: dict[str, Any] | None = None,
        **fields: Any,
    ) -> Made:
        body = {
            **{"prompt": "a red circle", "steps": STEPS, "width": SIZE, "height": SIZE, "seed": 7, "cfg_scale": 3},
            **fields,
            "alwayson_scripts": {"Watcher": {"args": [state]}}
            | {name: {"args": args} for name, args in (scripts or {}).items()}
            | ({"one more step": {"args": list(oms)}} if oms else {}),
        }
        before = self._count()
        response = requests.post(f"{self.url}/sdapi/v1/{route}", json=body, timeout=300)
        if response.status_code != 200:
            assert response.status_code == 500, response.text
            raise RequestFailed(told(response.json()))
        answer = response.json()
        return Made(answer["images"], json.loads(answer["info"]), self._seen(before))

    def _count(self) -> int:
        return len(list(self.watched.glob("*.safetensors")))

    def _seen(self, start: int) -> list[Seen]:
        files = sorted(self.watched.glob("*.safetensors"))[start:]
        tensors = [load_file(file) for file in files]
        return [Seen(t["x"], float(t["level"][0])) for t in tensors]


class WebUIProcess(WebUI):
    """The same as a process of its own, which loads `extension` afresh."""

    def __init__(self, folder: Path, host_style: str, model: Path, extension: Path) -> None:
        arguments = self._prepare(folder, host_style, model, extension)
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._log = folder / "log.txt"
        with self._log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "demo", *arguments, "--port", str(port)],
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._wait()

    def _wait(self) -> None:
        give_up = time.monotonic() + 600
        while time.monotonic() < give_up and self._process.poll() is None:
            with contextlib.suppress(requests.ConnectionError):
                if self.get("/sdapi/v1/samplers").ok:
                    return
            time.sleep(0.3)
        self.close()
        raise RuntimeError(f"the demo did not start:\n{self._log.read_text(encoding='utf-8')[-4000:]}")

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=60)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
