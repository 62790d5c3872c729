"""The samplers: each one short function under its paper's name, tensors in, tensors out.

k-diffusion samplers take x in variance-exploding form and `model(x, sigma)`, which returns the denoised picture;
timestep samplers take x in variance-preserving form and `model(x, t)`, which returns the predicted noise. `noise()`
gives fresh noise of x's shape. UniPC's corrector comes from diffusers.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from diffusers import UniPCMultistepScheduler
from torch import Tensor

Model = Callable[[Tensor, Tensor], Tensor]
Noise = Callable[[], Tensor]
Report = Callable[[int, Tensor], None]
"""called after each step with its index and the denoised latent, for progress and preview"""


def euler(model: Model, x: Tensor, sigmas: Tensor, noise: Noise, report: Report) -> Tensor:
    """Euler's method on the probability flow ODE. Karras et al. 2022, algorithm 1 without its correction."""
    for i, (sigma, after) in enumerate(pairwise(sigmas)):
        denoised = model(x, sigma)
        x = x + (x - denoised) / sigma * (after - sigma)
        report(i, denoised)
    return x


def euler_ancestral(model: Model, x: Tensor, sigmas: Tensor, noise: Noise, report: Report, eta: float = 1.0) -> Tensor:
    """Euler to a lower level than asked, and fresh noise up to the level asked."""
    for i, (sigma, after) in enumerate(pairwise(sigmas)):
        denoised = model(x, sigma)
        up = min(after, eta * (after**2 * (sigma**2 - after**2) / sigma**2) ** 0.5)
        down = (after**2 - up**2) ** 0.5
        x = x + (x - denoised) / sigma * (down - sigma)
        if after > 0:
            x = x + noise() * up
        report(i, denoised)
    return x


def heun(model: Model, x: Tensor, sigmas: Tensor, noise: Noise, report: Report) -> Tensor:
    """Karras et al. 2022, algorithm 1."""
    for i, (sigma, after) in enumerate(pairwise(sigmas)):
        denoised = model(x, sigma)
        slope = (x - denoised) / sigma
        guess = x + slope * (after - sigma)
        if after > 0:
            slope = (slope + (guess - model(guess, after)) / after) / 2
        x = x + slope * (after - sigma)
        report(i, denoised)
    return x


def dpmpp_2m(model: Model, x: Tensor, sigmas: Tensor, noise: Noise, report: Report) -> Tensor:
    """DPM-Solver++(2M), Lu et al. 2022, algorithm 2."""
    previous, h_previous = None, None
    for i, (sigma, after) in enumerate(pairwise(sigmas)):
        denoised = model(x, sigma)
        estimate, h = denoised, (sigma / after).log()
        if previous is not None and after > 0:
            half_r = h / (2 * h_previous)
            estimate = (1 + half_r) * denoised - half_r * previous
        x = after / sigma * x + (1 - after / sigma) * estimate
        previous, h_previous = denoised, h
        report(i, denoised)
    return x


def lcm(model: Model, x: Tensor, sigmas: Tensor, noise: Noise, report: Report) -> Tensor:
    """Multistep consistency sampling. Luo et al. 2023, algorithm 3."""
    for i, (sigma, after) in enumerate(pairwise(sigmas)):
        x = denoised = model(x, sigma)
        if after > 0:
            x = denoised + after * noise()
        report(i, denoised)
    return x


def ddim(
    model: Model, x: Tensor, timesteps: Tensor, alphas_cumprod: Tensor, noise: Noise, report: Report, eta: float = 0.0
) -> Tensor:
    """Song et al. 2021, equation 12. `timesteps` ascend; the steps lead from each to the one before it."""
    for i, (t, before) in enumerate(_downwards(timesteps)):
        a, a_before = alphas_cumprod[t], alphas_cumprod[before]
        e = model(x, t)
        x0 = x0_of(x, e, a)
        sigma = eta * ((1 - a_before) / (1 - a) * (1 - a / a_before)).sqrt()
        x = a_before.sqrt() * x0 + (1 - a_before - sigma**2).sqrt() * e
        x = x + sigma * noise() if sigma > 0 else x
        report(i, x0)
    return x


def plms(model: Model, x: Tensor, timesteps: Tensor, alphas_cumprod: Tensor, noise: Noise, report: Report) -> Tensor:
    """Liu et al. 2022, pseudo linear multistep (equation 12), begun with one pseudo improved Euler step."""
    history: list[Tensor] = []
    weights = {1: (1.0,), 2: (3 / 2, -1 / 2), 3: (23 / 12, -16 / 12, 5 / 12), 4: (55 / 24, -59 / 24, 37 / 24, -9 / 24)}

    def transfer(x: Tensor, e: Tensor, t: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        a_before = alphas_cumprod[before]
        x0 = x0_of(x, e, alphas_cumprod[t])
        return a_before.sqrt() * x0 + (1 - a_before).sqrt() * e, x0

    for i, (t, before) in enumerate(_downwards(timesteps)):
        e = model(x, t)
        history = [e, *history][:4]
        e = sum(w * past for w, past in zip(weights[len(history)], history, strict=True))
        if len(history) == 1:
            e = (e + model(transfer(x, e, t, before)[0], before)) / 2
        x, x0 = transfer(x, e, t, before)
        report(i, x0)
    return x


def unipc(model: Model, x: Tensor, timesteps: Tensor, alphas_cumprod: Tensor, noise: Noise, report: Report) -> Tensor:
    """UniPC, Zhao et al. 2023, from diffusers. As the host's it starts at t = 999 whatever `timesteps` says."""
    n = len(timesteps)
    scheduler = UniPCMultistepScheduler(
        num_train_timesteps=len(alphas_cumprod), solver_order=3, solver_type="bh1", lower_order_final=True,
        prediction_type="epsilon", predict_x0=True,
    )
    scheduler.set_timesteps(n)
    grid = torch.linspace(len(alphas_cumprod) - 1, 0, n + 1)
    log_sigmas = ((1 - alphas_cumprod) / alphas_cumprod).log() / 2
    low = grid.floor().long()
    scheduler.sigmas = torch.lerp(log_sigmas[low], log_sigmas[grid.ceil().long()], grid - low).exp()
    scheduler.timesteps = grid[:-1]
    scheduler.set_begin_index(0)
    for i, t in enumerate(scheduler.timesteps):
        sigma = scheduler.sigmas[i]
        e = model(x, t)
        x0 = (1 + sigma**2).sqrt() * x - sigma * e
        x = scheduler.step(e, t, x, return_dict=False)[0]
        report(i, x0)
    return x


def x0_of(x: Tensor, e: Tensor, a: Tensor) -> Tensor:
    """The picture in x [B, 4, h, w] without the predicted noise e, at the cumulative alpha a."""
    return (x - (1 - a).sqrt() * e) / a.sqrt()


def _downwards(timesteps: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(pairwise(timesteps.flip(0)))
