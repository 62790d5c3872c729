"""`<lora:name:weight>` on the UNet (host: extensions-builtin/Lora), by adding weight * up @ down to its layers."""

import re
from pathlib import Path
from typing import Any

import torch
from modules import sd_models, shared
from modules.extra_networks import ExtraNetwork, ExtraNetworkParams
from safetensors.torch import load_file

_KEY = re.compile(r"(?:lora_unet_|unet\.)(?P<layer>.+?)\.(?:lora[._])?(?P<part>down|up|A|B)(?:\.default)?\.weight$")
_ALPHA = re.compile(r"(?:lora_unet_|unet\.)(?P<layer>.+?)\.alpha$")


def list_loras() -> dict[str, Path]:
    """Names in the model folder's lora/; a name in a prompt is looked up here and never joined to a path."""
    return {f.stem: f for f in sorted((sd_models.model_folder() / "lora").glob("*.safetensors"))}


def _deltas(path: Path) -> dict[str, torch.Tensor]:
    """What a LoRA file adds to the weight of each layer, by layer name with "_" for ".". kohya and diffusers names."""
    downs: dict[str, torch.Tensor] = {}
    ups: dict[str, torch.Tensor] = {}
    alphas: dict[str, float] = {}
    for key, tensor in load_file(path).items():
        if match := _ALPHA.match(key):
            alphas[match["layer"].replace(".", "_")] = float(tensor)
        elif match := _KEY.match(key):
            side = downs if match["part"] in ("down", "A") else ups
            side[match["layer"].removesuffix(".processor").replace(".", "_")] = tensor.float()
        else:
            raise ValueError(f"{path.name}: {key} is no LoRA tensor of a UNet.")
    if not downs or downs.keys() != ups.keys():
        raise ValueError(f"{path.name}: every layer needs a down and an up tensor.")
    deltas = {}
    for layer, down in downs.items():
        rank = down.shape[0]
        product = ups[layer].flatten(1) @ down.flatten(1)
        deltas[layer] = product * (alphas.get(layer, rank) / rank)
    return deltas


class ExtraNetworkLora(ExtraNetwork):
    def __init__(self) -> None:
        super().__init__("lora")
        self._original: dict[torch.nn.Parameter, torch.Tensor] = {}

    def activate(self, p: Any, params_list: list[ExtraNetworkParams]) -> None:
        self.deactivate(p)
        available = list_loras()
        layers = {name.replace(".", "_"): m for name, m in shared.sd_model.unet.named_modules() if hasattr(m, "weight")}
        for params in params_list:
            name = params.positional[0]
            weight = float(params.positional[1]) if len(params.positional) > 1 else float(params.named.get("unet", 1.0))
            if name not in available:
                p.comment(f"Networks not found: {name}")
                continue
            for layer, delta in _deltas(available[name]).items():
                if layer not in layers:
                    raise ValueError(f"LoRA {name}: this UNet has no layer {layer}.")
                parameter = layers[layer].weight
                self._original.setdefault(parameter, parameter.detach().clone())
                parameter.data += weight * delta.reshape(parameter.shape)

    def deactivate(self, p: Any) -> None:
        """Puts every changed weight back, to the bit."""
        for parameter, original in self._original.items():
            parameter.data.copy_(original)
        self._original.clear()
