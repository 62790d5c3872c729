"""Weights that are lent to a device: those in RAM stay where they are, and copies of them compute."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


class Lent:
    """What a network has in RAM, before it goes to a device, and the way back to it.

    Weights do not change while a network only computes. So nothing has to be carried back: the copies on the device are
    let go, which takes no time, and the weights are to the bit, and in the same memory, what they were. RAM holds one
    copy all the while. On the CPU nothing is copied, and there is nothing to put back.
    """

    def __init__(self, network: nn.Module) -> None:
        self._kept = [(slots, name, own, own.data) for slots, name, own in _slots(network) if own.device.type == "cpu"]

    def put_back(self) -> None:
        """The network's weights are those in RAM again; of the copies nothing is left here.

        What was on a device before stays there.
        """
        # Hosts call with inference mode on; weights that got another content in it could never leave it.
        with torch.inference_mode(False), torch.no_grad():
            for slots, name, own, data in self._kept:
                slots[name] = _holding(own, data)


def _slots(network: nn.Module) -> Iterator[tuple[dict[str, Any], str, Tensor]]:
    for part in network.modules():
        kinds: tuple[dict[str, Any], ...] = (part._parameters, part._buffers)
        for slots in kinds:
            for name, tensor in slots.items():
                if tensor is not None:
                    yield slots, name, tensor


def _holding(own: Tensor, data: Tensor) -> Tensor:
    """`own` with this content; another tensor where torch does not let it change, as it was moved in inference mode."""
    if own.device.type == "cpu" and own.data_ptr() == data.data_ptr():
        return own
    try:
        own.data = data
    except RuntimeError:
        return nn.Parameter(data, requires_grad=own.requires_grad) if isinstance(own, nn.Parameter) else data
    return own
