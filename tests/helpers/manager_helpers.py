"""Memory managers as Forge and Forge Neo have them (backend/memory_management.py, backend/patcher/base.py), as far as a
guest sees them: what they write into its model, what they keep of it and how strongly, and room for one model.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import nn


class LoraLoader:
    """Forge's, which its model holds and which holds its model."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.backup: dict[str, torch.Tensor] = {}


class ForgePatcher:
    made = 0

    def __init__(self, model: nn.Module, load_device: torch.device, offload_device: torch.device) -> None:
        self.model, self.load_device, self.offload_device = model, load_device, offload_device
        self.current_device = offload_device
        if not hasattr(model, "lora_loader"):
            model.lora_loader = LoraLoader(model)
        self.lora_loader = model.lora_loader
        type(self).made += 1


class ForgeLoaded:
    """Holds the patcher, and after loading the model, too."""

    def __init__(self, patcher: ForgePatcher) -> None:
        self.model = patcher
        self.device = patcher.load_device

    def model_load(self) -> None:
        self.real_model = self.model.model.to(self.device)
        self.model.current_device = self.device

    def model_unload(self) -> None:
        self.model.model.to(self.model.offload_device)
        self.model.current_device = self.model.offload_device

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ForgeLoaded) and self.model is other.model

    __hash__ = None  # type: ignore[assignment]


class ForgeManager:
    loaded, patcher = ForgeLoaded, ForgePatcher

    def __init__(self) -> None:
        self.current_loaded_models: list[Any] = []

    def load_models_gpu(self, models: list[Any], memory_required: int = 0) -> None:
        self.asked = memory_required
        for patcher in models:
            loaded = self.loaded(patcher)
            if loaded in self.current_loaded_models:
                continue
            while self.current_loaded_models:
                self.current_loaded_models.pop().model_unload()
            loaded.model_load()
            self.current_loaded_models.insert(0, loaded)

    def load_model_gpu(self, model: Any) -> None:
        self.load_models_gpu([model])

    def soft_empty_cache(self) -> None:
        return None


class NeoPatcher:
    made = 0

    def __init__(self, model: nn.Module, load_device: torch.device, offload_device: torch.device) -> None:
        self.model, self.load_device, self.offload_device = model, load_device, offload_device
        self.model.device = None
        self.pinned: set[str] = set()
        type(self).made += 1

    def pin(self) -> None:
        """As partially_unload does under --pin-shared-memory."""
        self.pinned.update(name for name, _ in self.model.named_parameters())

    def unpin_all_weights(self) -> None:
        for name in list(self.pinned):
            assert self.model.get_parameter(name).numel(), "unpinned too late: the memory is gone already"
            self.pinned.remove(name)

    def detach(self, unpatch_all: bool = True) -> None:
        if unpatch_all:
            self.unpin_all_weights()
            self.model.to(self.offload_device)

    def __del__(self) -> None:
        self.unpin_all_weights()
        self.detach(unpatch_all=False)


class NeoLoaded:
    """Holds neither patcher nor model, and wants to hear of the model's end."""

    def __init__(self, patcher: NeoPatcher) -> None:
        self._model = weakref.ref(patcher)
        self.device = patcher.load_device
        self.real_model: Any = None
        self.model_finalizer: Any = None

    @property
    def model(self) -> NeoPatcher | None:
        return self._model()

    def model_load(self) -> None:
        model = self.model.model.to(self.device)
        self.real_model = weakref.ref(model)
        self.model_finalizer = weakref.finalize(model, lambda: None)
        self.model_finalizer.atexit = False

    def model_unload(self) -> None:
        self.model.detach()
        self.model_finalizer.detach()
        self.model_finalizer = self.real_model = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NeoLoaded) and self.model is other.model

    __hash__ = None  # type: ignore[assignment]

    @property
    def is_dead(self) -> bool:
        """What the manager calls a memory leak, and answers with a full collection before it loads anything."""
        return self.real_model is not None and self.real_model() is not None and self.model is None


class NeoManager(ForgeManager):
    loaded, patcher = NeoLoaded, NeoPatcher

    def load_models_gpu(self, models: list[Any], memory_required: int = 0) -> None:
        assert not any(loaded.is_dead for loaded in self.current_loaded_models), "potential memory leak detected"
        super().load_models_gpu(models, memory_required)


MANAGERS = {"forge": ForgeManager, "neo": NeoManager}
