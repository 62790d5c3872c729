"""Classifier-free guidance around the UNet (host file: modules/sd_samplers_cfg_denoiser.py)."""

from typing import Any

import torch
from modules import script_callbacks, sd_samplers_common
from modules.script_callbacks import CFGDenoisedParams, CFGDenoiserParams
from modules.shared import state


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
            raise sd_samplers_common.InterruptedException
        batch = x.shape[0]
        level_in = torch.as_tensor(level, dtype=torch.float32).expand(2 * batch)
        params = CFGDenoiserParams(
            torch.cat([x, x]), None, level_in, state.sampling_step, state.sampling_steps, cond, uncond, self
        )
        script_callbacks.cfg_denoiser_callback(params)
        out = self._both(params)
        denoised_params = CFGDenoisedParams(out, state.sampling_step, state.sampling_steps, self.inner_model)
        script_callbacks.cfg_denoised_callback(denoised_params)
        out_cond, out_uncond = denoised_params.x.chunk(2)
        combined = out_uncond + cond_scale * (out_cond - out_uncond)
        self.sampler.last_latent = self.pred_x0(x, combined, level)
        sd_samplers_common.store_latent(self.sampler.last_latent)
        self.step += 1
        return combined

    def _both(self, params: CFGDenoiserParams) -> torch.Tensor:
        """Conditional half, then unconditional; in one call where the prompts have equal numbers of chunks."""
        if params.text_cond.shape[1] == params.text_uncond.shape[1]:
            return self.inner_model(params.x, params.sigma, torch.cat([params.text_cond, params.text_uncond]))
        halves = zip(params.x.chunk(2), params.sigma.chunk(2), (params.text_cond, params.text_uncond), strict=True)
        return torch.cat([self.inner_model(x, level, text) for x, level, text in halves])
