"""A LoRA for the embedded model: low-rank additions to the denoiser's weights (Hu et al., arXiv 2106.09685)."""

from __future__ import annotations

import torch
from torch.nn.utils import parametrize


class _LowRank(torch.nn.Module):
    """W + B A, where A and B are thin; a convolution's kernel counts as columns."""

    def __init__(self, weight: torch.Tensor, rank: int) -> None:
        super().__init__()
        out_features, columns = weight.shape[0], weight[0].numel()
        self.a = torch.nn.Parameter(torch.randn(rank, columns) / columns**0.5)
        self.b = torch.nn.Parameter(torch.zeros(out_features, rank))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + (self.b @ self.a).view_as(weight)


class LoRALayers:
    """Low-rank additions to every convolution and projection of a denoiser's blocks.

    Args:
        unet: changed in place: its weights are parametrized, and only the additions are trained.
    """

    def __init__(self, unet: torch.nn.Module, rank: int) -> None:
        self._layers: dict[str, _LowRank] = {}
        self._shapes: dict[str, torch.Size] = {}
        for name, layer in list(unet.named_modules()):
            if "_blocks." not in name and "mid_block." not in name:
                continue
            if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear)):
                low = _LowRank(layer.weight, rank)
                self._shapes[name] = layer.weight.shape
                parametrize.register_parametrization(layer, "weight", low)
                self._layers[name] = low

    def parameters(self) -> list[torch.nn.Parameter]:
        """What is trained."""
        return [p for layer in self._layers.values() for p in layer.parameters()]

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The additions in half precision under diffusers' names: unet.<layer>.lora_A.weight and lora_B.weight."""
        tensors = {}
        for name, layer in self._layers.items():
            shape = self._shapes[name]
            a, b = layer.a.detach(), layer.b.detach()
            if len(shape) == 4:
                a, b = a.view(-1, *shape[1:]), b[:, :, None, None]
            tensors[f"unet.{name}.lora_A.weight"] = a.half().contiguous()
            tensors[f"unet.{name}.lora_B.weight"] = b.half().contiguous()
        return tensors


def merge_lora(unet: torch.nn.Module, tensors: dict[str, torch.Tensor], weight: float = 1.0) -> None:
    """Adds a LoRA to a denoiser's weights in place; merge with -weight to take it out again.

    Args:
        tensors: as `LoRALayers.state_dict` gives them.

    Raises:
        KeyError: for a layer that the denoiser does not have.
    """
    layers = dict(unet.named_modules())
    with torch.no_grad():
        for key in (k for k in tensors if k.endswith(".lora_A.weight")):
            name = key.removeprefix("unet.").removesuffix(".lora_A.weight")
            a, b = tensors[key], tensors[key.replace(".lora_A.", ".lora_B.")]
            target = layers[name].weight
            target += weight * (b.flatten(1).float() @ a.flatten(1).float()).view_as(target).to(target)
