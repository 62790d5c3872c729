"""psi before its first step: new, or as another OMS model left it; and whether it fits what it is to learn from."""

from __future__ import annotations

import dataclasses
import functools

import torch

from lib_oms.devices import channels_last
from lib_oms.errors import SettingError
from lib_oms.files import LATENTS_NAMES
from lib_oms.psi import ModuleFile, OMSUNet, OMSUNetConfig, inspect_module
from lib_oms.text import TEXT_ENCODERS
from lib_oms.training.chance import seed_for
from lib_oms.training.settings import TrainingSettings


def starting_point(settings: TrainingSettings) -> ModuleFile | None:
    """The OMS model that the training starts from, by its headers; None for a new one.

    Raises:
        ModuleFileError: what `from_` names is no whole OMS model.
        SettingError: it reads another kind of text, or is for other latents that everybody has.
    """
    if not settings.from_:
        return None
    module = inspect_module(settings.from_)
    kind = module.metadata.get("oms.text_encoder", settings.text_kind)
    if kind != settings.text_kind:
        raise SettingError(
            f"from {settings.from_}: this OMS model reads text of the kind {kind}, and text_kind is "
            f"{settings.text_kind}: give --text-kind {kind} and its text encoder, or start from another OMS model."
        )
    latents = module.metadata.get("oms.latents", settings.latents)
    if latents != settings.latents and {latents, settings.latents} <= LATENTS_NAMES.keys():
        raise SettingError(
            f"from {settings.from_}: this OMS model is for the latents {latents}, and latents is {settings.latents}: "
            f"give --latents {latents} with their VAE, or start from another OMS model."
        )
    return module


def architecture(
    settings: TrainingSettings, start: ModuleFile | None, channels: int, width: int, config: OMSUNetConfig | None = None
) -> OMSUNetConfig:
    """psi's configuration, by what it is to learn: latents of `channels` and text of `width`.

    Raises:
        SettingError: `config`, or that of the OMS model to start from, is for others.
    """
    if start is not None:
        config = start.config
    if config is None:
        made = getattr(OMSUNetConfig, settings.size)(cross_attention_dim=width)
        return dataclasses.replace(made, in_channels=channels, out_channels=channels)
    if config.in_channels != channels:
        raise SettingError(f"psi takes latents of {config.in_channels} channels, but these have {channels}.")
    if config.cross_attention_dim != width:
        raise SettingError(
            f"psi takes text of width {config.cross_attention_dim}, but this text encoder gives {width}: "
            "use the text encoder that psi was made for, or a config of that width."
        )
    return config


def refuse_other_width(settings: TrainingSettings, width: int) -> None:
    """A module for the latents that everybody has must read the text that everybody has for it."""
    expected = TEXT_ENCODERS[settings.text_kind].width
    if settings.latents in LATENTS_NAMES and width != expected:
        raise SettingError(
            f"latents {settings.latents} with text_kind {settings.text_kind} needs text of width {expected}, but this "
            f"text encoder gives {width}: name the right folder with --text or the right --text-kind, or give the "
            "latents a name of your own"
        )


def make_psi(
    settings: TrainingSettings, start: ModuleFile | None, config: OMSUNetConfig, device: torch.device
) -> OMSUNet:
    """psi before its first step. New weights depend on the seed alone."""
    if start is not None:
        psi = OMSUNet.from_pretrained(start.path)
        psi.metadata.clear()  # it told how the other was made
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for(settings.seed, "weights"))
            psi = OMSUNet(config)
    psi.train().to(device)
    if settings.channels_last or (settings.channels_last is None and device.type == "cpu" and not settings.shard):
        channels_last(psi)
    if settings.gradient_checkpointing:
        checkpoint_gradients(psi)
    return psi


def checkpoint_gradients(psi: torch.nn.Module) -> None:
    """Has diffusers' blocks recompute their activations in the backward pass instead of keeping them."""
    from torch.utils.checkpoint import checkpoint as recompute

    switches = {
        "gradient_checkpointing": True,
        # diffusers from 0.32 on asks the block for the function; before, it calls torch's itself.
        "_gradient_checkpointing_func": functools.partial(recompute, use_reentrant=False),
    }
    for block in psi.modules():
        if hasattr(block, "gradient_checkpointing"):
            for name, value in switches.items():
                setattr(block, name, value)
