"""One More Step for diffusers' own pipelines: `oms(pipe, prompt=...)` in place of `pipe(prompt=...)`.

The pipeline stays as it is. It is only given other `latents` than it would draw itself: x_T for the first noise level
of its scheduler, which is found by trying the scheduler out (a copy of it), not by its name.
"""

from __future__ import annotations

import copy
import inspect
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lib_oms.errors import OMSError
from lib_oms.given import Style, VAELatents, latents_of, load_style, small_picture, trims_of
from lib_oms.module import OMSModule
from lib_oms.settings import ALL_DETAIL, COLOR, NONE, PICTURE, PROMPT, STYLE, OMSSettings
from lib_oms.step import VANISHING_SIGMA, FirstStep, guided, sigma_of, start_from, x0hat_of
from lib_oms.text import TextEncoder
from lib_oms.text.prompt import MAIN_PROMPT, MOST_TIMES


class OneMoreStep:
    """An OMS module for StableDiffusionPipeline, StableDiffusionXLPipeline and pipelines made like them.

    >>> oms = OneMoreStep.from_pretrained("models/demo")
    >>> oms(pipe, prompt="black background", generator=torch.Generator().manual_seed(1)).images[0]
    >>> OneMoreStep()(pipe, prompt="a lighthouse", color="#1f4e79").images[0]

    Without a module it serves colors, pictures and the trims.
    """

    def __init__(self, module: OMSModule | None = None) -> None:
        self.module = module

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        *,
        text_encoder: TextEncoder | str | os.PathLike[str] | None = None,
    ) -> OneMoreStep:
        """Loads a module's folder or file with its text encoder; arguments and errors as OMSModule.from_pretrained."""
        return cls(OMSModule.from_pretrained(path, dtype, device, text_encoder=text_encoder))

    def to(self, device: torch.device | str) -> OneMoreStep:
        """Moves the module; it may be on another device than the pipeline. Returns self."""
        if self.module is not None:
            self.module.to(device)
        return self

    @torch.no_grad()
    def __call__(
        self,
        pipe: Any,
        prompt: str | list[str] | None = None,
        *,
        oms_prompt: str | list[str] | None = None,
        oms_guidance_scale: float = 1.0,
        oms_negative_prompt: str | list[str] = "",
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        sampler_eta: float | None = None,
        source: str | None = None,
        color: str = "",
        picture: Any = None,
        style: Style | str | os.PathLike[str] | None = None,
        prompt_weight: float = 0.0,
        strength: float = 1.0,
        detail: int = ALL_DETAIL,
        quiet: int | None = None,
        guidance_rescale: float = 0.0,
        brightness: float = 0.0,
        saturation: float = 0.0,
        sampler_guidance_rescale: float | None = None,
        **kwargs: Any,
    ) -> Any:
        """Runs `pipe` from x_T; returns what `pipe` returns.

        The noise is what the pipeline itself would have drawn: with the same generator, a run without OMS starts from
        the same. Fresh noise is drawn after it, and only for eta > 0, so that with eta 0 an ancestral sampler meets the
        same noise further on, too.

        Args:
            pipe: the pipeline; used as it is, scheduler, LoRAs and all.
            prompt: the main prompt, or one per picture.
            oms_prompt: the prompt psi sees, in which [PROMPT] stands for the main prompt; None is the main prompt. One
                for all, or one per prompt.
            oms_guidance_scale: 1 computes no unconditional half.
            oms_negative_prompt: for scales other than 1. One for all, or one per prompt.
            eta: the OMS step's share of fresh noise: 0 is DDIM, 1 is DDPM.
            generator: one, or one per picture.
            latents: x_T^S, N(0, 1), to use in place of drawn noise.
            sampler_eta: the pipeline's own eta, which DDIM schedulers read.
            source: what is followed, as the setting of that name; None is what is given, a color, a picture or a
                style, else the prompt.
            color: "#rrggbb".
            picture: an image of PIL's, or one in base64.
            style: the file of a style, or what `load_style` gives.
            prompt_weight, strength, detail, guidance_rescale, brightness, saturation: as the settings of these names.
            quiet: likewise; None is what suits the source.
            sampler_guidance_rescale: the pipeline's own guidance_rescale.
            kwargs: anything else the pipeline takes.

        Raises:
            OMSError: the step does not apply to this pipeline or scheduler, or an argument does not fit; before any
                sampling.
        """
        takes = inspect.signature(pipe.__call__).parameters
        there = {COLOR: color or None, PICTURE: picture, STYLE: style}
        given_by = [name for name, value in there.items() if value is not None]
        if source is None and len(given_by) > 1:
            both = " and a ".join(given_by)
            raise OMSError(f"there are a {both}; give one of them, or say by source which to follow")
        follows = source or (given_by[0] if given_by else PROMPT)
        if follows in (PICTURE, STYLE) and there[follows] is None:
            raise OMSError(f"source is {follows!r}, but there is no {follows}")
        said: dict[str, Any] = {} if quiet is None else {"quiet": quiet}
        settings = OMSSettings(
            source=follows,
            color=color,
            picture="" if picture is None else small_picture(picture, PICTURE),
            prompt_weight=prompt_weight,
            strength=strength,
            detail=detail,
            guidance_rescale=guidance_rescale,
            brightness=brightness,
            saturation=saturation,
            style="" if style is None else "given",
            **said,
        )
        self._check_pipeline(pipe, takes, settings)
        first = first_step(pipe, takes, kwargs)
        pictures = kwargs.get("num_images_per_prompt") or 1
        count = _count(prompt, kwargs)
        asked, negative = [], []
        if settings.uses_prompt:
            asked = _oms_prompts(prompt, oms_prompt, count, pictures)
            negative = _per_picture(oms_negative_prompt, "oms_negative_prompt", count, pictures)

        noise = _noise(pipe, count * pictures, generator, latents, kwargs)
        fresh = self._fresh_noise(noise, generator, first) if eta > 0 else None
        answer = None
        if settings.uses_prompt:
            assert self.module is not None
            v_cond, v_uncond = self.module.predict_v(noise, asked, negative, oms_guidance_scale)
            v_uncond = None if v_uncond is None else v_uncond.float()
            answer = -guided(v_cond.float(), v_uncond, oms_guidance_scale, guidance_rescale)
        given = None if settings.source == PROMPT else _given(pipe, settings, noise, style)
        x0hat = x0hat_of(answer, given, settings.prompt_weight, None if detail == ALL_DETAIL else settings.detail)
        start = start_from(
            noise.float(),  # so that x_T is rounded to the pipeline's precision once, not twice
            x0hat,
            first,
            strength=settings.strength,
            eta=eta,
            fresh_noise=fresh,
            quiet=settings.quiet,
            trims=trims_of(settings, lambda: _vae(pipe)),
        )
        for name, value in (("eta", sampler_eta), ("guidance_rescale", sampler_guidance_rescale)):
            if value is not None:
                kwargs[name] = value
        return pipe(prompt=prompt, generator=generator, latents=start.to(noise.dtype), **kwargs)

    def _fresh_noise(self, noise: Tensor, generator: Any, first: FirstStep) -> Tensor:
        return _randn(tuple(noise.shape), generator, noise.device, noise.dtype)

    def _check_pipeline(self, pipe: Any, takes: Any, settings: OMSSettings) -> None:
        name = type(pipe).__name__
        if "latents" not in takes or "prompt" not in takes or getattr(pipe, "unet", None) is None:
            raise OMSError(f"{name} takes no latents to start from, or has no UNet; OMS needs a text-to-image pipeline")
        if "strength" in takes:
            raise OMSError(f"{name} starts from a picture; OMS acts on pure noise, so only text-to-image can use it")
        if not settings.uses_prompt:
            return
        if self.module is None:
            raise OMSError(
                "to follow a prompt takes an OMS model: OneMoreStep.from_pretrained(...). Without one there are color "
                "and picture, or the source 'none' with brightness and saturation"
            )
        channels, expected = pipe.unet.config.in_channels, self.module.psi.config.in_channels
        if channels != expected:
            raise OMSError(f"{name}'s UNet has {channels} input channels, this OMS model was made for {expected}")
        # "sd" and "sdxl" are told apart by SDXL's size conditioning; other names cannot be checked against a pipeline.
        found = "sdxl" if getattr(pipe.unet.config, "addition_embed_type", None) == "text_time" else "sd"
        if self.module.latents in ("sd", "sdxl") and self.module.latents != found:
            raise OMSError(
                f"this OMS model was made for {self.module.latents} latents, but {name} has {found} latents; "
                f"use one for {found}"
            )


def first_step(pipe: Any, takes: Any, kwargs: dict[str, Any]) -> FirstStep:
    """The first noise level that `pipe(**kwargs)` will sample from. The pipeline's scheduler is not touched.

    Raises:
        OMSError: the step vanishes (zero terminal SNR), does not apply (flow matching), or the level cannot be known.
    """
    scheduler = copy.deepcopy(pipe.scheduler)
    name = type(scheduler).__name__
    config = scheduler.config
    if _is_flow(scheduler):
        raise OMSError(
            f"{name} is a flow-matching scheduler: its models are trained from pure noise on, so One More Step does "
            "not apply; run the pipeline without it"
        )
    if getattr(config, "rescale_betas_zero_snr", False):
        raise OMSError(
            f"{name} has rescale_betas_zero_snr: its models are trained from pure noise on, so One More Step would "
            "vanish; run the pipeline without it"
        )
    alphas = getattr(scheduler, "alphas_cumprod", None)
    if alphas is None:
        raise OMSError(f"{name} has no alphas_cumprod; One More Step cannot know its first noise level")

    timesteps = _set_timesteps(scheduler, takes, kwargs)
    if len(timesteps) == 0:
        raise OMSError(f"{name} makes no step with these arguments; ask for at least one")
    sigmas = getattr(scheduler, "sigmas", None)
    if sigmas is not None:
        sigma = float(sigmas[0])
    else:
        sigma = sigma_of(float(alphas[int(timesteps[0])]))
    if not 0 < sigma < VANISHING_SIGMA:
        raise OMSError(
            f"{name} starts from noise level {sigma:.4g}; One More Step applies between 0 and {VANISHING_SIGMA:.0f}, "
            "as beyond that nothing of the picture is left in the first latent"
        )
    return FirstStep(sigma, _is_exploding(scheduler, timesteps[0], sigma), float(scheduler.init_noise_sigma))


def _given(pipe: Any, settings: OMSSettings, noise: Tensor, style: Style | str | os.PathLike[str] | None) -> Tensor:
    """The latent of what is followed beside a prompt, shaped as `noise`."""
    if settings.source == NONE:
        return torch.zeros_like(noise, dtype=torch.float32)
    known, encode = _vae(pipe)
    if settings.source == STYLE:
        assert style is not None
        drawn = style if isinstance(style, Style) else load_style(Path(style))
        drawn.check(known.directions(encode))
        return drawn.drawn(noise).to(noise.device)
    height, width = noise.shape[-2:]
    made = known.followed(settings, height, width, encode)
    if made.shape[1] != noise.shape[1]:
        raise OMSError(f"the VAE makes latents of {made.shape[1]} channels, the UNet samples {noise.shape[1]}")
    return made.to(noise.device).expand(noise.shape)


def _vae(pipe: Any) -> tuple[VAELatents, Any]:
    vae = getattr(pipe, "vae", None)
    if vae is None:
        raise OMSError(f"{type(pipe).__name__} has no VAE that could encode a color or a picture")

    def encode(picture: Tensor) -> Tensor:
        dtype = vae.dtype
        # SDXL's own VAE overflows in half precision, and says so in its config, as its pipeline knows when it decodes.
        upcast = dtype == torch.float16 and bool(getattr(vae.config, "force_upcast", False))
        if upcast:
            vae.to(torch.float32)
        try:
            latent = vae.encode((picture * 2 - 1).to(pipe._execution_device, vae.dtype)).latent_dist.mode()
        finally:
            if upcast:
                vae.to(dtype)
        return latent.float() * vae.config.scaling_factor

    return latents_of(vae), encode


def _is_flow(scheduler: Any) -> bool:
    config = scheduler.config
    return (
        type(scheduler).__name__.startswith("FlowMatch")
        or bool(getattr(config, "use_flow_sigmas", False))
        or str(getattr(config, "prediction_type", "")).startswith("flow")
    )


def _set_timesteps(scheduler: Any, takes: Any, kwargs: dict[str, Any]) -> Tensor:
    """As the pipelines' retrieve_timesteps does it; original_inference_steps is what LCM's own pipeline adds."""
    can = inspect.signature(scheduler.set_timesteps).parameters
    given = {name: kwargs[name] for name in ("timesteps", "sigmas") if kwargs.get(name) is not None}
    if len(given) > 1:
        raise OMSError("give timesteps or sigmas, not both")
    for name in given:
        if name not in can:
            raise OMSError(f"{type(scheduler).__name__} takes no {name} of one's own; give num_inference_steps")
    if not given:
        given["num_inference_steps"] = kwargs.get("num_inference_steps", takes["num_inference_steps"].default)
    if kwargs.get("original_inference_steps") is not None and "original_inference_steps" in can:
        given["original_inference_steps"] = kwargs["original_inference_steps"]
    scheduler.set_timesteps(**given)
    return scheduler.timesteps


def _is_exploding(scheduler: Any, timestep: Tensor, sigma: float) -> bool:
    """Whether the scheduler hands the UNet its latents as they are, or divided by sqrt(sigma^2 + 1)."""
    probe = torch.ones(1, 1, 1, 1)
    scale = float(scheduler.scale_model_input(probe, timestep).flatten()[0])
    if math.isclose(scale, 1.0, rel_tol=1e-6):
        return False
    if math.isclose(scale, 1.0 / math.hypot(sigma, 1.0), rel_tol=1e-3):
        return True
    raise OMSError(
        f"{type(scheduler).__name__} scales its first latent by {scale:.4g}, which fits neither form of latents that "
        "One More Step knows"
    )


def _count(prompt: str | list[str] | None, kwargs: dict[str, Any]) -> int:
    if isinstance(prompt, str):
        return 1
    if prompt is not None:
        return len(prompt)
    if kwargs.get("prompt_embeds") is None:
        raise OMSError("give a prompt, or prompt_embeds with an oms_prompt")
    return len(kwargs["prompt_embeds"])


def _per_picture(prompts: str | Sequence[str] | None, name: str, count: int, pictures: int) -> list[str]:
    if prompts is None:
        raise OMSError(f"there is no prompt that {name} could be taken from, only prompt_embeds; give {name} as text")
    prompts = [prompts] if isinstance(prompts, str) else prompts
    if not isinstance(prompts, (list, tuple)) or not all(isinstance(prompt, str) for prompt in prompts):
        raise OMSError(f"{name} is {prompts!r:.80}; give text, or a list of texts")
    if len(prompts) == 1:
        prompts = [*prompts] * count
    if len(prompts) != count:
        raise OMSError(f"{name} has {len(prompts)} texts for {count} prompts; give one for all, or one each")
    return [prompt for prompt in prompts for _ in range(pictures)]


def _oms_prompts(main: Any, asked: Any, count: int, pictures: int) -> list[str]:
    """The OMS prompt of each picture."""
    given = _per_picture(main if asked is None else asked, "oms_prompt", count, pictures)
    if not any(MAIN_PROMPT in text for text in given) or asked is None:
        return given
    if main is None:
        raise OMSError(f"there is no prompt that {MAIN_PROMPT} could stand for, only prompt_embeds; give it as prompt")
    mains = _per_picture(main, "prompt", count, pictures)
    return [text.replace(MAIN_PROMPT, own, MOST_TIMES) for text, own in zip(given, mains, strict=True)]


def _noise(pipe: Any, count: int, generator: Any, latents: Tensor | None, kwargs: dict[str, Any]) -> Tensor:
    """x_T^S as the pipeline's prepare_latents would draw it: same shape, precision, device and generator."""
    device = pipe._execution_device
    channels = pipe.unet.config.in_channels
    if latents is not None:
        if latents.ndim != 4 or latents.shape[0] != count or latents.shape[1] != channels:
            raise OMSError(f"latents have shape {list(latents.shape)}; expected [{count}, {channels}, h, w]")
        return latents.to(device)
    size = pipe.unet.config.sample_size
    default = (size, size) if isinstance(size, int) else tuple(size or ())
    height, width = (
        int(asked) // pipe.vae_scale_factor if asked else default[i]
        for i, asked in enumerate((kwargs.get("height"), kwargs.get("width")))
    )
    encoder = getattr(pipe, "text_encoder_2", None) or getattr(pipe, "text_encoder", None) or pipe.unet
    return _randn((count, channels, height, width), generator, device, encoder.dtype)


def _randn(shape: tuple[int, ...], generator: Any, device: torch.device, dtype: torch.dtype) -> Tensor:
    from diffusers.utils.torch_utils import randn_tensor

    if isinstance(generator, (list, tuple)) and len(generator) != shape[0]:
        raise OMSError(f"{len(generator)} generators for {shape[0]} pictures; give one, or one per picture")
    return randn_tensor(shape, generator=generator, device=device, dtype=dtype)
