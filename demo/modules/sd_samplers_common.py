"""What all samplers share (host files: modules/sd_samplers_common.py, sd_samplers_cfg_denoiser.py)."""

import inspect
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from modules import script_callbacks, shared
from modules.script_callbacks import CFGDenoiserParams
from modules.shared import opts, state
from PIL import Image
from torch import Tensor
from tqdm import tqdm

SamplerData = namedtuple("SamplerData", ["name", "constructor", "aliases", "options"])


class InterruptedException(BaseException):
    """Ends sampling; the last denoised latent becomes the picture."""


@torch.no_grad()
def sample_to_image(samples: Tensor, index: int = 0, approximation: int | None = None) -> Image.Image:
    """The picture of one latent of a batch."""
    picture = shared.sd_model.decode_first_stage(samples[index : index + 1])[0]
    array = (picture / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).numpy()
    return Image.fromarray((array * 255).astype(np.uint8))


@torch.no_grad()
def images_tensor_to_samples(image: Tensor, approximation: int | None = None, model: Any | None = None) -> Tensor:
    """Scaled latents of pictures [B, 3, H, W] in 0..1; there is no approximation here."""
    model = model or shared.sd_model
    return model.encode_first_stage(image.to(model.dtype) * 2 - 1)


class Sampler:
    """One object per picture batch, made just before sampling: p.sampler.

    Its kinds say what wraps the UNet, by which levels it steps, and how the first latent is made of noise.
    """

    denoiser: Callable[[Any], Any]
    """what wraps the UNet: makes model_wrap"""
    eta_option_field = "eta_ancestral"
    eta_infotext_field = "Eta"
    eta_default = 1.0

    def __init__(self, func: Callable[..., Tensor], sd_model: Any) -> None:
        self.func = func
        self.funcname = func.__name__
        self.config: SamplerData | None = None
        self.p: Any = None
        self.last_latent: Tensor | None = None
        self.model_wrap = self.denoiser(sd_model)
        self.model_wrap_cfg = CFGDenoiser(self, self.model_wrap)

    def initialize(self, p: Any) -> dict[str, float]:
        """Takes from p what the steps need; an eta that the sampler takes and that is not the default is written to
        infotext.
        """
        self.p = self.model_wrap_cfg.p = p
        self.model_wrap_cfg.step = 0
        if "eta" not in inspect.signature(self.func).parameters:
            return {}
        eta = p.eta if p.eta is not None else getattr(opts, self.eta_option_field)
        if eta != self.eta_default:
            p.extra_generation_params[self.eta_infotext_field] = eta
        return {"eta": eta}

    def discards_penultimate(self, p: Any) -> bool:
        """Whether the next-to-last noise level is left out; the option is written to infotext."""
        if opts.always_discard_next_to_last_sigma:
            p.extra_generation_params["Discard penultimate sigma"] = True
        return opts.always_discard_next_to_last_sigma

    def launch_sampling(self, steps: int, func: Callable[[], Tensor]) -> Tensor:
        """Runs the steps with progress in the console and in `state`; an interruption gives what there is so far."""
        state.sampling_steps = steps
        state.sampling_step = 0
        with tqdm(total=steps, desc=state.job or "sampling") as self._bar:
            try:
                return func()
            except InterruptedException:
                return self.last_latent

    def begin(self, p: Any, noise: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """The first latent, and the levels to step by."""
        raise NotImplementedError

    def begin_over(self, p: Any, picture: Tensor, noise: Tensor, steps: int, taken: int) -> tuple[Tensor, Tensor]:
        """The same for a picture's latent that is noised as far as `taken` steps, and one, lead back."""
        raise NotImplementedError

    def schedule(self, levels: Tensor) -> tuple[Tensor, ...]:
        """What the sampler's function is given of it."""
        return (levels,)

    def sample(
        self, p: Any, x: Tensor, conditioning: Tensor, unconditional_conditioning: Tensor,
        steps: int | None = None, image_conditioning: Any = None,
    ) -> Tensor:
        """Latents [B, 4, h, w] of noise x."""
        steps = steps or p.steps
        return self._run(p, *self.begin(p, x, steps), steps, conditioning, unconditional_conditioning)

    def sample_img2img(
        self, p: Any, x: Tensor, noise: Tensor, conditioning: Tensor,
        unconditional_conditioning: Tensor, steps: int | None = None, image_conditioning: Any = None,
    ) -> Tensor:
        """Latents [B, 4, h, w] of a picture's latents x and noise."""
        steps, taken = setup_img2img_steps(p, steps)
        first, levels = self.begin_over(p, x, noise, steps, taken)
        return self._run(p, first, levels, taken + 1, conditioning, unconditional_conditioning)

    def _run(self, p: Any, x: Tensor, levels: Tensor, steps: int, cond: Tensor, uncond: Tensor) -> Tensor:
        """All steps from the first latent x."""
        arguments = self.initialize(p)
        self.last_latent = x

        def model(x: Tensor, level: Tensor) -> Tensor:
            return self.model_wrap_cfg(x, level, cond=cond, uncond=uncond, cond_scale=p.cfg_scale)

        return self.launch_sampling(
            steps, lambda: self.func(model, x, *self.schedule(levels), p.rng.next, self.report, **arguments)
        )

    def report(self, i: int, denoised: Tensor) -> None:
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

    def __call__(self, x: Tensor, level: Tensor, cond: Tensor, uncond: Tensor, cond_scale: float) -> Tensor:
        if state.interrupted or state.skipped:
            raise InterruptedException
        batch = x.shape[0]
        level_in = torch.as_tensor(level, dtype=torch.float32).expand(2 * batch)
        params = CFGDenoiserParams(
            torch.cat([x, x]), None, level_in, state.sampling_step, state.sampling_steps, cond, uncond, self
        )
        script_callbacks.call("cfg_denoiser", params)
        out_cond, out_uncond = self._both(params).chunk(2)
        combined = out_uncond + cond_scale * (out_cond - out_uncond)
        self.sampler.last_latent = state.current_latent = self.inner_model.pred_x0(x, combined, level)
        self.step += 1
        return combined

    def _both(self, params: CFGDenoiserParams) -> Tensor:
        """Conditional half, then unconditional; in one call where the prompts have equal numbers of chunks."""
        if params.text_cond.shape[1] == params.text_uncond.shape[1]:
            return self.inner_model(params.x, params.sigma, torch.cat([params.text_cond, params.text_uncond]))
        halves = zip(params.x.chunk(2), params.sigma.chunk(2), (params.text_cond, params.text_uncond), strict=True)
        return torch.cat([self.inner_model(x, level, text) for x, level, text in halves])
