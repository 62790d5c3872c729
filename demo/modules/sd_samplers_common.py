"""What all samplers share (host files: modules/sd_samplers_common.py, sd_samplers_cfg_denoiser.py)."""

import inspect
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from modules import script_callbacks, shared
from modules.script_callbacks import CFGDenoisedParams, CFGDenoiserParams
from modules.shared import opts, state
from PIL import Image
from tqdm import tqdm


class SamplerData(namedtuple("SamplerData", ["name", "constructor", "aliases", "options"])):
    __slots__ = ()

    def total_steps(self, steps: int) -> int:
        return steps * 2 if self.options.get("second_order", False) else steps


class InterruptedException(BaseException):
    """Ends sampling; the last denoised latent becomes the picture."""


@torch.no_grad()
def sample_to_image(samples: torch.Tensor, index: int = 0, approximation: int | None = None) -> Image.Image:
    """The picture of one latent of a batch."""
    picture = shared.sd_model.decode_first_stage(samples[index : index + 1])[0]
    array = (picture / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).numpy()
    return Image.fromarray((array * 255).astype(np.uint8))


@torch.no_grad()
def images_tensor_to_samples(
    image: torch.Tensor, approximation: int | None = None, model: Any | None = None
) -> torch.Tensor:
    """Scaled latents of pictures [B, 3, H, W] in 0..1; there is no approximation here."""
    model = model or shared.sd_model
    return model.encode_first_stage(image.to(model.dtype) * 2 - 1)


def store_latent(decoded: torch.Tensor) -> None:
    state.current_latent = decoded


class Sampler:
    """One object per picture batch, made just before sampling: p.sampler."""

    denoiser: Callable[[Any], Any]
    """what wraps the UNet: makes model_wrap"""
    eta_option_field = "eta_ancestral"
    eta_infotext_field = "Eta"
    eta_default = 1.0

    def __init__(self, func: Callable[..., torch.Tensor], sd_model: Any) -> None:
        self.func = func
        self.funcname = func.__name__
        self.config: SamplerData | None = None
        self.p: Any = None
        self.eta: float | None = None
        self.last_latent: torch.Tensor | None = None
        self.model_wrap = self.denoiser(sd_model)
        self.model_wrap_cfg = CFGDenoiser(self, self.model_wrap)
        self.sampler_extra_args: dict[str, Any] = {}

    def initialize(self, p: Any) -> None:
        """Takes from p what the steps need; an eta other than the default is written to infotext."""
        self.p = self.model_wrap_cfg.p = p
        self.model_wrap_cfg.step = 0
        self.eta = p.eta if p.eta is not None else getattr(opts, self.eta_option_field, 0.0)

    def eta_arguments(self, p: Any) -> dict[str, float]:
        if self.eta != self.eta_default:
            p.extra_generation_params[self.eta_infotext_field] = self.eta
        return {"eta": self.eta}

    def discards_penultimate(self, p: Any) -> bool:
        """Whether the next-to-last noise level is left out; the option is written to infotext."""
        own = self.config is not None and self.config.options.get("discard_next_to_last_sigma", False)
        if opts.always_discard_next_to_last_sigma and not own:
            p.extra_generation_params["Discard penultimate sigma"] = True
        return own or opts.always_discard_next_to_last_sigma

    def launch_sampling(self, steps: int, func: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Runs the steps with progress in the console and in `state`; an interruption gives what there is so far."""
        self.model_wrap_cfg.steps = steps
        self.model_wrap_cfg.total_steps = self.config.total_steps(steps) if self.config else steps
        state.sampling_steps = steps
        state.sampling_step = 0
        with tqdm(total=steps, desc=state.job or "sampling") as self._bar:
            try:
                return func()
            except InterruptedException:
                return self.last_latent

    def run(
        self, p: Any, x: torch.Tensor, levels: torch.Tensor, steps: int, cond: torch.Tensor, uncond: torch.Tensor,
        *more: torch.Tensor,
    ) -> torch.Tensor:
        """All steps from the first latent x; `more` goes to the sampler's function after the levels."""
        self.initialize(p)
        arguments = self.eta_arguments(p) if "eta" in inspect.signature(self.func).parameters else {}
        self.last_latent = x
        self.sampler_extra_args = {"cond": cond, "uncond": uncond, "cond_scale": p.cfg_scale}

        def model(x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
            return self.model_wrap_cfg(x, level, **self.sampler_extra_args)

        return self.launch_sampling(
            steps, lambda: self.func(model, x, levels, *more, p.rng.next, self.report, **arguments)
        )

    def report(self, i: int, denoised: torch.Tensor) -> None:
        """After each step."""
        state.sampling_step = i + 1
        self._bar.update()


def setup_img2img_steps(p: Any, steps: int | None = None) -> tuple[int, int]:
    """Steps of the schedule, and how many of them, less one, are taken from its end."""
    steps = steps or p.steps
    return steps, int(min(p.denoising_strength, 0.999) * steps)


class CFGDenoiser:
    """Calls `inner_model(x, level, cond)` for both prompts at once and combines; `level` is sigma or timestep."""

    def __init__(self, sampler: Any, inner_model: Any) -> None:
        self.sampler = sampler
        self.inner_model = inner_model
        self.p: Any = None
        self.step = 0
        self.steps = 0
        self.total_steps = 0

    def pred_x0(self, x: torch.Tensor, out: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        """The denoised latent, for the preview."""
        return self.inner_model.pred_x0(x, out, level)

    def __call__(
        self, x: torch.Tensor, level: torch.Tensor, cond: torch.Tensor, uncond: torch.Tensor, cond_scale: float
    ) -> torch.Tensor:
        if state.interrupted or state.skipped:
            raise InterruptedException
        batch = x.shape[0]
        level_in = torch.as_tensor(level, dtype=torch.float32).expand(2 * batch)
        params = CFGDenoiserParams(
            torch.cat([x, x]), None, level_in, state.sampling_step, state.sampling_steps, cond, uncond, self
        )
        script_callbacks.call("cfg_denoiser", params)
        out = self._both(params)
        denoised_params = CFGDenoisedParams(out, state.sampling_step, state.sampling_steps, self.inner_model)
        script_callbacks.call("cfg_denoised", denoised_params)
        out_cond, out_uncond = denoised_params.x.chunk(2)
        combined = out_uncond + cond_scale * (out_cond - out_uncond)
        self.sampler.last_latent = self.pred_x0(x, combined, level)
        store_latent(self.sampler.last_latent)
        self.step += 1
        return combined

    def _both(self, params: CFGDenoiserParams) -> torch.Tensor:
        """Conditional half, then unconditional; in one call where the prompts have equal numbers of chunks."""
        if params.text_cond.shape[1] == params.text_uncond.shape[1]:
            return self.inner_model(params.x, params.sigma, torch.cat([params.text_cond, params.text_uncond]))
        halves = zip(params.x.chunk(2), params.sigma.chunk(2), (params.text_cond, params.text_uncond), strict=True)
        return torch.cat([self.inner_model(x, level, text) for x, level, text in halves])
