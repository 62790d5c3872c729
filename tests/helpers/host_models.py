"""Models as hosts leave them, with SDXL's pair of text encoders in them: what an OMS model can borrow."""

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


def a1111_model(pair: tuple) -> Any:
    """As A1111's sd_hijack leaves an SDXL model: the conditioner with its embedders, each wrapped."""
    first = SimpleNamespace(wrapped=SimpleNamespace(transformer=pair[0], tokenizer=pair[1]))
    second = SimpleNamespace(wrapped=OpenClipEmbedder(pair[2]))
    conditioner = nn.Module()
    conditioner.embedders = [first, second]
    return Model(conditioner=conditioner, sd_checkpoint_info=SimpleNamespace(filename="a.safetensors"))


def forge_model(pair: tuple, load_device: torch.device = CPU) -> Any:
    """As Forge's StableDiffusionXL engine."""
    engines = [
        SimpleNamespace(text_encoder=SimpleNamespace(transformer=network), tokenizer=tokenizer, id_pad=pad)
        for network, tokenizer, pad in ((pair[0], pair[1], pair[1].pad_token_id), (pair[2], pair[3], 0))
    ]
    clip = SimpleNamespace(patcher=SimpleNamespace(load_device=load_device))
    return Model(
        text_processing_engine_l=engines[0],
        text_processing_engine_g=engines[1],
        forge_objects_original=SimpleNamespace(clip=clip),
    )


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
        between = found.hidden_states[intermediate_output]
        if final_layer_norm_intermediate:
            between = self.text_model.final_layer_norm(between)
        return found.last_hidden_state, between, found.pooler_output


def first_forge_model(pair: tuple) -> Any:
    """As the forge_loader of reForge and Forge Classic leaves an SDXL model."""
    embedders = [
        SimpleNamespace(wrapped=SimpleNamespace(transformer=LdmPatchedClip(network), tokenizer=tokenizer), id_pad=pad)
        for network, tokenizer, pad in ((pair[0], pair[1], pair[1].pad_token_id), (pair[2], pair[3], 0))
    ]
    return Model(
        conditioner=SimpleNamespace(embedders=[*embedders, object()]),
        forge_objects_original=SimpleNamespace(clip=SimpleNamespace(patcher=object())),
        sd_checkpoint_info=SimpleNamespace(filename="a.safetensors"),
    )


class Model(SimpleNamespace):
    """With an identity, as the hosts' models have."""

    __hash__ = object.__hash__
