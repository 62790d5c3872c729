"""Trims: along the directions that the VAE has for brightness and color, whatever they are."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib_oms.errors import OMSError
from lib_oms.step import Directions, Trims

law = settings(deadline=None, max_examples=50)
seeds = st.integers(0, 2**31 - 1)
amounts = st.floats(-1.0, 1.0)
colors = st.tuples(*[st.floats(0.0, 1.0)] * 3)


class VAE:
    """One for which a latent is a linear map of the color, and something else beside it."""

    def __init__(self, seed, channels=4):
        generator = torch.Generator().manual_seed(seed)
        # Well apart, as a VAE's are: a random map could have two directions that are nearly one.
        self.M = torch.linalg.qr(torch.randn(channels, 3, generator=generator, dtype=torch.float64))[0] * 2
        self.zero = torch.randn(channels, generator=generator, dtype=torch.float64)
        self.directions = Directions(*(self.encode(rgb) for rgb in [(0, 0, 0), (1, 1, 1), *torch.eye(3).tolist()]))

    def encode(self, rgb):
        return self.zero + self.M @ torch.tensor(rgb, dtype=torch.float64)

    def flat(self, rgb):
        return self.encode(rgb)[None, :, None, None].expand(1, -1, 3, 2).float()

    def read(self, latent):
        return torch.linalg.pinv(self.M) @ (latent[0, :, 0, 0].double() - self.zero)


@law
@given(seeds, colors, amounts, st.sampled_from([3, 4, 16]))
def test_brightness_moves_all_three_alike_and_saturation_the_distance_from_gray(seed, rgb, amount, channels):
    vae = VAE(seed, channels)
    latent = vae.flat(rgb)
    color = torch.tensor(rgb, dtype=torch.float64)
    brighter = Trims(brightness=amount, directions=vae.directions).added_to(latent, latent)
    torch.testing.assert_close(vae.read(brighter), color + amount / 2, rtol=1e-4, atol=1e-4)
    richer = Trims(saturation=amount, directions=vae.directions).added_to(latent, latent)
    torch.testing.assert_close(vae.read(richer), color + amount * (color - color.mean()), rtol=1e-4, atol=1e-4)


@law
@given(seeds, amounts, st.floats(0.0, 1.0))
def test_grays_have_no_color_to_enlarge(seed, amount, gray):
    vae = VAE(seed)
    latent = vae.flat((gray,) * 3)
    made = Trims(saturation=amount, directions=vae.directions).added_to(latent, latent)
    torch.testing.assert_close(made, latent, rtol=1e-4, atol=1e-4)


@law
@given(seeds, colors)
def test_no_trims_are_the_same_bits(seed, rgb):
    latent = VAE(seed).flat(rgb)
    assert torch.equal(Trims().added_to(latent, latent), latent)
    assert not Trims()


def test_without_directions_or_with_those_of_other_latents_it_is_refused():
    latent = torch.zeros(1, 4, 2, 2)
    with pytest.raises(OMSError, match="need the directions of the VAE"):
        Trims(brightness=0.5).added_to(latent, latent)
    with pytest.raises(OMSError, match="latents of 16 channels"):
        Trims(0.5, 0.5, VAE(1, 16).directions).added_to(latent, latent)
