"""`<name:arguments>` in prompts, and LoRA on the UNet (host: modules/extra_networks.py, extensions-builtin/Lora)."""

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from modules import errors, sd_models, shared
from safetensors.torch import load_file

from lib_oms.embedded.lora import merge_lora

_TAG = re.compile(r"<(\w+):([^>]+)>")
_original: dict[torch.nn.Module, dict[str, torch.Tensor]] = {}
"""the weights of a UNet before a LoRA was added to them"""


class ExtraNetworkParams:
    """The arguments of one tag: positional and key=value ones."""

    def __init__(self, items: list[str]) -> None:
        self.items = items
        self.positional = [item for item in items if "=" not in item]
        self.named = dict(item.split("=", 1) for item in items if "=" in item)


def parse_prompts(prompts: list[str]) -> tuple[list[str], dict[str, list[ExtraNetworkParams]]]:
    """All prompts without tags; the tags of the first one, by name, count for the whole batch, as in the host."""
    tags: dict[str, list[ExtraNetworkParams]] = defaultdict(list)
    for name, arguments in _TAG.findall(prompts[0]):
        tags[name].append(ExtraNetworkParams(arguments.split(":")))
    return [_TAG.sub("", prompt) for prompt in prompts], tags


def list_loras() -> dict[str, Path]:
    """Names in the model folder's lora/; a name in a prompt is looked up here and never joined to a path."""
    return {f.stem: f for f in sorted((sd_models.model_folder() / "lora").glob("*.safetensors"))}


def activate(p: Any, extra_network_data: dict[str, list[ExtraNetworkParams]]) -> None:
    """Adds every `<lora:name:weight>` to the UNet, and tells the scripts, as before every batch."""
    deactivate()
    try:
        for params in extra_network_data.get("lora", []):
            _add_lora(p, params)
    except Exception:
        errors.report("Error activating extra network lora", exc_info=True)
    if p.scripts is not None:
        p.scripts.after_extra_networks_activate(
            p, batch_number=p.iteration, prompts=p.prompts, seeds=p.seeds, subseeds=p.subseeds,
            extra_network_data=extra_network_data,
        )


def _add_lora(p: Any, params: ExtraNetworkParams) -> None:
    name = params.positional[0]
    weight = float(params.positional[1]) if len(params.positional) > 1 else float(params.named.get("unet", 1.0))
    file = list_loras().get(name)
    if file is None:
        p.comment(f"Networks not found: {name}")
        return
    tensors = load_file(file)
    if foreign := [key for key in tensors if not key.endswith((".lora_A.weight", ".lora_B.weight"))]:
        raise ValueError(f"{file.name}: {foreign[0]} is none of the names that diffusers gives to LoRA tensors.")
    unet = shared.sd_model.unet
    if unet not in _original:
        _original[unet] = {key: tensor.clone() for key, tensor in unet.state_dict().items()}
    merge_lora(unet, tensors, weight)


def deactivate() -> None:
    """Puts every weight back, to the bit."""
    for unet, weights in _original.items():
        unet.load_state_dict(weights)
    _original.clear()
