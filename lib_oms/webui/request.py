"""One batch of pictures that want the step, as plain values: nothing here knows the host."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lib_oms.errors import OMSError
from lib_oms.module import OMSModule, Texts
from lib_oms.settings import ALL_DETAIL, PROMPT, OMSSettings
from lib_oms.step import NO_TRIMS, FirstStep, Start, Trims, guided, over_picture, replaced, start_at, x0hat_of
from lib_oms.text.prompt import first_step_text, oms_prompt


@dataclass(frozen=True)
class Request:
    """What a batch of B pictures needs: settings, the main prompts and seeds of its pictures, the noise that the host
    drew for them [B, C, H/8, W/8], where sampling starts, and how many steps the prompts are told of; the latent that
    was given, [1, C, H/8, W/8] for all or [B, C, H/8, W/8], the trims, and the latents of the pictures that img2img
    starts from, likewise.
    """

    settings: OMSSettings
    prompts: Sequence[str]
    seeds: Sequence[int]
    subseeds: Sequence[int]
    subseed_strength: float
    noise: Tensor
    first: FirstStep
    steps: int | None = None
    given: Tensor | None = None
    trims: Trims = NO_TRIMS
    pictures: Tensor | None = None

    def __post_init__(self) -> None:
        if not len(self.prompts) == len(self.seeds) == len(self.noise):
            raise OMSError(
                f"the batch has {len(self.prompts)} prompts, {len(self.seeds)} seeds and noise for {len(self.noise)} "
                "pictures; another extension must have changed one of them"
            )

    @property
    def oms_prompts(self) -> list[str]:
        """The OMS prompt of each picture at its first step; see lib_oms.text.prompt.oms_prompt."""
        return [first_step_text(oms_prompt(self.settings.prompt, prompt), self.steps) for prompt in self.prompts]

    @property
    def negative_prompt(self) -> str:
        """The OMS negative prompt at the first step."""
        return first_step_text(self.settings.negative_prompt, self.steps)

    @property
    def texts(self) -> list[str]:
        """Every text that has to be encoded, each once."""
        if not self.settings.uses_prompt:
            return []
        negatives = [] if self.settings.guidance_scale == 1.0 else [self.negative_prompt]
        return list(dict.fromkeys([*self.oms_prompts, *negatives]))


def starting_noise(request: Request, module: OMSModule | None, encoded: Mapping[str, Tensor]) -> Tensor:
    """The x_T of all of `starts`, shaped as `request.noise`."""
    return torch.cat([start.x_T for start in starts(request, module, encoded)])


def starts(
    request: Request,
    module: OMSModule | None,
    encoded: Mapping[str, Tensor],
    before_each: Callable[[], None] = lambda: None,
) -> list[Start]:
    """Where each picture is to start instead of at its part of `request.noise`.

    Picture by picture, so that each is to the last bit what it would be alone: neither psi's arithmetic nor the length
    of the encoded text depends on its neighbors.

    Args:
        request: B pictures.
        module: the OMS module; None where the prompt has no part in it.
        encoded: what its text encoder makes of each of `request.texts`, [77 * k, D].
        before_each: called before every picture, and may raise to stop.

    Returns:
        One for each picture, [1, C, H/8, W/8], float32, on the module's device, or the noise's where there is none.

    Raises:
        OMSError: as `start_at`.
    """
    device = request.noise.device if module is None else module.device
    noise = request.noise.to(device, torch.float32, copy=True)
    made = []
    for i, x_S in enumerate(noise.split(1)):
        before_each()
        made.append(_one_picture(request, module, encoded, x_S, i))
    return made


def _one_picture(
    request: Request, module: OMSModule | None, encoded: Mapping[str, Tensor], noise: Tensor, index: int
) -> Start:
    settings = request.settings
    fresh = None
    if settings.eta > 0:
        subseed = request.subseeds[index] if index < len(request.subseeds) else 0
        fresh = fresh_noise(request.seeds[index], subseed, request.subseed_strength, noise)
    start = start_at(
        noise,
        _x0hat(request, module, encoded, noise, index),
        request.first,
        strength=settings.strength,
        eta=settings.eta,
        fresh_noise=fresh,
        quiet=settings.quiet,
        trims=request.trims,
    )
    if request.pictures is None:
        return start
    picture = request.pictures[index : index + 1] if len(request.pictures) > 1 else request.pictures
    k = replaced(settings.quiet, _detail(settings))
    x_T = over_picture(noise, start.x_T, picture, request.first, k, strength=settings.strength)
    return replace(start, x_T=x_T)


def _detail(settings: OMSSettings) -> int | None:
    """How many low frequencies of x0hat pass; None for all."""
    return None if settings.detail == ALL_DETAIL else settings.detail


def _x0hat(
    request: Request, module: OMSModule | None, encoded: Mapping[str, Tensor], noise: Tensor, index: int
) -> Tensor:
    """What the source of this picture says, [1, C, H/8, W/8]."""
    settings = request.settings
    answer, given = None, request.given
    if settings.uses_prompt:
        assert module is not None
        is_guided = settings.guidance_scale != 1.0
        texts = Texts([encoded[request.oms_prompts[index]]], [encoded[request.negative_prompt]] if is_guided else [])
        v_cond, v_uncond = module.answer(noise, texts, settings.guidance_scale)
        answer = -guided(v_cond, v_uncond, settings.guidance_scale, settings.guidance_rescale)
    if given is None and settings.source != PROMPT:
        given = torch.zeros_like(noise)  # nothing is followed but the trims
    elif given is not None and len(given) > 1:
        given = given[index : index + 1]
    return x0hat_of(answer, None if given is None else given.to(noise), settings.prompt_weight, _detail(settings))


def fresh_noise(seed: int, subseed: int, subseed_strength: float, like: Tensor) -> Tensor:
    """N(0, 1) of a picture's own, shaped as `like`, float32 on its device.

    Drawn on the CPU from a generator of its own: the same on every device and with every random source of the host,
    whose own stream is not touched. The seed goes through a hash, or else this would be the very noise that the host
    drew. A variation (subseed) leads from one draw to the other with the variance unchanged.
    """
    strength = min(max(float(subseed_strength), 0.0), 1.0)
    noise = _draw(seed, like)
    if strength > 0:
        noise = math.sqrt(1 - strength * strength) * noise + strength * _draw(subseed, like)
    return noise.to(like.device)


def _draw(seed: int, like: Tensor) -> Tensor:
    digest = hashlib.sha256(f"One More Step, fresh noise, seed {int(seed)}".encode()).digest()
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return torch.randn(like.shape, generator=generator, dtype=torch.float32)
