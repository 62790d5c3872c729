"""The life of a request: settings, request, x0hat, x_T, host. Nothing flows back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from modules import errors
from torch import Tensor

from lib_oms.errors import OMSError
from lib_oms.library import ModuleEntry
from lib_oms.library.fingerprint import fingerprint
from lib_oms.settings import OMSSettings
from lib_oms.step import Start
from lib_oms.text import TextEncoder
from lib_oms.webui import given, host, host_text, infotext, memory, offer, options, progress, trouble, xyz
from lib_oms.webui.first_step import NotApplicable, first_step
from lib_oms.webui.loaded import LOADED
from lib_oms.webui.request import Request, starts

_CHOSEN = "oms_chosen"  # on p: the module that it was for, the latents, and the choice


def before_generating(p: Any, args: Sequence[Any]) -> None:
    """Refuses a request that asks for what cannot be, and writes into the infotext what is going to be done.

    It is written again, and truly, before sampling; but params.txt, from which a person restores the last settings,
    is saved in between. Where the picture is made in spite of what is wrong, that is said then, too.

    ADetailer calls this once more after sampling, with a copy of `p` that shares the infotext: that the picture went
    without the step stays said.
    """
    went_without = infotext.skipped(p)
    infotext.clear(p)
    setattr(p, _CHOSEN, None)
    axes = xyz.values_of(p)
    try:
        if not OMSSettings.asked_for(args, axes) or not _is_for(p) or host.samples_given_picture(p):
            return
        if went_without is not None:
            infotext.write_skipped(p, went_without)
            return
        settings = _settings(args, axes)
        _refuse_kept(p)
        entry = _chosen(p, settings)
        infotext.write(p, settings, entry)
        setattr(p, _CHOSEN, (settings.module, host.latents_of(p.sd_model), entry))
    except NotApplicable:
        return
    except OMSError as error:
        if not options.continues_on_failure():
            trouble.refuse(p, str(error))


def before_sampling(p: Any, args: Sequence[Any], noise: Tensor, x: Tensor) -> None:
    """Replaces the noise that the host is about to start from, [B, 4, H/8, W/8], by x_T; `x` is what it starts over,
    in img2img the latent of the start picture.

    Pictures to which the step does not apply are made without it, and say so. Everything that goes wrong makes the
    request fail, unless the settings page says to go on and say so: a picture that silently ignored its OMS settings
    would be worse than none.
    """
    axes = xyz.values_of(p)
    try:
        if OMSSettings.asked_for(args, axes) and _is_for(p):
            infotext.clear(p)
            _refuse_kept(p)
            _take_the_step(p, _settings(args, axes), noise, x)
    except NotApplicable as reason:
        _go_without(p, str(reason))
    except Exception as error:
        if not isinstance(error, OMSError):  # where it comes from is for whoever mends it, and not for the page
            errors.report(f"{trouble.NAME} failed", exc_info=True)
        progress.let_go_of(error)
        if options.continues_on_failure():
            infotext.clear(p)
            _go_without(p, f"it failed: {host.message(error)}")
        else:
            host.fail(p, host.message(error))


def _is_for(p: Any) -> bool:
    """Whether what our arguments ask for is meant for this pass: txt2img's first, or that of img2img's own tab, where
    the script stands if the settings page says so.
    """
    return host.is_first_pass(p) or host.of_img2img_tab(p)


def _refuse_kept(p: Any) -> None:
    reason = host.keeps_of_picture(p) if host.is_img2img(p) else None
    if reason is not None:
        raise NotApplicable(reason)


def _settings(args: Sequence[Any], axes: Mapping[str, Any]) -> OMSSettings:
    """The request's settings, as its infotext can hold them."""
    return given.settled(OMSSettings.from_args(args, axes))


def _go_without(p: Any, reason: str) -> None:
    host.say_skipped(p, reason)
    infotext.write_skipped(p, reason)


def _take_the_step(p: Any, settings: OMSSettings, noise: Tensor, x: Tensor) -> None:
    entry, made = begin(p, settings, noise, x if host.is_img2img(p) else None)
    with host.plain_torch():
        x_T = torch.cat([start.x_T for start in made])
    infotext.write(p, settings, entry)
    host.replace_noise(p, noise, x_T)  # last, when nothing is left that could fail


def begin(
    p: Any, settings: OMSSettings, noise: Tensor, pictures: Tensor | None = None
) -> tuple[ModuleEntry | None, list[Start]]:
    """Where the pictures of a batch are to start, and the OMS model that had a part in it.

    Args:
        p: the host's processing object, its sampler made, its prompts and seeds set.
        settings: with small pictures.
        noise: what the host drew, [B, C, H/8, W/8].
        pictures: the latents that img2img starts from, of 1 or B pictures.

    Raises:
        NotApplicable: the step has nothing to do here.
        OMSError: it cannot be taken.
    """
    entry = _chosen(p, settings, usual=noise.ndim == 4 and noise.shape[1] == 4)
    with host.plain_torch():
        x_S = host.noise_of(p, noise)
        request = Request(
            settings=settings,
            prompts=p.prompts,
            seeds=p.seeds,
            subseeds=p.subseeds or [],
            subseed_strength=p.subseed_strength,
            noise=x_S,
            first=first_step(p),
            steps=host.prompt_steps(p),
            given=given.latent(p.sd_model, settings, x_S),
            trims=given.trims(p.sd_model, settings),
            pictures=pictures,
        )
        return entry, _run(request, entry, p.sd_model)


def _chosen(p: Any, settings: OMSSettings, *, usual: bool = True) -> ModuleEntry | None:
    """The module that the request means, for the loaded model; `usual` says that its noise has four channels. None
    where the OMS prompt has no part in the picture.

    offer.choose looks at every module's file: what it said before generating holds for the first batch.
    """
    if not settings.uses_prompt:
        if host.is_flow(p.sd_model):
            raise NotApplicable(host.without_latents(p.sd_model))
        return None
    latents = host.latents_of(p.sd_model) if usual else None
    chosen: tuple[str, str | None, ModuleEntry | None] | None = getattr(p, _CHOSEN, None)
    setattr(p, _CHOSEN, None)
    if chosen is not None and chosen[2] is not None and chosen[:2] == (settings.module, latents):
        return chosen[2]
    return offer.choose(settings.module, latents, host.without_latents(p.sd_model))


def _run(request: Request, entry: ModuleEntry | None, model: Any) -> list[Start]:
    """Runs the module, if one is needed, on the host's device, and leaves the device's memory to the sampler as the
    setting says.
    """
    if entry is None:
        return starts(request, None, {})
    device = host.compute_device()
    drops = options.memory_policy() == options.DROP
    lent = host_text.of(model) if host_text.kind_of(model) == entry.text_encoder else None
    using = LOADED.use(entry, fingerprint(entry.path), host.compute_dtype(), lent, progress.begins)
    try:
        with progress.shown(), using as module:
            encoded = _encoded(request, module.text_encoder, device)
            progress.begins("One More Step")
            guided = request.settings.guidance_scale != 1.0
            needed = memory.working_memory(request.noise, module.psi.config, device, guided)
            with memory.on_device(module.psi, device, needed, dropped_next=drops):
                return starts(request, module, encoded, progress.check)
    finally:
        if drops:
            LOADED.clear()
            host_text.forget()


def _encoded(request: Request, encoder: TextEncoder, device: torch.device) -> dict[str, Tensor]:
    texts = request.texts
    known = encoder.remembered(texts, device)
    if known is None:
        progress.begins("One More Step: reading the prompt")
        with memory.on_device(encoder, device):
            known = []
            for text in texts:
                progress.check()
                known += encoder.encode_each([text])
    return dict(zip(texts, known, strict=True))
