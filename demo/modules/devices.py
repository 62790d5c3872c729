"""Where tensors live: always the CPU, always float32 (host file: modules/devices.py)."""

import contextlib
import gc

import torch

cpu = torch.device("cpu")
device = device_interrogate = cpu
dtype = dtype_vae = dtype_unet = torch.float32
unet_needs_upcast = False


class NansException(Exception):  # noqa: N818 - the host's name
    """A picture came out as nothing but NaN."""


def get_optimal_device() -> torch.device:
    return device


def get_device_for(task: str) -> torch.device:
    return device


def torch_gc() -> None:
    gc.collect()


def autocast(disable: bool = False) -> contextlib.AbstractContextManager:
    return contextlib.nullcontext()


def without_autocast(disable: bool = False) -> contextlib.AbstractContextManager:
    return contextlib.nullcontext()


def test_for_nans(x: torch.Tensor, where: str) -> None:
    """Raises NansException if `x` is NaN throughout, as the host does after the UNet and after the VAE."""
    if torch.all(torch.isnan(x)):
        raise NansException(f"A tensor with NaNs was produced in {where}.")
