"""What differs between devices and between versions of torch, asked for in one place."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """A context in which networks on `device` compute in the precision of their weights, whatever a host has set.

    Where torch knows no autocast for a device none can be on, but torch.autocast raises even to leave it: RuntimeError
    for Apple's "mps" before torch 2.5, AssertionError for DirectML's "privateuseone" (torch/amp/autocast_mode.py).
    """
    try:
        return torch.autocast(device.type, enabled=False)
    except (RuntimeError, AssertionError):
        return nullcontext()


def channels_last(network: Network, device: torch.device | None = None) -> Network:
    """The same network, on `device` where one is given, in the memory format whose convolutions take half the time on a
    CPU.
    """
    return network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's own types


def contiguous(network: Network) -> Network:
    """The same network in the memory format that files have."""
    return network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # as above
