"""Schedules of noise levels (host file: modules/sd_schedulers.py): n levels, descending, and a zero after them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Scheduler:
    name: str
    label: str
    function: Callable[..., Tensor] | None
    default_rho: float = -1
    need_inner_model: bool = False
    aliases: list[str] = field(default_factory=list)


def _levels(sigmas: Any) -> Tensor:
    """Levels as a float32 tensor, closed by zero."""
    sigmas = torch.as_tensor(sigmas, dtype=torch.float32)
    return torch.cat([sigmas, sigmas.new_zeros(1)])


def karras(n: int, sigma_min: float, sigma_max: float, rho: float = 7.0, device: Any = "cpu") -> Tensor:
    """Karras et al. 2022, equation 5."""
    ramp = torch.linspace(0, 1, n)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return _levels((high + ramp * (low - high)) ** rho)


def polyexponential(n: int, sigma_min: float, sigma_max: float, rho: float = 1.0, device: Any = "cpu") -> Tensor:
    """Even in log sigma, or a power of the even grid."""
    ramp = torch.linspace(1, 0, n) ** rho
    low, high = torch.tensor([sigma_min, sigma_max]).log()
    return _levels((low + ramp * (high - low)).exp())


def kl_optimal(n: int, sigma_min: float, sigma_max: float, device: Any = "cpu") -> Tensor:
    """Sabour et al. 2024 (Align Your Steps), the closed form; here sigma_min stands where others have zero."""
    low, high = torch.tensor([sigma_min, sigma_max]).atan()
    ramp = torch.arange(n + 1) / n
    return torch.tan(ramp * low + (1 - ramp) * high)


def uniform(n: int, sigma_min: float, sigma_max: float, inner_model: Any, device: Any = "cpu") -> Tensor:
    """Even in timesteps of the model, whatever sigma_min and sigma_max say."""
    return inner_model.get_sigmas(n)


def normal(n: int, sigma_min: float, sigma_max: float, inner_model: Any, device: Any = "cpu") -> Tensor:
    """Even in timesteps between those of sigma_max and sigma_min."""
    ends = [float(inner_model.sigma_to_t(torch.tensor(s))) for s in (sigma_max, sigma_min)]
    return _levels(inner_model.t_to_sigma(torch.linspace(*ends, n)))


def sgm_uniform(n: int, sigma_min: float, sigma_max: float, inner_model: Any, device: Any = "cpu") -> Tensor:
    """As `normal` with one step more, of which the last is left out."""
    return _levels(normal(n + 1, sigma_min, sigma_max, inner_model)[:n])


def simple(n: int, sigma_min: float, sigma_max: float, inner_model: Any, device: Any = "cpu") -> Tensor:
    """Every (1000/n)-th of the model's levels, from the top."""
    stride = len(inner_model.sigmas) / n
    return _levels([inner_model.sigmas[-(1 + int(i * stride))] for i in range(n)])


def ddim(n: int, sigma_min: float, sigma_max: float, inner_model: Any, device: Any = "cpu") -> Tensor:
    """The levels that DDIM visits, so the first is NOT the highest: 4.12 at 4 steps."""
    stride = max(len(inner_model.sigmas) // n, 1)
    return _levels(inner_model.sigmas[1::stride].flip(0))


schedulers = [
    Scheduler("automatic", "Automatic", None),
    Scheduler("uniform", "Uniform", uniform, need_inner_model=True),
    Scheduler("karras", "Karras", karras, default_rho=7.0),
    Scheduler("exponential", "Exponential", polyexponential),
    Scheduler("polyexponential", "Polyexponential", polyexponential, default_rho=1.0),
    Scheduler("sgm_uniform", "SGM Uniform", sgm_uniform, need_inner_model=True, aliases=["SGMUniform"]),
    Scheduler("kl_optimal", "KL Optimal", kl_optimal),
    Scheduler("simple", "Simple", simple, need_inner_model=True),
    Scheduler("normal", "Normal", normal, need_inner_model=True),
    Scheduler("ddim", "DDIM", ddim, need_inner_model=True),
]
schedulers_map = {**{x.name: x for x in schedulers}, **{x.label: x for x in schedulers}}
