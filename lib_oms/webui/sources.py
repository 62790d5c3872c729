"""Where this host may hold text encoders: what lib_oms.library.text_sources asks for."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lib_oms.library import ModuleEntry, Places, TextSource, find_source
from lib_oms.library.text_sources import LoadedModel, checkpoint_tower
from lib_oms.text import LENT, TEXT_ENCODERS
from lib_oms.webui import host, host_text


def places() -> Places:
    """The host's folders, its checkpoints (the loaded one first), and what the loaded model has or lends."""
    model = host.loaded_model()
    lent, latents = host_text.kind_of(model), host.latents_of(model)
    return Places(
        tuple(host.module_folders()),
        tuple(host.checkpoint_places(model)),
        tuple(host.tokenizer_folders()),
        loaded_openclip(model),
        lends=() if lent is None else (lent,),
        # Not where such a checkpoint is loaded and lends nothing: an SD2.x, or one of a host that is not known here.
        will_lend=tuple(kind for kind in LENT if kind == lent or TEXT_ENCODERS[kind].latents != latents),
    )


def source_of(entry: ModuleEntry) -> TextSource:
    """Where a module's text encoder comes from.

    Raises:
        ModuleFileError: nowhere.
    """
    return find_source(entry, places())


def loaded_openclip(model: Any) -> LoadedModel | None:
    """OpenCLIP's text tower of a loaded SD2.x, as A1111 holds it (modules/sd_hijack.py: the embedder is `wrapped`), or
    Forge (backend/diffusion_engine/sd20.py).

    None for any other model, and where the model's file is a .safetensors that holds it: then it is read from there.
    """
    if not getattr(model, "is_sd2", False):
        return None
    info = getattr(model, "sd_checkpoint_info", None)
    name = str(getattr(info, "filename", "") or "without a name")
    stage = getattr(model, "cond_stage_model", None)
    tower = getattr(getattr(stage, "wrapped", stage), "model", None)
    if checkpoint_tower(name) is not None:
        return None
    if not isinstance(tower, nn.Module):
        return _of_forge(model, name)
    tensors = _without_lora(tower)
    return LoadedModel(name, {key: tuple(tensor.shape) for key, tensor in tensors.items()}, tensors.__getitem__)


def _of_forge(model: Any, name: str) -> LoadedModel | None:
    engine = getattr(model, "text_processing_engine", None)
    network = getattr(getattr(engine, "text_encoder", None), "transformer", None)
    config = getattr(network, "config", None)
    if not isinstance(network, nn.Module) or config is None:
        return None

    def fetch() -> None:
        host_text.fetch_clip(model)  # where a LoRA is active, this puts the model's own weights back

    def tensor(name: str) -> torch.Tensor:
        return network.get_parameter(name).detach()

    shapes = {name: tuple(value.shape) for name, value in network.named_parameters()}
    return LoadedModel(name, shapes, tensor, config.to_dict(), fetch)


def _without_lora(tower: nn.Module) -> dict[str, torch.Tensor]:
    """The weights by OpenCLIP's names; where A1111's Lora extension has changed one, the copy that it keeps of it."""
    tensors = {name: tensor for name, tensor in tower.state_dict().items() if tensor.device.type != "meta"}
    for name, part in tower.named_modules():
        weights, bias = (getattr(part, f"network_{kind}_backup", None) for kind in ("weights", "bias"))
        kept = {"weight": weights, "bias": bias}
        if isinstance(part, nn.MultiheadAttention):  # its weights are a pair, and its bias is that of the second
            into, out = weights or (None, None)
            kept = {"in_proj_weight": into, "out_proj.weight": out, "out_proj.bias": bias}
        tensors.update({f"{name}.{key}": tensor for key, tensor in kept.items() if tensor is not None})
    # A1111 puts the token embedding into one of its own, for textual inversions.
    return {name.replace(".wrapped.", "."): tensor for name, tensor in tensors.items()}
