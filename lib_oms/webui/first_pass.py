"""A picture of txt2img's first pass as the host would begin it, for whoever wants to look at its first latent.

What hosts do between Generate and the first step is read off process_images of A1111's, Forge's and Forge Neo's
modules/processing.py. Here is only what the step needs: no conditioning, no LoRA, no hook of another extension, nothing
that is written anywhere.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from modules import call_queue, devices, processing, rng, sd_models, sd_samplers, shared
from torch import Tensor

from lib_oms.errors import SettingError
from lib_oms.webui import host

_LOADED = ("sd_model_checkpoint", "sd_vae", "forge_additional_modules", "forge_unet_storage_dtype")
"""Options that say which files are in memory, and how."""


@dataclass(frozen=True)
class Wanted:
    """One picture by the host's own names; a seed of -1 is a random one, a sampler of None the host's first.

    override_settings: options of the host, by name, that are in force for this picture.
    """

    prompt: str = ""
    styles: Sequence[str] = ()
    seed: int = -1
    subseed: int = -1
    subseed_strength: float = 0.0
    width: int = 512
    height: int = 512
    steps: int = 20
    sampler_name: str | None = None
    scheduler: str | None = None
    override_settings: Mapping[str, Any] = field(default_factory=dict)


@contextmanager
def turn(job: str) -> Iterator[None]:
    """Waits until the host generates nothing, and keeps it from beginning for as long as the body takes.

    The host's lock, which its page and its API take for each generation (modules/call_queue.py), and its state, whose
    flags say whether somebody interrupted, and which the page's progress is read from.
    """
    with call_queue.queue_lock:
        shared.state.begin(job=job)
        try:
            yield
        finally:
            shared.state.end()


@contextmanager
def about_to_sample(wanted: Wanted) -> Iterator[tuple[Any, Tensor]]:
    """The host's processing object just before its sampler is called, and the noise [1, C, H/8, W/8] that it drew.

    In a `turn` only: it loads the chosen checkpoint, as generating would. The global random numbers are left alone.

    Raises:
        SettingError: the override settings ask for another checkpoint or VAE than the chosen one.
    """
    _refuse_other_files(wanted.override_settings)
    seed, subseed = (secrets.randbelow(2**32 - 1) if s == -1 else s for s in (wanted.seed, wanted.subseed))
    p = processing.StableDiffusionProcessingTxt2Img(
        prompt=wanted.prompt,
        styles=list(wanted.styles),
        seed=seed,
        subseed=subseed,
        subseed_strength=wanted.subseed_strength,
        width=wanted.width,
        height=wanted.height,
        steps=wanted.steps,
        sampler_name=wanted.sampler_name,
        scheduler=wanted.scheduler,
        override_settings=dict(wanted.override_settings),
        do_not_save_samples=True,
        do_not_save_grid=True,
    )
    with closing(p), _global_random_numbers_kept(), _in_force(wanted.override_settings), _model_loaded(p):
        sd_samplers.fix_p_invalid_sampler_and_scheduler(p)
        if hasattr(p.sd_model, "fix_dimensions"):
            p.width, p.height = p.sd_model.fix_dimensions(p.width, p.height)
        p.setup_prompts()
        p.all_seeds, p.all_subseeds = [seed], [subseed]
        p.prompts, p.negative_prompts = p.all_prompts, p.all_negative_prompts
        p.seeds, p.subseeds = p.all_seeds, p.all_subseeds
        p.parse_extra_network_prompts()
        p.rng = rng.ImageRNG(
            (_channels(p.sd_model), p.height // processing.opt_f, p.width // processing.opt_f),
            p.seeds,
            subseeds=p.subseeds,
            subseed_strength=p.subseed_strength,
            seed_resize_from_h=p.seed_resize_from_h,
            seed_resize_from_w=p.seed_resize_from_w,
        )
        p.sampler = sd_samplers.create_sampler(p.sampler_name, p.sd_model)
        yield p, p.rng.next()


def _refuse_other_files(overrides: Mapping[str, Any]) -> None:
    """To load them for a preview, and the chosen ones again, would take longer than the picture."""
    for name in _LOADED:
        if name not in overrides:
            continue
        asked = overrides[name]
        if not _is_loaded(name, asked):
            label = shared.opts.data_labels[name].label
            raise SettingError(
                f"The override settings ask for another {label} ({name}): {asked!r:.80}. A preview is made with what "
                "is loaded: choose it, or take it out of the override settings."
            )


def _is_loaded(name: str, asked: Any) -> bool:
    if asked == getattr(shared.opts, name, None):
        return True
    if name != "sd_model_checkpoint" or not isinstance(asked, str):
        return False
    known = sd_models.checkpoint_aliases.get(asked)  # the host takes a name that it does not know for none
    return known is None or known.filename == getattr(host.checkpoint_now(), "filename", None)


@contextmanager
def _in_force(overrides: Mapping[str, Any]) -> Iterator[None]:
    """Options of the host as process_images sets them for a picture."""
    data = shared.opts.data
    kept = {name: data[name] for name in overrides if name in data}
    try:
        for name, value in overrides.items():
            if name not in _LOADED:
                shared.opts.set(name, value, is_api=True, run_callbacks=False)
        yield
    finally:
        for name in overrides:
            data.pop(name, None)
        data.update(kept)


@contextmanager
def _model_loaded(p: Any) -> Iterator[None]:
    """The checkpoint that is chosen, without what the last picture put over it, and with the noise schedule that the
    options ask for: A1111 leaves that on the model, Forge takes it back after each picture.
    """
    of_forge = getattr(processing, "manage_model_and_prompt_cache", None)
    if of_forge is not None:
        of_forge(p)
    else:
        sd_models.reload_model_weights()
    original = getattr(p.sd_model, "forge_objects_original", None)
    if original is not None:
        p.sd_model.forge_objects = original.shallow_copy()
    override = getattr(sd_models, "apply_alpha_schedule_override", None)
    if override is not None:
        override(p.sd_model, p)
    rescaled = getattr(processing, "rescale_zero_terminal_snr_sigmas", None)
    if rescaled is None or not _asks_for_zero_snr(p.sd_model):
        yield
        return
    predictor = p.sd_model.forge_objects.unet.model.predictor
    kept = predictor.sigmas
    predictor.set_sigmas(rescaled(kept))
    try:
        yield
    finally:
        predictor.set_sigmas(kept)


def _asks_for_zero_snr(model: Any) -> bool:
    of_checkpoint = getattr(getattr(model, "model_config", None), "ztsnr", False)
    return bool(of_checkpoint) or getattr(shared.opts, "sd_noise_schedule", "") == "Zero Terminal SNR"


def _channels(model: Any) -> int:
    vae = getattr(getattr(model, "forge_objects", None), "vae", None)
    return getattr(vae, "latent_channels", None) or processing.opt_C


@contextmanager
def _global_random_numbers_kept() -> Iterator[None]:
    """Hosts seed torch's global generator where they draw the noise of a variation (modules/rng.py, randn), and draw
    from it where their VAE encodes.
    """
    devices_used = [devices.device] if devices.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices_used):
        yield
