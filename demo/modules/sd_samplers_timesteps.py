"""Samplers in timesteps (host file: modules/sd_samplers_timesteps.py). Their first latent is the noise, unscaled."""

from typing import Any

import torch
from modules import sd_samplers_impl
from modules.sd_samplers_common import Sampler, SamplerData, setup_img2img_steps


class CompVisTimestepsDenoiser:
    """The UNet as it is: x in variance-preserving form, the predicted noise as the answer."""

    def __init__(self, model: Any) -> None:
        self.inner_model = model

    def pred_x0(self, x: torch.Tensor, out: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        a = self.inner_model.alphas_cumprod[int(t)]
        return (x - (1 - a).sqrt() * out) / a.sqrt()

    def __call__(self, x: torch.Tensor, t: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
        return self.inner_model.apply_model(x, t, cond)


class CompVisSampler(Sampler):
    denoiser = CompVisTimestepsDenoiser
    eta_option_field = "eta_ddim"
    eta_infotext_field = "Eta DDIM"
    eta_default = 0.0

    def get_timesteps(self, p: Any, steps: int) -> torch.Tensor:
        """Timesteps ascending; the first step is at [-1]: 751 at 4 steps, 951 at 20, 999 at 3."""
        steps += 1 if self.discards_penultimate(p) else 0
        return (torch.arange(0, 1000, 1000 // steps) + 1).clip(0, 999)

    def sample(
        self, p: Any, x: torch.Tensor, conditioning: torch.Tensor, unconditional_conditioning: torch.Tensor,
        steps: int | None = None, image_conditioning: Any = None,
    ) -> torch.Tensor:
        steps = steps or p.steps
        alphas_cumprod = self.model_wrap.inner_model.alphas_cumprod
        timesteps = self.get_timesteps(p, steps)
        return self.run(p, x, timesteps, steps, conditioning, unconditional_conditioning, alphas_cumprod)

    def sample_img2img(
        self, p: Any, x: torch.Tensor, noise: torch.Tensor, conditioning: torch.Tensor,
        unconditional_conditioning: torch.Tensor, steps: int | None = None, image_conditioning: Any = None,
    ) -> torch.Tensor:
        steps, taken = setup_img2img_steps(p, steps)
        timesteps = self.get_timesteps(p, steps)
        alphas_cumprod = self.model_wrap.inner_model.alphas_cumprod
        a = alphas_cumprod[timesteps[taken]]
        x = a.sqrt() * x + (1 - a).sqrt() * noise
        return self.run(p, x, timesteps[:taken], taken, conditioning, unconditional_conditioning, alphas_cumprod)


def _data(name: str, func: Any, aliases: list[str]) -> SamplerData:
    return SamplerData(name, lambda model: CompVisSampler(func, model), aliases, {})


samplers_data_timesteps = [
    _data("DDIM", sd_samplers_impl.ddim, ["ddim"]),
    _data("PLMS", sd_samplers_impl.plms, ["plms"]),
    _data("UniPC", sd_samplers_impl.unipc, ["unipc"]),
]
VanillaStableDiffusionSampler = CompVisSampler
