"""Where tensors live: always the CPU, always float32 (host file: modules/devices.py)."""

import contextlib
import gc

import torch

cpu = device = torch.device("cpu")
dtype = torch.float32


class NansException(Exception):  # noqa: N818 - the host's name
    """A picture came out as nothing but NaN."""


def torch_gc() -> None:
    gc.collect()


def autocast(disable: bool = False) -> contextlib.AbstractContextManager:
    return contextlib.nullcontext()


without_autocast = autocast


def test_for_nans(x: torch.Tensor, where: str) -> None:
    """Raises NansException if `x` is NaN throughout, as the host does after the UNet and after the VAE."""
    if torch.all(torch.isnan(x)):
        raise NansException(f"A tensor with NaNs was produced in {where}.")
