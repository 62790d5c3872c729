"""diffusers' pipelines: what reaches the UNet first is the closed form for the scheduler's own first noise level.

The pipelines are real ones of tiny random parts. The expected noise levels are worked out here from the betas of Stable
Diffusion and the time step each scheduler starts with; nothing is asked of the schedulers.
"""

from __future__ import annotations

import copy
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
)
from module_helpers import Forwards, tiny_encoder, tiny_module, write_module
from PIL import Image
from step_helpers import in_place_of_noise
from torch import Tensor
from transformers import CLIPTokenizer

from lib_oms.embedded import XL_MODEL_DIR
from lib_oms.embedded.load import load_pipeline
from lib_oms.errors import OMSError
from lib_oms.given import Style, small_picture, style_of
from lib_oms.module import OMSModule
from lib_oms.pipeline import OneMoreStep, first_step
from lib_oms.step import Directions, low, resized, sigma_of

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
SD = {**BETAS, "steps_offset": 1}
ALPHAS_CUMPROD = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0)
STEPS = 10

# Name -> the scheduler, and the time step it starts with when asked for 10 steps: 999, or 901 where the spacing is
# "leading" with an offset of 1, as Stable Diffusion's own scheduler configs have it.
SCHEDULERS = {
    "DDIM": (DDIMScheduler(**SD, set_alpha_to_one=False, clip_sample=False), 901),
    "DDIM trailing": (DDIMScheduler(**SD, timestep_spacing="trailing", clip_sample=False), 999),
    "DDPM": (DDPMScheduler(**BETAS, steps_offset=1, clip_sample=False), 901),
    "Euler": (EulerDiscreteScheduler(**SD), 999),
    "Euler leading": (EulerDiscreteScheduler(**SD, timestep_spacing="leading"), 901),
    "Euler Karras": (EulerDiscreteScheduler(**SD, use_karras_sigmas=True), 999),
    "Euler a": (EulerAncestralDiscreteScheduler(**SD), 999),
    "Euler a leading": (EulerAncestralDiscreteScheduler(**SD, timestep_spacing="leading"), 901),
    "Heun": (HeunDiscreteScheduler(**SD), 999),
    "LMS": (LMSDiscreteScheduler(**SD), 999),
    "DPM++ 2M": (DPMSolverMultistepScheduler(**SD), 999),
    "DPM++ 2M trailing": (DPMSolverMultistepScheduler(**SD, timestep_spacing="trailing"), 999),
    "DPM++ 2M Karras": (DPMSolverMultistepScheduler(**SD, use_karras_sigmas=True), 999),
    "DEIS": (DEISMultistepScheduler(**SD), 999),
    "UniPC": (UniPCMultistepScheduler(**SD), 999),
    "LCM": (LCMScheduler(**SD), 999),
    "PNDM": (PNDMScheduler(**SD, skip_prk_steps=True, set_alpha_to_one=False), 901),
}


class First:
    """What reaches a UNet first, and how often it runs."""

    def __init__(self, unet: torch.nn.Module) -> None:
        self.latents: Tensor | None = None
        self.calls = 0

        def hook(_module: torch.nn.Module, args: tuple[Any, ...], _kwargs: dict[str, Any]) -> None:
            if self.calls == 0:
                self.latents = args[0].detach().clone()
            self.calls += 1

        self.remove = unet.register_forward_pre_hook(hook, with_kwargs=True).remove


def tiny_unet(cross_attention_dim: int, **more: Any) -> UNet2DConditionModel:
    torch.manual_seed(5)
    config: dict[str, Any] = {
        "sample_size": 8,
        "in_channels": 4,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": cross_attention_dim,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    }
    return UNet2DConditionModel(**{**config, **more}).eval()


def tiny_vae() -> AutoencoderKL:
    torch.manual_seed(6)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    shape = {"block_out_channels": (8, 8), "latent_channels": 4, "norm_num_groups": 4}
    # Without attention, which would look from each of 128 x 128 places at all others.
    return AutoencoderKL(**shape, **blocks, mid_block_add_attention=False).eval()


def build_pipe(folder: Path) -> Any:
    (tower,) = tiny_encoder(folder).towers
    pipe = StableDiffusionPipeline(
        vae=tiny_vae(),
        text_encoder=tower.model,
        tokenizer=CLIPTokenizer.from_pretrained(str(folder / "tokenizer")),
        unet=tiny_unet(tower.width),
        scheduler=copy.deepcopy(SCHEDULERS["DDIM"][0]),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pipes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The one of SD's shape has random weights, that of SDXL's is the trained one."""
    return {"sd": build_pipe(tmp_path_factory.mktemp("sd")), "sdxl": load_pipeline("xl")}


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> dict[str, OMSModule]:
    trained = OMSModule.from_pretrained(XL_MODEL_DIR)
    trained.latents = "sdxl"  # as the published one says
    return {"sd": tiny_module(tmp_path_factory.mktemp("m"), "sd", "openclip"), "sdxl": trained}


@pytest.fixture
def pipe(pipes: dict[str, Any]) -> Any:
    pipes["sd"].scheduler = copy.deepcopy(SCHEDULERS["DDIM"][0])
    return pipes["sd"]


@pytest.fixture
def oms(modules: dict[str, OMSModule]) -> OneMoreStep:
    return OneMoreStep(modules["sd"])


def run(pipe: Any, call: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """(what reaches the UNet first, without the half that guidance adds; the final latents)."""
    seen = First(pipe.unet)
    options = {"num_inference_steps": STEPS, "output_type": "latent", "guidance_scale": 1.0}
    try:
        images = call(**{**options, **kwargs}).images
    finally:
        seen.remove()
    assert seen.latents is not None
    return seen.latents[: len(images)], images


def generator(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def x0hat(module: OMSModule, noise: Tensor, prompts: list[str], scale: float = 1.0, negative: str = "") -> Tensor:
    """The estimate of oms.md, from psi itself."""
    with torch.no_grad():
        v = module.psi(noise, module.text_encoder.encode(prompts))
        if scale != 1.0:
            without = module.psi(noise, module.text_encoder.encode([negative] * len(noise)))
            v = without + scale * (v - without)
    return -v


def closed_form(estimate: Tensor, n: Tensor, timestep: int) -> Tensor:
    """sqrt(a) x0hat + sqrt(1 - a) n: what the UNet sees, whichever form the scheduler's latents have in between."""
    a = float(ALPHAS_CUMPROD[timestep])
    return a**0.5 * estimate + (1 - a) ** 0.5 * n


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_first_latents_are_the_closed_form(
    pipes: dict[str, Any], modules: dict[str, OMSModule], kind: str, name: str
) -> None:
    pipe, module = pipes[kind], modules[kind]
    scheduler, timestep = SCHEDULERS[name]
    pipe.scheduler = copy.deepcopy(scheduler)
    prompts = ["night", "a (bright:1.3) day"]
    first, _ = run(
        pipe,
        lambda **k: OneMoreStep(module)(pipe, **k),
        prompt=prompts,
        oms_guidance_scale=1.5,
        oms_negative_prompt="fog",
        generator=generator(),
    )
    noise = torch.randn(2, *first.shape[1:], generator=generator())
    expected = closed_form(x0hat(module, noise, prompts, 1.5, "fog"), noise, timestep)
    torch.testing.assert_close(first, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("name", "custom", "a"),
    [
        ("Euler", {"timesteps": [950, 500, 100]}, ALPHAS_CUMPROD[950]),
        ("DPM++ 2M", {"timesteps": [950, 500, 100]}, ALPHAS_CUMPROD[950]),
        ("DDPM", {"timesteps": [950, 500, 100]}, ALPHAS_CUMPROD[950]),
        ("LCM", {"timesteps": [759, 499, 259]}, ALPHAS_CUMPROD[759]),
        ("Euler", {"sigmas": [10.0, 5.0, 1.0]}, 1 / 101),
        ("DDIM", {"num_inference_steps": 4}, ALPHAS_CUMPROD[751]),
        ("DDIM", {"num_inference_steps": 20}, ALPHAS_CUMPROD[951]),
        ("LCM", {"num_inference_steps": 4}, ALPHAS_CUMPROD[999]),
    ],
)
def test_the_caller_s_own_steps_decide_the_noise_level(
    pipe: Any, oms: OneMoreStep, name: str, custom: dict[str, Any], a: Any
) -> None:
    pipe.scheduler = copy.deepcopy(SCHEDULERS[name][0])
    first, _ = run(pipe, lambda **k: oms(pipe, **k), prompt="night", generator=generator(), **custom)
    noise = torch.randn(1, 4, 8, 8, generator=generator())
    expected = float(a) ** 0.5 * x0hat(oms.module, noise, ["night"]) + (1 - float(a)) ** 0.5 * noise
    torch.testing.assert_close(first, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["DDIM", "Euler", "Euler a leading", "DPM++ 2M"])
def test_the_noise_is_what_the_pipeline_would_have_drawn(pipe: Any, oms: OneMoreStep, name: str) -> None:
    pipe.scheduler = copy.deepcopy(SCHEDULERS[name][0])
    raw, _ = run(pipe, pipe, prompt=["a", "b"], generator=generator(), height=24, width=16)
    with_oms, _ = run(pipe, lambda **k: oms(pipe, **k), prompt=["a", "b"], generator=generator(), height=24, width=16)
    assert raw.shape == with_oms.shape == (2, 4, 12, 8)
    noise = torch.randn(2, 4, 12, 8, generator=generator())
    if name in ("DDIM", "DPM++ 2M", "Euler a leading"):
        torch.testing.assert_close(raw, noise, rtol=0, atol=1e-5)
    estimate = x0hat(oms.module, noise, ["a", "b"])
    torch.testing.assert_close(with_oms, closed_form(estimate, noise, SCHEDULERS[name][1]), rtol=0, atol=2e-5)


def test_at_eta_zero_the_sampler_s_own_noise_is_not_shifted(pipe: Any, tmp_path: Path) -> None:
    """With a psi that answers 0, x_T is Euler's own start, so the whole ancestral run must come out the same."""
    module = tiny_module(tmp_path)
    torch.nn.init.zeros_(module.psi.conv_out.weight)
    torch.nn.init.zeros_(module.psi.conv_out.bias)
    oms = OneMoreStep(module)
    pipe.scheduler = copy.deepcopy(SCHEDULERS["Euler a"][0])
    _, raw = run(pipe, pipe, prompt="a", generator=generator(), guidance_scale=5.0)
    _, same = run(pipe, lambda **k: oms(pipe, **k), prompt="a", generator=generator(), guidance_scale=5.0)
    torch.testing.assert_close(same, raw, rtol=1e-4, atol=1e-4)
    _, other = run(pipe, lambda **k: oms(pipe, **k), prompt="a", generator=generator(8), guidance_scale=5.0)
    assert (other - raw).abs().max() > 0.1


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_eta_mixes_in_noise_drawn_after_the_first(pipe: Any, oms: OneMoreStep, eta: float) -> None:
    first, _ = run(pipe, lambda **k: oms(pipe, **k), prompt="night", generator=generator(), eta=eta)
    stream = generator()
    noise, fresh = (torch.randn(1, 4, 8, 8, generator=stream) for _ in range(2))
    mixed = (1 - eta**2) ** 0.5 * noise + eta * fresh
    torch.testing.assert_close(first, closed_form(x0hat(oms.module, noise, ["night"]), mixed, 901), rtol=0, atol=2e-5)


def test_a_picture_is_the_same_alone_and_in_a_batch(pipe: Any, oms: OneMoreStep) -> None:
    prompts = ["night", "a " * 80]
    batch, images = run(
        pipe,
        lambda **k: oms(pipe, **k),
        prompt=prompts,
        oms_guidance_scale=2.0,
        eta=0.3,
        num_images_per_prompt=2,
        generator=[generator(seed) for seed in range(4)],
    )
    for i in range(4):
        alone, image = run(
            pipe,
            lambda **k: oms(pipe, **k),
            prompt=prompts[i // 2],
            oms_guidance_scale=2.0,
            eta=0.3,
            generator=generator(i),
        )
        torch.testing.assert_close(alone[0], batch[i], rtol=0, atol=2e-5)
        torch.testing.assert_close(image[0], images[i], rtol=1e-3, atol=1e-3)


def test_the_oms_prompt_is_its_own(pipe: Any, oms: OneMoreStep) -> None:
    noise = torch.randn(2, 4, 8, 8, generator=generator())
    for asked, seen in [("sea", ["sea", "sea"]), (["sea", "sky"], ["sea", "sky"]), (None, ["a", "b"]), ("", ["", ""])]:
        first, _ = run(pipe, lambda **k: oms(pipe, **k), prompt=["a", "b"], oms_prompt=asked, generator=generator())
        torch.testing.assert_close(first, closed_form(x0hat(oms.module, noise, seen), noise, 901), rtol=0, atol=2e-5)


def test_in_the_oms_prompt_the_main_prompt_has_a_name(pipe: Any, oms: OneMoreStep) -> None:
    noise = torch.randn(2, 4, 8, 8, generator=generator())
    asked = {"prompt": ["a", "b"], "oms_prompt": "night, [PROMPT]", "generator": generator()}
    first, _ = run(pipe, lambda **k: oms(pipe, **k), **asked)
    expected = x0hat(oms.module, noise, ["night, a", "night, b"])
    torch.testing.assert_close(first, closed_form(expected, noise, 901), rtol=0, atol=2e-5)
    embeds = pipe.encode_prompt("night", "cpu", 1, False)[0]
    with pytest.raises(OMSError, match=r"no prompt that \[PROMPT\] could stand for"):
        run(pipe, lambda **k: oms(pipe, **k), prompt_embeds=embeds, oms_prompt="[PROMPT], night")


def test_latents_that_are_given_are_the_noise(pipe: Any, oms: OneMoreStep) -> None:
    pipe.scheduler = copy.deepcopy(SCHEDULERS["Euler"][0])
    noise = torch.randn(1, 4, 6, 10)
    first, _ = run(pipe, lambda **k: oms(pipe, **k), prompt="night", latents=noise.clone())
    torch.testing.assert_close(first, closed_form(x0hat(oms.module, noise, ["night"]), noise, 999), rtol=0, atol=2e-5)


def test_prompt_embeds_need_an_oms_prompt(pipe: Any, oms: OneMoreStep) -> None:
    embeds = pipe.encode_prompt("night", "cpu", 1, False)[0]
    with pytest.raises(OMSError, match="give oms_prompt"):
        run(pipe, lambda **k: oms(pipe, **k), prompt_embeds=embeds)
    noise = torch.randn(1, 4, 8, 8, generator=generator())
    first, _ = run(pipe, lambda **k: oms(pipe, **k), prompt_embeds=embeds, oms_prompt="sea", generator=generator())
    torch.testing.assert_close(first, closed_form(x0hat(oms.module, noise, ["sea"]), noise, 901), rtol=0, atol=2e-5)


def test_in_half_precision(oms: OneMoreStep, tmp_path: Path) -> None:
    pipe = build_pipe(tmp_path).to(torch.bfloat16)
    pipe.scheduler = copy.deepcopy(SCHEDULERS["Euler"][0])
    first, _ = run(pipe, lambda **k: oms(pipe, **k), prompt="night", generator=generator())
    raw, _ = run(pipe, pipe, prompt="night", generator=generator())
    assert first.dtype == raw.dtype == torch.bfloat16
    noise = torch.randn(1, 4, 8, 8, generator=generator(), dtype=torch.bfloat16).float()
    expected = closed_form(x0hat(oms.module, noise, ["night"]), noise, 999)
    torch.testing.assert_close(first.float(), expected, rtol=0.02, atol=0.02)


def test_the_pipeline_s_eta_has_another_name(pipe: Any, oms: OneMoreStep) -> None:
    def image(call: Any, **kwargs: Any) -> Tensor:
        return run(pipe, call, prompt="a", generator=generator(), **kwargs)[1]

    def with_oms(**kwargs: Any) -> Any:
        return oms(pipe, **kwargs)

    assert torch.equal(image(with_oms), image(with_oms, sampler_eta=0.0))
    assert not torch.allclose(image(with_oms), image(with_oms, sampler_eta=1.0))


def test_at_scale_one_psi_sees_each_picture_once(pipe: Any, oms: OneMoreStep) -> None:
    psi = Forwards(oms.module.psi)
    run(pipe, lambda **k: oms(pipe, **k), prompt=["a", "b"])
    run(pipe, lambda **k: oms(pipe, **k), prompt=["a", "b"], oms_guidance_scale=2.0)
    psi.remove()
    assert psi == [2, 4]


def test_pictures_come_out_of_a_loaded_module(pipe: Any, tmp_path: Path) -> None:
    loaded = OneMoreStep.from_pretrained(write_module(tmp_path / "m")).to("cpu")
    result = loaded(pipe, prompt="night", num_inference_steps=2, generator=generator(), height=16, width=24)
    assert result.images[0].size == (24, 16)
    as_tuple = loaded(pipe, "night", num_inference_steps=2, return_dict=False, output_type="latent")
    assert as_tuple[0].shape == (1, 4, 8, 8)


# --- where it does not apply


def refuse(pipe: Any, oms: OneMoreStep, match: str, **kwargs: Any) -> None:
    seen = First(pipe.unet)
    with pytest.raises(OMSError, match=match):
        oms(pipe, **{"prompt": "night", "num_inference_steps": 2, **kwargs})
    seen.remove()
    assert seen.calls == 0


@pytest.mark.parametrize(
    "scheduler",
    [
        DDIMScheduler(**SD, rescale_betas_zero_snr=True, timestep_spacing="trailing"),
        DDIMScheduler(**SD, rescale_betas_zero_snr=True),
        EulerDiscreteScheduler(**SD, rescale_betas_zero_snr=True, timestep_spacing="trailing"),
        DPMSolverMultistepScheduler(**SD, rescale_betas_zero_snr=True),
    ],
    ids=lambda s: f"{type(s).__name__} {s.config.timestep_spacing}",
)
def test_zero_terminal_snr_is_refused(pipe: Any, oms: OneMoreStep, scheduler: Any) -> None:
    pipe.scheduler = scheduler
    refuse(pipe, oms, "vanish")


def test_a_noise_level_that_leaves_nothing_is_refused(pipe: Any, oms: OneMoreStep) -> None:
    pipe.scheduler = copy.deepcopy(SCHEDULERS["Euler"][0])
    refuse(pipe, oms, "noise level 4500", sigmas=[4500.0, 10.0, 1.0])


def test_flow_matching_is_refused(pipe: Any, oms: OneMoreStep) -> None:
    pipe.scheduler = FlowMatchEulerDiscreteScheduler()
    refuse(pipe, oms, "flow-matching")
    if "use_flow_sigmas" in inspect.signature(DPMSolverMultistepScheduler.__init__).parameters:
        pipe.scheduler = DPMSolverMultistepScheduler(**SD, use_flow_sigmas=True, prediction_type="flow_prediction")
        refuse(pipe, oms, "flow-matching")


def test_a_schedule_that_cannot_be_known_is_refused(pipe: Any, oms: OneMoreStep) -> None:
    pipe.scheduler = EDMEulerScheduler()
    refuse(pipe, oms, "alphas_cumprod")


def test_a_module_for_other_latents_is_refused(pipes: dict[str, Any], modules: dict[str, OMSModule]) -> None:
    refuse(pipes["sd"], OneMoreStep(modules["sdxl"]), "sdxl latents, but StableDiffusionPipeline has sd latents")
    refuse(pipes["sdxl"], OneMoreStep(modules["sd"]), "sd latents, but StableDiffusionXLPipeline has sdxl latents")


def test_a_unet_with_other_channels_is_refused(oms: OneMoreStep, tmp_path: Path) -> None:
    pipe = build_pipe(tmp_path)
    pipe.unet = tiny_unet(24, in_channels=9)
    refuse(pipe, oms, "9 input channels.*made for 4")


def test_pipelines_that_start_from_a_picture_are_refused(pipe: Any, oms: OneMoreStep) -> None:
    image_to_image = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    refuse(image_to_image, oms, "text-to-image", image=torch.zeros(1, 3, 16, 16))


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"prompt": ["a", "b"], "oms_prompt": ["a", "b", "c"]}, "oms_prompt has 3 texts for 2 prompts"),
        ({"prompt": ["a", "b"], "oms_negative_prompt": ["a", "b", "c"]}, "oms_negative_prompt has 3"),
        ({"latents": torch.zeros(2, 4, 8, 8)}, r"latents have shape \[2, 4, 8, 8\]; expected \[1, 4, h, w\]"),
        ({"latents": torch.zeros(1, 16, 8, 8)}, r"expected \[1, 4, h, w\]"),
        ({"generator": [torch.Generator(), torch.Generator()]}, "2 generators for 1 pictures"),
        ({"eta": 1.5}, "eta is 1.5"),
        ({"oms_guidance_scale": float("nan")}, "guidance_scale"),
        ({"timesteps": [900, 1], "sigmas": [1.0]}, "not both"),
        ({"sigmas": [1.0]}, "DDIMScheduler takes no sigmas"),
        ({"prompt": None}, "give a prompt"),
        ({"oms_prompt": 3}, "oms_prompt is 3; give text"),
        ({"oms_negative_prompt": [None]}, "oms_negative_prompt is"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_arguments_that_do_not_fit_are_refused(pipe: Any, oms: OneMoreStep, kwargs: dict, match: str) -> None:
    refuse(pipe, oms, match, **kwargs)


def test_trying_the_scheduler_out_leaves_it_alone(pipe: Any) -> None:
    pipe.scheduler = copy.deepcopy(SCHEDULERS["Euler"][0])
    pipe.scheduler.set_timesteps(7)
    before = copy.deepcopy(pipe.scheduler.__dict__)
    step = first_step(pipe, inspect.signature(pipe.__call__).parameters, {"num_inference_steps": 3})
    assert step.exploding
    assert step.sigma == pytest.approx(14.6146, rel=1e-4)
    assert pipe.scheduler.step_index is None
    assert torch.equal(pipe.scheduler.timesteps, before["timesteps"])
    assert set(pipe.scheduler.__dict__) == set(before)


# Colors, pictures and what changes them

PRIMARIES = ((0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255))


def encoded(pipe: Any, picture: Tensor) -> Tensor:
    with torch.no_grad():
        return pipe.vae.encode(picture * 2 - 1).latent_dist.mode() * pipe.vae.config.scaling_factor


def flat_latent(pipe: Any, *rgb: int) -> Tensor:
    """The middle of a flat picture's latent, [1, 4, 1, 1]."""
    latent = encoded(pipe, torch.tensor(rgb)[None, :, None, None].expand(1, 3, 256, 256) / 255)
    edge = latent.shape[-1] // 8
    return latent[..., edge:-edge, edge:-edge].mean(dim=(-2, -1), keepdim=True)


@pytest.mark.parametrize("name", ["DDIM", "Euler", "Euler a", "UniPC"])
def test_a_color_needs_no_module(pipes: dict[str, Any], name: str) -> None:
    scheduler, timestep = SCHEDULERS[name]
    for pipe in pipes.values():
        pipe.scheduler = copy.deepcopy(scheduler)
        first, _ = run(
            pipe, lambda pipe=pipe, **k: OneMoreStep()(pipe, **k), prompt=["a", "b"], color="#204060", quiet=0,
            generator=generator(),
        )  # fmt: skip
        noise = torch.randn(2, *first.shape[1:], generator=generator())
        expected = closed_form(flat_latent(pipe, 0x20, 0x40, 0x60).expand(noise.shape), noise, timestep)
        torch.testing.assert_close(first, expected, rtol=0, atol=2e-5)


def test_a_color_is_quiet_by_itself(pipe: Any) -> None:
    first, _ = run(pipe, lambda **k: OneMoreStep()(pipe, **k), prompt="a", color="#204060", generator=generator())
    noise = torch.randn(1, 4, 8, 8, generator=generator())
    expected = closed_form(flat_latent(pipe, 0x20, 0x40, 0x60).expand(noise.shape), noise - low(noise, 4), 901)
    torch.testing.assert_close(first, expected, rtol=0, atol=2e-5)


def test_a_picture_gives_its_layout(pipe: Any) -> None:
    picture = Image.new("RGB", (64, 64), (10, 10, 10))
    picture.paste((250, 250, 250), (32, 0, 64, 64))
    first, _ = run(
        pipe, lambda **k: OneMoreStep()(pipe, **k), prompt="a", picture=picture, quiet=4, generator=generator()
    )
    noise = torch.randn(1, 4, 8, 8, generator=generator())
    small = small_picture(picture, "picture")
    assert len(small) < 200
    shown = torch.nn.functional.interpolate(
        torch.tensor([10.0] * 8 + [250.0] * 8).expand(1, 3, 16, 16) / 255, (256, 256), mode="bicubic"
    )
    put = in_place_of_noise(resized(encoded(pipe, shown.clamp(0, 1)), 8, 8, 16), 4, sigma_of(ALPHAS_CUMPROD[901]))
    expected = closed_form(put, noise - low(noise, 4), 901)
    torch.testing.assert_close(first, expected, rtol=0, atol=2e-5)


def other_style() -> Style:
    return style_of(torch.randn(3, 4, 8, 8), Directions(*torch.randn(5, 4)))


def test_a_style_is_drawn_for_every_picture_from_its_own_noise(pipe: Any, tmp_path: Path) -> None:
    directions = Directions(*(flat_latent(pipe, *rgb)[0, :, 0, 0] for rgb in PRIMARIES))
    style = style_of(torch.randn(5, 4, 8, 8, generator=generator()), directions)
    style.save(tmp_path / "dusk.safetensors")
    noise = torch.randn(2, 4, 8, 8, generator=generator())
    put = in_place_of_noise(style.drawn(noise), 4, sigma_of(ALPHAS_CUMPROD[901]))
    expected = closed_form(put, noise - low(noise, 4), 901)
    for given in (style, tmp_path / "dusk.safetensors", str(tmp_path / "dusk.safetensors")):
        first, _ = run(
            pipe, lambda given=given, **k: OneMoreStep()(pipe, style=given, **k), prompt=["a", "b"],
            generator=generator(),
        )  # fmt: skip
        torch.testing.assert_close(first, expected, rtol=0, atol=1e-4)


def test_a_prompt_and_a_color_in_parts(pipe: Any, oms: OneMoreStep) -> None:
    first, _ = run(
        pipe, lambda **k: oms(pipe, **k), prompt="night", color="#204060", prompt_weight=0.25, quiet=0,
        generator=generator(),
    )  # fmt: skip
    noise = torch.randn(1, 4, 8, 8, generator=generator())
    mixed = 0.25 * x0hat(oms.module, noise, ["night"]) + 0.75 * flat_latent(pipe, 0x20, 0x40, 0x60)
    torch.testing.assert_close(first, closed_form(mixed, noise, 901), rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["DDIM", "Euler"])
def test_strength_zero_is_the_pipeline_without_the_step(pipe: Any, oms: OneMoreStep, name: str) -> None:
    pipe.scheduler = copy.deepcopy(SCHEDULERS[name][0])
    raw, _ = run(pipe, pipe, prompt="a", generator=generator())
    for more in ({"quiet": 4, "brightness": 0.5}, {"color": "#204060"}, {"eta": 0.5}):
        first, _ = run(
            pipe, lambda more=more, **k: oms(pipe, **more, **k), prompt="a", strength=0, generator=generator()
        )
        assert torch.equal(first, raw)


def test_modifiers_change_what_psi_says(pipe: Any, oms: OneMoreStep) -> None:
    noise = torch.randn(1, 4, 8, 8, generator=generator())
    said = x0hat(oms.module, noise, ["night"])

    def first(**more: Any) -> Tensor:
        return run(pipe, lambda **k: oms(pipe, **more, **k), prompt="night", generator=generator())[0]

    mean = said.mean(dim=(-2, -1), keepdim=True).expand(said.shape)
    torch.testing.assert_close(first(detail=1), closed_form(mean, noise, 901), rtol=0, atol=2e-5)
    torch.testing.assert_close(first(strength=2.0), closed_form(2 * said, noise, 901), rtol=0, atol=2e-5)
    put = in_place_of_noise(said, 2, sigma_of(ALPHAS_CUMPROD[901]))
    torch.testing.assert_close(first(quiet=2), closed_form(put, noise - low(noise, 2), 901), rtol=0, atol=2e-5)
    shift = 0.25 * (flat_latent(pipe, 255, 255, 255) - flat_latent(pipe, 0, 0, 0))
    torch.testing.assert_close(first(brightness=0.5), closed_form(said + shift, noise, 901), rtol=0, atol=2e-5)


def test_the_trims_alone_change_nothing_where_they_are_zero(pipe: Any) -> None:
    raw, _ = run(pipe, pipe, prompt="a", generator=generator())
    first, _ = run(pipe, lambda **k: OneMoreStep()(pipe, **k), prompt="a", source="none", generator=generator())
    torch.testing.assert_close(first, raw * (1 - float(ALPHAS_CUMPROD[901])) ** 0.5, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({}, "takes an OMS model"),
        ({"color": "#204060", "prompt_weight": 0.5}, "takes an OMS model"),
        ({"color": "blue"}, "only a color such as #336699"),
        ({"source": "color"}, "OMS color .color. is empty"),
        ({"source": "picture"}, "there is no picture"),
        ({"source": "style"}, "there is no style"),
        ({"style": "nowhere.safetensors"}, "there is no such file"),
        ({"style": other_style()}, "another VAE's latents"),
        ({"source": "paint"}, "'paint' is not allowed"),
        ({"picture": "aGVsbG8="}, "no picture that can be read"),
        ({"picture": Image.new("RGB", (4, 4)), "color": "#204060"}, "a color and a picture"),
        ({"color": "#204060", "strength": 3}, "OMS strength"),
        ({"color": "#204060", "quiet": 17}, "OMS quiet"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # of a picture every process has another name
)
def test_what_cannot_be_followed_is_refused(pipe: Any, kwargs: dict, match: str) -> None:
    refuse(pipe, OneMoreStep(), match, **kwargs)
