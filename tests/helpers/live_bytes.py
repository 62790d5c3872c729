"""The memory that tensors take, reachable or not. Its text runs in real hosts, too (real_host_helpers.py)."""

import gc

import torch


def live_bytes() -> int:
    """Bytes of the tensors that are alive, whether or not anything can still reach them."""
    storages = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), torch.Tensor):
            storage = thing.untyped_storage()
            storages[storage._cdata] = storage.nbytes()
    return sum(storages.values())
