"""The right x_T in every sampler with every schedule: what reaches the denoiser first is the closed form."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler
from extension_helpers import SILENT, WebUI

from lib_oms.module import OMSModule

pytest.importorskip("gradio")

MODULE = "untrained"
TIMESTEP_SAMPLERS = ["DDIM", "PLMS", "UniPC"]
# The last two stand for DPM adaptive and for those of reForge that are told the schedule late.
SIGMA_SAMPLERS = ["DPM++ 2M", "Euler a", "Euler", "Heun", "LCM", "Own sigmas", "Late schedule"]
VARIANTS = {
    "plain": {},
    "batch of 3": {"batch_size": 3},
    "odd size": {"width": 72, "height": 104},
    "subseed": {"subseed": 3, "subseed_strength": 0.4, "batch_size": 2},
    "seed resize": {"seed_resize_from_h": 128, "seed_resize_from_w": 40},
}


@pytest.fixture(autouse=True)
def _default_options(webui: WebUI) -> Iterator[None]:
    yield
    webui.options(sgm_noise_multiplier=False, sigma_max=0.0)


@pytest.fixture(scope="module")
def model(webui: WebUI) -> Path:
    return webui.folder.parent / "models" / MODULE


@pytest.fixture(scope="module")
def alphas_cumprod(model: Path) -> torch.Tensor:
    return DDIMScheduler.from_pretrained(model / "scheduler").alphas_cumprod


@pytest.fixture(scope="module")
def start(webui: WebUI, model: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """By variant, the noise that the host draws (DDIM takes it unscaled) and psi's x0hat for it."""
    module = OMSModule.from_pretrained(model, dtype=torch.float32)
    result = {}
    for name, fields in VARIANTS.items():
        noise = webui.txt2img(**fields, sampler_name="DDIM", steps=3).seen[0].x
        result[name] = noise, -module.predict_v(noise, ["night"])[0]
    return result


def off(x: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference in shares of the latent's scale."""
    assert x.shape == expected.shape
    return float((x - expected).abs().max() / expected.std())


def schedules(webui: WebUI) -> list[str]:
    return [scheduler["label"] for scheduler in webui.get("/sdapi/v1/schedulers").json()]


def test_the_matrix_is_whole(webui: WebUI) -> None:
    """A sampler that is new in the miniature WebUI must be put into one of the lists above."""
    offered = {sampler["name"] for sampler in webui.get("/sdapi/v1/samplers").json()}
    assert offered - {*SILENT} == {*SIGMA_SAMPLERS, *TIMESTEP_SAMPLERS}
    assert len(schedules(webui)) == 10


@pytest.mark.parametrize("sgm", [False, True], ids=["", "sgm"])
@pytest.mark.parametrize("sampler", SIGMA_SAMPLERS)
def test_every_schedule(webui: WebUI, start: dict, sampler: str, sgm: bool) -> None:
    webui.options(sgm_noise_multiplier=sgm)
    noise, x0hat = start["plain"]
    wrong = {}
    for schedule in schedules(webui):
        (seen,) = webui.txt2img(True, MODULE, "night", sampler_name=sampler, scheduler=schedule, steps=2).seen
        error = off(seen.x, x0hat + seen.level * noise)
        if error > 1e-4:
            wrong[schedule] = error
    assert not wrong


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_sampler_whatever_the_noise(
    webui: WebUI, start: dict, alphas_cumprod: torch.Tensor, variant: str
) -> None:
    noise, x0hat = start[variant]
    webui.options(sigma_max=9.0)
    wrong = {}
    for sampler in [*SIGMA_SAMPLERS, *TIMESTEP_SAMPLERS]:
        fields = {"sampler_name": sampler, "scheduler": "Karras", "steps": 4, **VARIANTS[variant]}
        (seen,) = webui.txt2img(True, MODULE, "night", **fields).seen
        if sampler in TIMESTEP_SAMPLERS:
            assert seen.level == {"DDIM": 751, "PLMS": 751, "UniPC": 999}[sampler]
            a = float(alphas_cumprod[int(seen.level)])
            expected = math.sqrt(a) * x0hat + math.sqrt(1 - a) * noise
        else:
            assert seen.level == pytest.approx(14.61 if sampler == "Own sigmas" else 9.0, rel=0.02)
            expected = x0hat + seen.level * noise
        error = off(seen.x, expected)
        if error > 1e-4:
            wrong[sampler] = error
    assert not wrong


@pytest.mark.parametrize(("steps", "timestep"), [(3, 999), (4, 751), (20, 951)])
def test_ddim_s_first_timestep(
    webui: WebUI, start: dict, alphas_cumprod: torch.Tensor, steps: int, timestep: int
) -> None:
    noise, x0hat = start["plain"]
    (seen,) = webui.txt2img(True, MODULE, "night", sampler_name="DDIM", steps=steps).seen
    assert seen.level == timestep
    a = float(alphas_cumprod[timestep])
    assert off(seen.x, math.sqrt(a) * x0hat + math.sqrt(1 - a) * noise) < 1e-4
