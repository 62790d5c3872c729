"""Noise from seeds (host file: modules/rng.py). Each picture has a generator of its own, on the CPU."""

import torch
from modules import shared


def create_generator(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(int(seed))


def randn(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    """The first noise of `seed`."""
    return torch.randn(shape, generator=create_generator(seed))


def slerp(val: float, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """Spherical interpolation from `low` (val 0) to `high` (val 1), [C, H, W], angles taken along columns.

    Where the two nearly coincide the host interpolates linearly with the ends exchanged; so does this.
    """
    unit_low, unit_high = (t / torch.norm(t, dim=1, keepdim=True) for t in (low, high))
    cosine = (unit_low * unit_high).sum(1)
    if cosine.mean() > 0.9995:
        return low * val + high * (1 - val)
    omega = torch.acos(cosine)
    weights = torch.stack([torch.sin((1 - val) * omega), torch.sin(val * omega)]) / torch.sin(omega)
    return weights[0].unsqueeze(1) * low + weights[1].unsqueeze(1) * high


class ImageRNG:
    """Noise of a batch: `next` gives [B, *shape], first the initial noise and then what ancestral samplers ask for.

    Subseeds blend in a second noise; with seed-resize the noise of another size is put in the middle.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        seeds: list[int],
        subseeds: list[int] | None = None,
        subseed_strength: float = 0.0,
        seed_resize_from_h: int = 0,
        seed_resize_from_w: int = 0,
    ) -> None:
        self.shape = tuple(int(n) for n in shape)
        self.seeds = seeds
        self.subseeds = subseeds
        self.subseed_strength = subseed_strength
        self.seed_resize_from_h = seed_resize_from_h
        self.seed_resize_from_w = seed_resize_from_w
        self.generators = [create_generator(seed) for seed in seeds]
        self.is_first = True

    def next(self) -> torch.Tensor:
        if not self.is_first:
            return torch.stack([torch.randn(self.shape, generator=g) for g in self.generators])
        self.is_first = False
        noise = torch.stack([self._first(i) for i in range(len(self.seeds))])
        delta = shared.opts.eta_noise_seed_delta or 0
        if delta:
            self.generators = [create_generator(seed + delta) for seed in self.seeds]
        return noise

    def _first(self, i: int) -> torch.Tensor:
        resized = self.seed_resize_from_h > 0 and self.seed_resize_from_w > 0
        small = (self.shape[0], int(self.seed_resize_from_h) // 8, int(self.seed_resize_from_w) // 8)
        drawn_shape = small if resized else self.shape
        other_size = drawn_shape != self.shape
        if other_size:
            noise = randn(self.seeds[i], drawn_shape)
        else:
            noise = torch.randn(self.shape, generator=self.generators[i])
        if self.subseeds is not None and self.subseed_strength != 0:
            subseed = self.subseeds[i] if i < len(self.subseeds) else 0
            noise = slerp(self.subseed_strength, noise, randn(subseed, drawn_shape))
        if other_size:
            noise = _paste_centred(torch.randn(self.shape, generator=self.generators[i]), noise)
        return noise


def _paste_centred(target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """`target` [C, H, W] with the middle of `source` [C, h, w] in its middle, cut where it does not fit."""
    to, of = [slice(None)], [slice(None)]
    for size, inner in zip(target.shape[1:], source.shape[1:], strict=True):
        gap = (size - inner) // 2
        length = inner if gap >= 0 else inner + 2 * gap
        start_to, start_of = max(gap, 0), max(-gap, 0)
        to.append(slice(start_to, start_to + length))
        of.append(slice(start_of, start_of + length))
    target[tuple(to)] = source[tuple(of)]
    return target
