"""What differs between devices and between versions of torch, asked for in one place."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """A context in which networks on `device` compute in the precision of their weights, whatever a host has set.

    Where torch knows no autocast for a device none can be on, but torch.autocast raises even to leave it: RuntimeError
    for Apple's "mps" before torch 2.5, AssertionError for DirectML's "privateuseone" (torch/amp/autocast_mode.py).
    """
    try:
        return torch.autocast(device.type, enabled=False)
    except (RuntimeError, AssertionError):
        return nullcontext()
