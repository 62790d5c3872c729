"""Whose the device's memory is: for the step ours, before and after it the sampler's.

The text encoder and psi come to the device one after the other, each only while it computes. Where they stay
afterwards is the setting "OMS memory policy".
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from modules import devices, shared
from torch import Tensor, nn

from lib_oms.webui.options import KEEP_ON_DEVICE, memory_policy

try:
    from modules import lowvram
except ImportError:
    lowvram = None

try:  # Forge
    from backend import memory_management as manager
    from backend.patcher.base import ModelPatcher
except ImportError:
    try:  # reForge, Forge Classic and the first Forge
        from ldm_patched.modules import model_management as manager
        from ldm_patched.modules.model_patcher import ModelPatcher
    except ImportError:  # A1111 has no manager
        manager = ModelPatcher = None

_PATCHER = "oms_model_patcher"
_FEATURE_MAPS = 64
"""How many feature maps of psi's first width are alive at once, rounded up: skips, attention, and their copies."""


def working_memory(noise: Tensor, width: int) -> int:
    """Bytes that psi's forward takes for one picture of `noise` [B, 4, h, w], if its first block is `width` wide."""
    pixels = noise.shape[-1] * noise.shape[-2]
    return _FEATURE_MAPS * width * pixels * (4 if devices.dtype == torch.float32 else 2)


@contextmanager
def on_device(network: nn.Module, device: torch.device, needed: int = 0) -> Iterator[None]:
    """Holds `network` on `device` for the body, which needs `needed` bytes beside its weights, and then lets the
    device's memory go as the setting says.
    """
    if next(network.parameters(), None) is None:  # the host's text encoders: it moves them itself
        yield
        return
    lender = _lender()
    try:
        lender.bring(network, device, needed)
        yield
    except BaseException:
        lender.take_away(network)  # whatever went wrong, a full device would only make it worse
        raise
    if memory_policy() != KEEP_ON_DEVICE or not lender.may_stay():
        lender.take_away(network)


class _Plain:
    """A host without a memory manager, such as A1111."""

    def bring(self, network: nn.Module, device: torch.device, needed: int) -> None:
        if _saves_memory() and not _is_on(network, device):
            # The host has one of the model's parts on the device. It fetches the next one itself when it is used.
            lowvram.send_everything_to_cpu()
        network.to(device)

    def take_away(self, network: nn.Module) -> None:
        if network_device(network).type != "cpu":
            network.to("cpu")
            devices.torch_gc()

    def may_stay(self) -> bool:
        """Not with --lowvram or --medvram: the sampler was promised the whole device."""
        return not _saves_memory()


class OneMoreStepGuest(nn.Module):
    """What a manager gets to see of a network, under the name that it prints: managers write attributes of their own
    into it, such as `device`, which the networks themselves have as properties.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network


class _Managed:
    """A host with Forge's memory manager: a guest network is loaded and evicted through its one ModelPatcher."""

    def __init__(self, memory_manager: Any, patcher_class: Any) -> None:
        self._manager = memory_manager
        self._patcher_class = patcher_class

    def bring(self, network: nn.Module, device: torch.device, needed: int) -> None:
        patcher = self._patcher(network, device)
        self._manager.load_models_gpu([patcher], memory_required=needed)
        # When memory is short the manager leaves weights in RAM, for layers of its own kind that fetch them. Ours are
        # torch's and diffusers', and all of it must be there.
        network.to(device)

    def take_away(self, network: nn.Module) -> None:
        patcher = getattr(network, _PATCHER, None)
        held = self._manager.current_loaded_models
        for i in reversed([i for i, loaded in enumerate(held) if patcher is not None and loaded.model is patcher]):
            held.pop(i).model_unload()
        if network_device(network).type != "cpu":
            network.to("cpu")
            self._manager.soft_empty_cache()

    def may_stay(self) -> bool:
        """The manager evicts what stays as soon as the sampler needs the memory."""
        return True

    def _patcher(self, network: nn.Module, device: torch.device) -> Any:
        """Made once for each network, as the manager knows its guests by it, and gone with the network."""
        if not hasattr(network, _PATCHER):
            guest = OneMoreStepGuest(network)
            patcher = self._patcher_class(guest, load_device=device, offload_device=torch.device("cpu"))
            setattr(network, _PATCHER, patcher)
        return getattr(network, _PATCHER)


def forget(*networks: nn.Module) -> None:
    """Takes the networks off the device for good: they are about to be dropped."""
    for network in networks:
        _lender().take_away(network)


def _lender() -> _Plain | _Managed:
    return _Plain() if manager is None else _Managed(manager, ModelPatcher)


def network_device(network: nn.Module) -> torch.device:
    """Where a network's weights are; the CPU for one that has none."""
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))


def _is_on(network: nn.Module, device: torch.device) -> bool:
    here = network_device(network)
    return here.type == device.type and (device.index is None or here.index == device.index)


def _saves_memory() -> bool:
    """Whether the host itself moves its model's parts in and out: A1111's --lowvram and --medvram."""
    is_enabled = getattr(lowvram, "is_enabled", None)
    return bool(callable(is_enabled) and shared.sd_model is not None and is_enabled(shared.sd_model))
