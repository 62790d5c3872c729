"""Weights, gradients, optimizer and moving average shared out among the processes: for a psi too large for one device.

By torch's own `fully_shard`, which is what accelerate's FSDP calls as well, though not on CPUs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import torch

from lib_oms.errors import SettingError
from lib_oms.training.settings import TrainingSettings

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

    from lib_oms.psi import OMSUNet


def check(settings: TrainingSettings, processes: int) -> None:
    """Raises SettingError where sharding is asked for and not possible, and says why."""
    if not settings.shard:
        return
    if processes == 1:
        raise SettingError("shard: needs several processes; start them with torchrun or accelerate launch.")
    try:
        from torch.distributed.fsdp import fully_shard  # noqa: F401
    except ImportError as error:
        raise SettingError(f"shard: needs torch 2.6 or newer, and this is {torch.__version__}.") from error
    if settings.precision == "fp16":
        raise SettingError("shard: not with precision fp16; use --precision bf16 or no.")
    if settings.channels_last:
        raise SettingError("shard: not with channels_last, for weights are cut up as they lie in files.")


def shard(psi: OMSUNet, device: torch.device) -> OMSUNet:
    """Leaves each process its part of every block's weights; a block is whole only while it is worked on."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for block in (*psi.down_blocks, psi.mid_block, *psi.up_blocks, psi):
        fully_shard(block, mesh=mesh)
    return psi


def whole(tensors: Mapping[str, torch.Tensor], *, keep: bool) -> dict[str, torch.Tensor]:
    """The tensors in one piece, on the CPU where they were shared out. All processes must ask; who does not `keep` them
    gets none.
    """
    found = {}
    for name, tensor in tensors.items():
        full = tensor
        if is_shared(tensor):
            full = cast("DTensor", tensor).full_tensor().cpu()
        if keep:
            found[name] = full
    return found


def fill(target: torch.Tensor, tensor: torch.Tensor) -> None:
    """Copies a whole tensor into one that may be shared out; then all processes must do so."""
    if is_shared(target):
        from torch.distributed.tensor import distribute_tensor

        there = cast("DTensor", target)
        tensor = distribute_tensor(tensor.to(there.device, there.dtype), there.device_mesh, there.placements)
    target.copy_(tensor)


def is_shared(tensor: torch.Tensor) -> bool:
    """Whether this process has only a part of it."""
    return hasattr(tensor, "full_tensor")
