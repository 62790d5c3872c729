"""Samplers in timesteps (host file: modules/sd_samplers_timesteps.py). Their first latent is the noise, unscaled."""

from functools import partial
from typing import Any

import torch
from modules import sd_samplers_impl
from modules.sd_samplers_common import Sampler, SamplerData
from torch import Tensor


class CompVisTimestepsDenoiser:
    """The UNet as it is: x in variance-preserving form, the predicted noise as the answer."""

    def __init__(self, model: Any) -> None:
        self.inner_model = model

    def pred_x0(self, x: Tensor, out: Tensor, t: Tensor) -> Tensor:
        return sd_samplers_impl.x0_of(x, out, self.inner_model.alphas_cumprod[int(t)])

    def __call__(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return self.inner_model.apply_model(x, t, cond)


class CompVisSampler(Sampler):
    denoiser = CompVisTimestepsDenoiser
    eta_option_field = "eta_ddim"
    eta_infotext_field = "Eta DDIM"
    eta_default = 0.0

    def get_timesteps(self, p: Any, steps: int) -> Tensor:
        """Timesteps ascending; the first step is at [-1]: 751 at 4 steps, 951 at 20, 999 at 3."""
        steps += 1 if self.discards_penultimate(p) else 0
        return (torch.arange(0, 1000, 1000 // steps) + 1).clip(0, 999)

    def begin(self, p: Any, noise: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        return noise, self.get_timesteps(p, steps)

    def begin_over(self, p: Any, picture: Tensor, noise: Tensor, steps: int, taken: int) -> tuple[Tensor, Tensor]:
        timesteps = self.get_timesteps(p, steps)
        a = self.model_wrap.inner_model.alphas_cumprod[timesteps[taken]]
        return a.sqrt() * picture + (1 - a).sqrt() * noise, timesteps[:taken]

    def schedule(self, levels: Tensor) -> tuple[Tensor, ...]:
        return levels, self.model_wrap.inner_model.alphas_cumprod


samplers_data_timesteps = [
    SamplerData(name, partial(CompVisSampler, func), [func.__name__], {})
    for name, func in (
        ("DDIM", sd_samplers_impl.ddim), ("PLMS", sd_samplers_impl.plms), ("UniPC", sd_samplers_impl.unipc)
    )
]
