"""`<name:arguments>` in prompts, and LoRA on the UNet (host: modules/extra_networks.py, extensions-builtin/Lora)."""

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from modules import errors, sd_models, shared
from safetensors.torch import load_file

extra_network_registry: dict[str, "ExtraNetwork"] = {}
_TAG = re.compile(r"<(\w+):([^>]+)>")


class ExtraNetworkParams:
    """The arguments of one tag: `items` as written, split in positional and key=value ones."""

    def __init__(self, items: list[str] | None = None) -> None:
        self.items = items or []
        self.positional = [item for item in self.items if "=" not in item]
        self.named = dict(item.split("=", 1) for item in self.items if "=" in item)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ExtraNetworkParams) and self.items == other.items

    __hash__ = None  # type: ignore[assignment]


class ExtraNetwork:
    def __init__(self, name: str) -> None:
        self.name = name

    def activate(self, p: Any, params_list: list[ExtraNetworkParams]) -> None:
        """Called for every batch, with an empty list where the prompt has no such tag."""
        raise NotImplementedError

    def deactivate(self, p: Any) -> None:
        raise NotImplementedError


def register_extra_network(network: ExtraNetwork) -> None:
    extra_network_registry[network.name] = network


def parse_prompt(prompt: str) -> tuple[str, dict[str, list[ExtraNetworkParams]]]:
    """The prompt without tags, and the tags by name."""
    data: dict[str, list[ExtraNetworkParams]] = defaultdict(list)
    for name, arguments in _TAG.findall(prompt):
        data[name].append(ExtraNetworkParams(arguments.split(":")))
    return _TAG.sub("", prompt), data


def parse_prompts(prompts: list[str]) -> tuple[list[str], dict[str, list[ExtraNetworkParams]]]:
    """All prompts without tags; the tags of the first one count for the whole batch, as in the host."""
    parsed = [parse_prompt(prompt) for prompt in prompts]
    return [text for text, _ in parsed], parsed[0][1] if parsed else {}


def activate(p: Any, extra_network_data: dict[str, list[ExtraNetworkParams]]) -> None:
    for name, network in extra_network_registry.items():
        try:
            network.activate(p, extra_network_data.get(name, []))
        except Exception as e:
            errors.display(e, f"activating extra network {name}")
    if p.scripts is not None:
        p.scripts.after_extra_networks_activate(
            p, batch_number=p.iteration, prompts=p.prompts, seeds=p.seeds, subseeds=p.subseeds,
            extra_network_data=extra_network_data,
        )


def deactivate(p: Any, extra_network_data: dict[str, list[ExtraNetworkParams]]) -> None:
    for name, network in extra_network_registry.items():
        try:
            network.deactivate(p)
        except Exception as e:
            errors.display(e, f"deactivating extra network {name}")


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
    """`<lora:name:weight>`, by adding weight * up @ down to the weights of layers."""

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
