"""Samplers in noise levels (host files: modules/sd_samplers_kdiffusion.py, sd_samplers_lcm.py)."""

from functools import partial
from typing import Any

import torch
from modules import sd_samplers_impl, sd_schedulers
from modules.sd_samplers_common import Sampler, SamplerData
from modules.shared import opts
from torch import Tensor


def _per_item(level: Tensor) -> Tensor:
    return level.reshape(-1, 1, 1, 1)


class CompVisDenoiser:
    """The UNet in variance-exploding terms: x = x0 + sigma n, and the denoised picture as the answer."""

    def __init__(self, model: Any) -> None:
        self.inner_model = model
        self.use_alphas(model.alphas_cumprod)

    def use_alphas(self, alphas_cumprod: Tensor) -> None:
        """`sigmas` ascend; sigmas[-1] is where nearly every schedule starts."""
        self.sigmas = ((1 - alphas_cumprod) / alphas_cumprod) ** 0.5
        self.log_sigmas = self.sigmas.log()
        self.sigma_min, self.sigma_max = self.sigmas[0], self.sigmas[-1]

    def sigma_to_t(self, sigma: Tensor) -> Tensor:
        """Timesteps of noise levels, between two of them linear in log sigma."""
        log_sigma = sigma.log()
        low = torch.searchsorted(self.log_sigmas, log_sigma.contiguous(), right=True) - 1
        low = low.clamp(0, len(self.log_sigmas) - 2)
        start, end = self.log_sigmas[low], self.log_sigmas[low + 1]
        return low + ((log_sigma - start) / (end - start)).clamp(0, 1)

    def t_to_sigma(self, t: Tensor) -> Tensor:
        t = t.float()
        low = t.floor().long()
        return torch.lerp(self.log_sigmas[low], self.log_sigmas[t.ceil().long()], t - low).exp()

    def get_sigmas(self, n: int) -> Tensor:
        """n levels even in timesteps from the last to the first, and zero."""
        sigmas = self.t_to_sigma(torch.linspace(len(self.sigmas) - 1, 0, n))
        return torch.cat([sigmas, sigmas.new_zeros(1)])

    def pred_x0(self, x: Tensor, out: Tensor, sigma: Tensor) -> Tensor:
        return out

    def __call__(self, x: Tensor, sigma: Tensor, cond: Tensor) -> Tensor:
        s = _per_item(sigma)
        return x - s * self.inner_model.apply_model(x / (s**2 + 1).sqrt(), self.sigma_to_t(sigma), cond)


class LCMDenoiser(CompVisDenoiser):
    """The 50 levels that latent consistency models were distilled on, with their boundary scaling."""

    skip_steps = 20

    def use_alphas(self, alphas_cumprod: Tensor) -> None:
        super().use_alphas(alphas_cumprod[self.skip_steps - 1 :: self.skip_steps])

    def sigma_to_t(self, sigma: Tensor) -> Tensor:
        nearest = (sigma.log() - self.log_sigmas.reshape(-1, *[1] * sigma.ndim)).abs().argmin(dim=0)
        return nearest * self.skip_steps + (self.skip_steps - 1)

    def t_to_sigma(self, t: Tensor) -> Tensor:
        index = (t.float() - (self.skip_steps - 1)) / self.skip_steps
        return super().t_to_sigma(index.clamp(0, len(self.sigmas) - 1))

    def get_sigmas(self, n: int) -> Tensor:
        ends = [float(self.sigma_to_t(s)) for s in (self.sigma_max, self.sigma_min)]
        sigmas = self.t_to_sigma(torch.linspace(*ends, n))
        return torch.cat([sigmas, sigmas.new_zeros(1)])

    def __call__(self, x: Tensor, sigma: Tensor, cond: Tensor) -> Tensor:
        denoised = super().__call__(x, sigma, cond)
        scaled_t, sigma_data = _per_item(self.sigma_to_t(sigma)) * 10.0, 0.5
        c_skip = sigma_data**2 / (scaled_t**2 + sigma_data**2)
        c_out = scaled_t / (scaled_t**2 + sigma_data**2) ** 0.5
        return c_out * denoised + c_skip * x


class KDiffusionSampler(Sampler):
    denoiser = CompVisDenoiser

    def get_sigmas(self, p: Any, steps: int) -> Tensor:
        """[steps + 1] noise levels, the last one 0. WRITES to p.extra_generation_params, as the host's does."""
        discard = self.discards_penultimate(p)
        steps += 1 if discard else 0
        name = p.scheduler or "Automatic"
        if name == "Automatic":
            name = self.config.options.get("scheduler") if self.config else None
        scheduler = sd_schedulers.schedulers_map.get(name)
        if scheduler is None or scheduler.function is None:
            sigmas = self.model_wrap.get_sigmas(steps)
        else:
            sigmas = scheduler.function(n=steps, **self._schedule_arguments(p, scheduler), device="cpu")
        return torch.cat([sigmas[:-2], sigmas[-1:]]) if discard else sigmas

    def _schedule_arguments(self, p: Any, scheduler: sd_schedulers.Scheduler) -> dict[str, Any]:
        written = p.extra_generation_params
        arguments: dict[str, Any] = {"sigma_min": float(self.model_wrap.sigmas[0]),
                                     "sigma_max": float(self.model_wrap.sigmas[-1])}
        if scheduler.label != "Automatic":
            written["Schedule type"] = scheduler.label
        for key, text in (("sigma_min", "Schedule min sigma"), ("sigma_max", "Schedule max sigma")):
            chosen = getattr(opts, key)
            if chosen not in (0, arguments[key]):
                arguments[key] = written[text] = chosen
        if scheduler.default_rho != -1 and opts.rho not in (0, scheduler.default_rho):
            arguments["rho"] = written["Schedule rho"] = opts.rho
        if scheduler.need_inner_model:
            arguments["inner_model"] = self.model_wrap
        return arguments

    def begin(self, p: Any, noise: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        sigmas = self.get_sigmas(p, steps)
        if not opts.sgm_noise_multiplier:
            return noise * sigmas[0], sigmas
        p.extra_generation_params["SGM noise multiplier"] = True
        return noise * (1 + sigmas[0] ** 2) ** 0.5, sigmas

    def begin_over(self, p: Any, picture: Tensor, noise: Tensor, steps: int, taken: int) -> tuple[Tensor, Tensor]:
        sigmas = self.get_sigmas(p, steps)[steps - taken - 1 :]
        return picture + noise * sigmas[0], sigmas


class LCMSampler(KDiffusionSampler):
    denoiser = LCMDenoiser


samplers_data_k_diffusion = [
    SamplerData(name, partial(KDiffusionSampler, func), aliases, options)
    for name, func, aliases, options in (
        ("DPM++ 2M", sd_samplers_impl.dpmpp_2m, ["k_dpmpp_2m"], {"scheduler": "karras"}),
        ("Euler a", sd_samplers_impl.euler_ancestral, ["k_euler_a", "k_euler_ancestral"], {"uses_ensd": True}),
        ("Euler", sd_samplers_impl.euler, ["k_euler"], {}),
        ("Heun", sd_samplers_impl.heun, ["k_heun"], {"second_order": True}),
    )
]
samplers_data_lcm = [SamplerData("LCM", partial(LCMSampler, sd_samplers_impl.lcm), ["k_lcm"], {})]
