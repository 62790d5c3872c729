"""Models as hosts leave them, with their text encoders in them: what an OMS model can borrow.

Each takes text encoders, each followed by its tokenizer: SDXL's two, or the one of SD1.x, or of SD2.x.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

CPU = torch.device("cpu")


class OpenClipEmbedder(nn.Module):
    """sgm's FrozenOpenCLIPEmbedder2 by its interface, around transformers' bigG: both compute the same."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.positional_embedding = network.text_model.embeddings.position_embedding.weight
        self.model.vocab_size = network.config.vocab_size
        self.network = network

    def encode_with_transformer(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        states = self.network(input_ids=ids, output_hidden_states=True).hidden_states
        return {"penultimate": states[-2], "last": states[-1]}


def a1111_model(parts: tuple) -> Any:
    """As A1111's sd_hijack leaves it: the conditioner of an SDXL with its embedders, each wrapped, or the one of an
    SD1.x.
    """
    model = Model(sd_checkpoint_info=SimpleNamespace(filename="a.safetensors"))
    first = SimpleNamespace(wrapped=SimpleNamespace(transformer=parts[0], tokenizer=parts[1]))
    if len(parts) == 2:
        model.is_sd1, model.cond_stage_model = True, first
        return model
    model.conditioner = nn.Module()
    model.conditioner.embedders = [first, SimpleNamespace(wrapped=OpenClipEmbedder(parts[2]))]
    return model


def forge_model(parts: tuple, load_device: torch.device = CPU) -> Any:
    """As Forge's engines StableDiffusionXL, StableDiffusion and StableDiffusion2."""
    engines = [
        SimpleNamespace(text_encoder=SimpleNamespace(transformer=network), tokenizer=tokenizer, id_pad=pad)
        for network, tokenizer, pad in _with_pads(parts)
    ]
    names = ("_l", "_g") if len(parts) == 4 else ("",)
    clip = SimpleNamespace(patcher=SimpleNamespace(load_device=load_device))
    return Model(
        **{f"text_processing_engine{name}": engine for name, engine in zip(names, engines, strict=True)},
        **_flags(parts),
        forge_objects_original=SimpleNamespace(clip=clip),
    )


def _with_pads(parts: tuple) -> list[tuple]:
    return [(parts[i], parts[i + 1], parts[i + 1].pad_token_id) for i in range(0, len(parts), 2)]


def _flags(parts: tuple) -> dict[str, bool]:
    """SD2.x pads with "!", token 0."""
    if len(parts) == 4:
        return {"is_sdxl": True}
    return {"is_sd2": True} if parts[1].pad_token_id == 0 else {"is_sd1": True}


class LdmPatchedClip(nn.Module):
    """ldm_patched/modules/clip_model.py's CLIPTextModel by its interface, around transformers'."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.text_model = network.text_model

    def forward(
        self,
        input_tokens: Any,
        attention_mask: Any = None,
        intermediate_output: Any = None,
        final_layer_norm_intermediate: bool = True,
    ) -> tuple:
        found = self.text_model(input_ids=input_tokens, output_hidden_states=True)
        between = None if intermediate_output is None else found.hidden_states[intermediate_output]
        if between is not None and final_layer_norm_intermediate:
            between = self.text_model.final_layer_norm(between)
        return found.last_hidden_state, between, found.pooler_output


def first_forge_model(parts: tuple) -> Any:
    """As the forge_loader of reForge and Forge Classic leaves it; an SD2.x says there that it is an SD1.x."""
    embedders = [
        SimpleNamespace(
            wrapped=SimpleNamespace(transformer=LdmPatchedClip(network), tokenizer=tokenizer),
            id_pad=pad,
            id_end=tokenizer.eos_token_id,
        )
        for network, tokenizer, pad in _with_pads(parts)
    ]
    held = {"conditioner": SimpleNamespace(embedders=[*embedders, object()])}
    if len(parts) == 2:
        held = {"cond_stage_model": embedders[0], "is_sd1": True}
    return Model(
        **held,
        forge_objects_original=SimpleNamespace(clip=SimpleNamespace(patcher=object())),
        sd_checkpoint_info=SimpleNamespace(filename="a.safetensors"),
    )


class Model(SimpleNamespace):
    """With an identity, as the hosts' models have."""

    __hash__ = object.__hash__
