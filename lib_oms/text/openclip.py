"""OpenCLIP's text tower as Stable Diffusion 2.x checkpoints hold it, read with transformers' names.

OpenCLIP keeps query, key and value of a layer in one matrix and numbers its layers under `transformer.resblocks`. All
layers but the last are taken: SD2.x uses the hidden states before it (github.com/Stability-AI/stablediffusion,
FrozenOpenCLIPEmbedder with layer "penultimate"). Of ViT-H that makes 23, which is all that a file of diffusers'
scripts/convert_diffusers_to_original_stable_diffusion.py holds: at its width they are counted, not told by the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

CHECKPOINT_PREFIX = "cond_stage_model.model."
TURBO_PREFIX = "conditioner.embedders.0.model."  # SD Turbo is an SD2.1 in the naming of SDXL's code
_HEAD = 64  # width of an attention head, in every size of OpenCLIP
_VIT_H_WIDTH, _VIT_H_LAYERS = 1024, 23
_LAYER = re.compile(r"transformer\.resblocks\.(\d+)\.attn\.in_proj_weight")
_PARTS = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_WHOLE = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}


@dataclass(frozen=True)
class OpenCLIPTower:
    """What a state dict holds of OpenCLIP's text tower; layers counts those that SD2.x runs."""

    prefix: str
    layers: int
    width: int
    intermediate: int
    vocabulary: int
    positions: int

    @property
    def config(self) -> dict[str, Any]:
        """The same as transformers' config.json has it."""
        return {
            "model_type": "clip_text_model",
            "hidden_size": self.width,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.width // _HEAD,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": self.positions,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-5,
            "bos_token_id": 0,
            "eos_token_id": 2,
            "pad_token_id": 1,
        }

    def names(self) -> list[str]:
        """transformers' names of the tensors."""
        layer = [f"{part}.{kind}" for part in _PARTS for kind in ("weight", "bias")]
        layer += [f"self_attn.{letter}_proj.{kind}" for letter in "qkv" for kind in ("weight", "bias")]
        return [*_WHOLE, *(f"encoder.layers.{i}.{name}" for i in range(self.layers) for name in layer)]

    def read(self, wanted: Iterable[str], tensor: Callable[[str], Tensor]) -> Iterable[tuple[str, Tensor]]:
        """The tensors of these names, out of what `tensor` gives for OpenCLIP's names."""
        for name in wanted:
            theirs, third = self._theirs(name)
            value = tensor(self.prefix + theirs)
            yield name, value if third is None else value.chunk(3)[third]

    def _theirs(self, name: str) -> tuple[str, int | None]:
        """OpenCLIP's name, and which third of that tensor is meant."""
        if name in _WHOLE:
            return _WHOLE[name], None
        _, _, layer, rest = name.split(".", 3)
        part, _, kind = rest.rpartition(".")
        block = f"transformer.resblocks.{layer}."
        if part in _PARTS:
            return f"{block}{_PARTS[part]}.{kind}", None
        return f"{block}attn.in_proj_{kind}", "qkv".index(part.removeprefix("self_attn.")[0])


def find_tower(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> OpenCLIPTower | None:
    """OpenCLIP's text tower among tensors of these names and shapes; None where there is none, or not all of it."""
    layers = sum(1 for name in shapes if name.startswith(prefix) and _LAYER.fullmatch(name[len(prefix) :]))
    tokens, positions = (shapes.get(prefix + _WHOLE[name], ()) for name in list(_WHOLE)[:2])
    middle = shapes.get(f"{prefix}transformer.resblocks.0.mlp.c_fc.weight", ())
    if layers < 2 or not len(tokens) == len(positions) == len(middle) == 2 or tokens[1] % _HEAD or not tokens[1]:
        return None
    run = _VIT_H_LAYERS if tokens[1] == _VIT_H_WIDTH else layers - 1
    tower = OpenCLIPTower(prefix, run, tokens[1], middle[0], tokens[0], positions[0])
    whole = all(prefix + tower._theirs(name)[0] in shapes for name in tower.names())
    return tower if whole else None
