"""`<name:arguments>` in prompts (host file: modules/extra_networks.py)."""

import re
from collections import defaultdict
from typing import Any

from modules import errors

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
