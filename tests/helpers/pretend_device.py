"""A device that this machine lacks, pretended: tensors that were moved to it say so, and are computed on the CPU.

As on a real one, what was asked for as `cuda` is then on `cuda:0`, and tensors of two devices do not mix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

_MAY_MIX = {"to", "copy_", "__setitem__", "__getitem__", "__set__", "__get__"}
_SAID_BY_ITSELF = {"device", "shape", "dtype", "is_meta", "requires_grad", "__class__"}


class There(Tensor):
    """A tensor on the pretended device; `held` is what it is on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor, device: torch.device) -> There:
        made = Tensor._make_wrapper_subclass(cls, held.shape, strides=held.stride(), dtype=held.dtype, device=device)
        made.held = held.detach()
        return made

    def __init__(self, held: Tensor, device: torch.device) -> None: ...

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ == "detach":
            return There(args[0].held, args[0].device)
        raise NotImplementedError(f"{func} outside of PretendDevice")

    def __repr__(self) -> str:
        return f"There({self.held!r}, {self.device})"


class PretendDevice(TorchFunctionMode):
    """Entered as a context: inside, `torch.device(kind)` works, and `moved` counts the elements that came to it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.moved = 0

    def __torch_function__(self, func: Callable, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        of = getattr(getattr(func, "__self__", None), "__name__", "")  # of a getter such as Tensor.device
        if of in _SAID_BY_ITSELF or name == "_parse_to" or func is torch.device:
            return func(*args, **kwargs)
        given = tree_flatten((args, kwargs))[0]
        there = [value for value in given if isinstance(value, There)]
        if name == "_has_compatible_shallow_copy_type" and there:
            return False  # as between all devices, so that Module.to makes new parameters
        if name == "cpu":
            return self.__torch_function__(Tensor.to, types, (*args, torch.device("cpu")))
        asked = [device for value in given if (device := self._device(value)) is not None]
        if not there and not any(device.type == self.kind for device in asked):
            return func(*args, **kwargs)
        plain = [value for value in given if isinstance(value, Tensor) and not isinstance(value, There) and value.ndim]
        if there and plain and name not in _MAY_MIX:
            raise RuntimeError(f"{name}: expected all tensors to be on the same device, not {self.kind} and cpu")
        result = func(*tree_map(self._here, list(args)), **tree_map(self._here, dict(kwargs)))
        own = {id(value.held): value for value in there}  # what is changed in place stays itself
        target = asked[0] if asked else (there[0].device if there else None)
        if target is None or target.type != self.kind:
            return result
        if asked and not there:
            self.moved += sum(v.numel() for v in tree_flatten(result)[0] if isinstance(v, Tensor))
        device = torch.device(self.kind, target.index or 0)

        def there_again(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            return own[id(value)] if id(value) in own else There(value, device)

        return tree_map(there_again, result)

    def _device(self, value: Any) -> torch.device | None:
        if isinstance(value, str) and value.partition(":")[0] in (self.kind, "cpu", "meta"):
            return torch.device(value)
        return value if isinstance(value, torch.device) else None

    def _here(self, value: Any) -> Any:
        if isinstance(value, There):
            return value.held
        device = self._device(value)
        return torch.device("cpu") if device is not None and device.type == self.kind else value
