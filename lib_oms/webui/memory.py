"""Whose the device's memory is: for the step ours, before and after it the sampler's.

The text encoder and psi come to the device one after the other, each only while it computes. Where they stay
afterwards is the setting "OMS memory policy". What does not stay there is lent to the device: it stays in RAM, a copy
computes, and nothing is carried back. What is dropped gives its memory back at once, without waiting for Python's
collector and whoever may still hold a reference.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from weakref import WeakKeyDictionary

import torch
from modules import devices, shared
from torch import Tensor, nn
from torch.nn import functional as F

from lib_oms.psi import OMSUNetConfig
from lib_oms.webui.options import KEEP_ON_DEVICE, memory_policy
from lib_oms.weights import Lent

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

_PATCHERS: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()
"""The ModelPatcher of each network that a manager has seen: managers may hold it weakly (Forge Neo), so it has to live
as long as its network is wanted, and not on the network, or the two would only be freed together by the collector.
`forget` takes it out.
"""
_TURN = threading.RLock()
"""Whoever has a network on the device; nobody moves or drops one meanwhile."""
_FEATURE_MAPS = 64
"""How many feature maps of psi's first width are alive at once with guidance, rounded up to twice of what was counted:
skips, attention, their copies, and what the kernels of convolutions take beside them.
"""
_SCORES = 2
"""How often attention that is not fused holds its scores at once: before and after softmax, both in float32."""


def working_memory(noise: Tensor, config: OMSUNetConfig, device: torch.device, guided: bool) -> int:
    """Bytes that psi's forward takes on `device` for one picture of `noise` [B, 4, h, w], `guided` or not.

    Those of the weights are not among them.
    """
    pixels = noise.shape[-1] * noise.shape[-2]
    itemsize = 4 if devices.dtype == torch.float32 else 2
    needed = _FEATURE_MAPS * config.block_out_channels[0] * pixels * itemsize
    if fused_attention(device, devices.dtype, config.block_out_channels[-1] // config.num_attention_heads[-1]):
        return needed
    scores = [
        heads * (pixels // 4**level) ** 2
        for level, (heads, kind) in enumerate(zip(config.num_attention_heads, config.down_block_types, strict=True))
        if "Attn" in kind
    ]
    return needed + (2 if guided else 1) * _SCORES * 4 * max(scores, default=0)


def fused_attention(device: torch.device, dtype: torch.dtype, width: int) -> bool:
    """Whether torch computes attention of heads of this width on `device` without holding every score at once.

    What cannot tell is taken for a device that does not: that asks a manager for too much, not for too little.
    """
    choose = getattr(torch, "_fused_sdp_choice", None)  # scaled_dot_product_attention's own question
    if choose is None or not hasattr(F, "scaled_dot_product_attention"):
        return False
    try:
        heads = torch.empty(1, 1, 64, width, dtype=dtype, device=device)
        return choose(heads, heads, heads) != 0  # 0 is the plain mathematics
    except Exception:  # no such kernel for this device: torch has errors of many kinds for that
        return False


@contextmanager
def on_device(
    network: nn.Module, device: torch.device, needed: int = 0, *, dropped_next: bool = False
) -> Iterator[None]:
    """Holds `network` on `device` for the body, and then lets the device's memory go as the setting says.

    Args:
        network: psi or a text encoder.
        device: where it is to compute.
        needed: bytes that the body takes there beside the weights.
        dropped_next: it is left there, as to move it would be for nothing.
    """
    if next(network.parameters(), None) is None:  # the host's text encoders: it moves them itself
        yield
        return
    lender = _lender()
    with _TURN:
        stays = dropped_next or (memory_policy() == KEEP_ON_DEVICE and lender.may_stay())
        lent = None if stays else Lent(network)  # what stays on the device leaves RAM free
        try:
            lender.bring(network, device, needed)
            yield
        except BaseException:
            lender.take_away(network, lent)  # whatever went wrong, a full device would only make it worse
            raise
        if not stays:
            lender.take_away(network, lent)


class _Plain:
    """A host without a memory manager, such as A1111."""

    def bring(self, network: nn.Module, device: torch.device, needed: int) -> None:
        if _saves_memory() and not _is_on(network, device):
            # The host has one of the model's parts on the device. It fetches the next one itself when it is used.
            lowvram.send_everything_to_cpu()
        _move(network, device)

    def take_away(self, network: nn.Module, lent: Lent | None) -> None:
        if _to_ram(network, lent):
            devices.torch_gc()

    def drop(self, network: nn.Module) -> None:
        was_on = network_device(network)
        _release(network)
        if was_on.type != "cpu":
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
        _move(network, device)

    def take_away(self, network: nn.Module, lent: Lent | None) -> None:
        was_there = _to_ram(network, lent)  # first: else evicting would carry what is only lent
        self._evict(_PATCHERS.get(network))
        if was_there:
            self._manager.soft_empty_cache()

    def drop(self, network: nn.Module) -> None:
        """The weights go first, so that evicting does not carry them to RAM; what the manager wrote down of them, such
        as Forge Neo's pinned memory, is taken back by the manager's own means.
        """
        patcher = _PATCHERS.pop(network, None)
        was_on = network_device(network)
        unpin = getattr(patcher, "unpin_all_weights", None)
        if callable(unpin):
            unpin()
        _release(network)
        self._evict(patcher)
        if patcher is not None:
            del patcher.model.network  # Forge's LoraLoader and the model that it is of hold each other
        if was_on.type != "cpu":
            self._manager.soft_empty_cache()

    def may_stay(self) -> bool:
        """The manager evicts what stays as soon as the sampler needs the memory."""
        return True

    def _evict(self, patcher: Any | None) -> None:
        held = self._manager.current_loaded_models
        for i in reversed([i for i, loaded in enumerate(held) if patcher is not None and loaded.model is patcher]):
            held.pop(i).model_unload()

    def _patcher(self, network: nn.Module, device: torch.device) -> Any:
        """Made once for each network, as the manager knows its guests by it."""
        if network not in _PATCHERS:
            guest = OneMoreStepGuest(network)
            _PATCHERS[network] = self._patcher_class(guest, load_device=device, offload_device=torch.device("cpu"))
        return _PATCHERS[network]


def forget(*networks: nn.Module) -> None:
    """Drops the networks for good: the memory of their weights is free when this returns, whoever still holds them.
    They cannot be used any more.
    """
    with _TURN:
        for network in networks:
            _lender().drop(network)
    if networks:
        give_back_freed_pages()


def _move(network: nn.Module, device: torch.device) -> None:
    """As `network.to`, which takes milliseconds of Python to find out that there is nothing to do."""
    if not _is_on(network, device):
        network.to(device)


def _to_ram(network: nn.Module, lent: Lent | None) -> bool:
    """What is lent goes back; what another policy left on a device is carried. Tells whether anything was on one."""
    was_on = network_device(network)
    if lent is not None:
        lent.put_back()
    _move(network, torch.device("cpu"))
    return was_on.type != "cpu"


def _release(network: nn.Module) -> None:
    """Leaves every weight of `network` without content.

    A reference may be left anywhere: in a manager's list, in the frames of an exception, in a cycle of the host's own.
    """
    with torch.inference_mode(False), torch.no_grad():
        for part in network.modules():
            for name, weight in part._parameters.items():
                if weight is not None and not _emptied(weight):
                    part._parameters[name] = nn.Parameter(_empty_as(weight), requires_grad=False)
            for name, buffer in part._buffers.items():
                if buffer is not None and not _emptied(buffer):
                    part._buffers[name] = _empty_as(buffer)


def _emptied(tensor: Tensor) -> bool:
    """Takes its content from a tensor; False where that cannot be, as the host has moved it in inference mode."""
    try:
        tensor.data = _empty_as(tensor)
    except RuntimeError:
        return False
    return True


def _empty_as(tensor: Tensor) -> Tensor:
    return torch.empty(0, dtype=tensor.dtype, device=tensor.device)


def give_back_freed_pages() -> None:
    """Lets the system have the memory that the C library keeps after it was freed, where that can be asked for it.

    glibc keeps freed blocks of up to 32 MB, as most weights are, for the next allocation.
    """
    if sys.platform.startswith("linux"):
        with suppress(OSError, AttributeError):  # musl has no such call, and needs none
            ctypes.CDLL(None).malloc_trim(0)


def _lender() -> _Plain | _Managed:
    return _Plain() if manager is None else _Managed(manager, ModelPatcher)


def network_device(network: nn.Module) -> torch.device:
    """Where a network's weights are, if only some of them: the first device that is not the CPU, else the CPU.

    A manager that runs out of memory while it loads may leave large layers on the device and small ones behind.
    """
    return next((where for where in _devices(network) if where.type != "cpu"), torch.device("cpu"))


def _devices(network: nn.Module) -> Iterator[torch.device]:
    """Of parameters and buffers. Asked several times a picture: `parameters()` takes five times as long."""
    waiting: list[nn.Module | None] = [network]
    while waiting:
        part = waiting.pop()
        if part is not None:
            for tensor in (*part._parameters.values(), *part._buffers.values()):
                if tensor is not None:
                    yield tensor.device
            waiting += part._modules.values()


def _is_on(network: nn.Module, device: torch.device) -> bool:
    return all(
        here.type == device.type and (device.index is None or here.index == device.index) for here in _devices(network)
    )


def _saves_memory() -> bool:
    """Whether the host itself moves its model's parts in and out: A1111's --lowvram and --medvram."""
    is_enabled = getattr(lowvram, "is_enabled", None)
    return bool(callable(is_enabled) and shared.sd_model is not None and is_enabled(shared.sd_model))
