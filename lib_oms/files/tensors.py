"""Tensors out of a file's mapping, and into a network."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

_THREADS = min(4, os.cpu_count() or 1)


def copied(tensors: Iterable[tuple[str, Tensor]], dtype: torch.dtype) -> dict[str, Tensor]:
    """Copies of tensors on the CPU in a dtype, by name; one on "meta" stays as it is.

    A file that is replaced later must not change a loaded network, so nothing of its mapping is kept. In threads: most
    of the time is the system's, which brings in file and memory page by page.
    """

    def copy(tensor: Tensor) -> Tensor:
        return tensor if tensor.is_meta else tensor.to("cpu", dtype, copy=True)

    with ThreadPoolExecutor(_THREADS) as pool:  # in whose threads no mode of a host's is on
        copies = [(name, pool.submit(copy, tensor)) for name, tensor in tensors]
        return {name: made.result() for name, made in copies}


def fill(network: nn.Module, tensors: Mapping[str, Tensor], *, strict: bool = True) -> None:
    """Gives a network that was made on "meta" its weights, as `load_state_dict` with `assign`.

    Whatever other threads do: while one of them loads a network of its own, accelerate makes every parameter that is
    registered in this process one on "meta", and ours would have lost their content for good.
    """
    network.load_state_dict(tensors, strict=strict, assign=True)
    for name, parameter in list(network.named_parameters()):
        if parameter.is_meta and name in tensors and not tensors[name].is_meta:
            owner, _, leaf = name.rpartition(".")
            network.get_submodule(owner)._parameters[leaf] = nn.Parameter(tensors[name], parameter.requires_grad)
