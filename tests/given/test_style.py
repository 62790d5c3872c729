"""Styles: what is drawn has the law of the folder, belongs to the seed, and is of the VAE it was made with."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib_oms.errors import ModuleFileError, OMSError, SettingError
from lib_oms.given import Style, find_style, labelled_style, load_style, style_of, styles
from lib_oms.given.style import FREQUENCIES
from lib_oms.library import scan
from lib_oms.step import Directions, coefficients, low

COLORS = torch.randn(5, 4, generator=torch.Generator().manual_seed(1)).double()
DIRECTIONS = Directions(*COLORS)


def some_latents(count: int, seed: int = 0, height: int = 32, width: int = 32) -> torch.Tensor:
    """Latents with a mean, and channels and slopes that go together."""
    generator = torch.Generator().manual_seed(seed)
    tint = torch.randn(count, 1, 1, 1, generator=generator) * torch.tensor([1.0, 0.5, -0.5, 0.2])[:, None, None]
    slope = torch.linspace(-1, 1, width) * tint
    rest = 0.1 * torch.randn(count, 4, height, width, generator=generator)
    return tint + slope + torch.tensor([0.5, -0.3, 0.1, 0.0])[:, None, None] + rest


def noise(count: int, height: int = 32, width: int = 32) -> torch.Tensor:
    return torch.randn(count, 4, height, width, generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="module")
def style() -> Style:
    return style_of(some_latents(400), DIRECTIONS)


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (40, 64)])
def test_what_is_drawn_has_the_mean_and_the_covariance_of_the_folder(style: Style, size: tuple[int, int]) -> None:
    drawn = style.drawn(noise(3000, *size))
    found = coefficients(drawn, FREQUENCIES).flatten(1) / (size[0] * size[1]) ** 0.5
    scale = float(style.covariance.diagonal().max())
    torch.testing.assert_close(found.mean(dim=0), style.mean.flatten(), rtol=0, atol=0.1 * scale**0.5)
    torch.testing.assert_close(torch.cov(found.T), style.covariance, rtol=0, atol=0.1 * scale)
    assert drawn.shape == (3000, 4, *size)
    assert drawn.dtype == torch.float32


def test_nothing_but_the_low_frequencies_is_drawn(style: Style) -> None:
    drawn = style.drawn(noise(3))
    torch.testing.assert_close(low(drawn, FREQUENCIES), drawn, rtol=1e-4, atol=1e-5)


def test_a_draw_belongs_to_the_noise_of_its_seed(style: Style) -> None:
    x = noise(4)
    drawn = style.drawn(x)
    assert torch.equal(drawn[2:3], style.drawn(x[2:3]))
    assert (drawn[0] - drawn[1]).abs().max() > 0.1
    near = style.drawn(0.999 * x + 0.04 * noise(8)[4:])
    assert (near - drawn).norm() < 0.3 * drawn.norm()


def test_pictures_that_are_all_alike_leave_nothing_to_chance() -> None:
    latent = some_latents(1)
    style = style_of([latent[0], latent[0]], DIRECTIONS)
    torch.testing.assert_close(style.drawn(noise(1)), low(latent, FREQUENCIES), rtol=1e-3, atol=1e-4)


def test_one_picture_is_no_style() -> None:
    with pytest.raises(OMSError, match="two pictures at least"):
        style_of(some_latents(1), DIRECTIONS)


def test_a_latent_smaller_than_the_style_takes_what_it_has_room_for(style: Style) -> None:
    assert torch.isfinite(style.drawn(noise(2, 4, 8))).all()


def test_the_file_gives_the_same_draws_and_is_small(style: Style, tmp_path: Path) -> None:
    style.save(tmp_path / "styles" / "dusk.safetensors")
    path = tmp_path / "styles" / "dusk.safetensors"
    assert path.stat().st_size < 100_000
    torch.testing.assert_close(load_style(path).drawn(noise(2)), style.drawn(noise(2)), rtol=1e-4, atol=1e-5)


def test_a_style_of_another_vae_is_refused_and_of_the_same_in_half_precision_taken(style: Style) -> None:
    style.check(Directions(*COLORS.half()))
    with pytest.raises(OMSError, match="another VAE's latents"):
        style.check(Directions(*COLORS.flip(1)))
    with pytest.raises(OMSError, match="another VAE's latents"):
        style.check(Directions(*torch.randn(5, 16)))
    with pytest.raises(OMSError, match="4 channels"):
        style.drawn(torch.randn(1, 16, 8, 8))


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "dus", "styles/dusk", "dusk.safetensors", ""])
def test_a_name_is_looked_up_and_never_a_path(style: Style, tmp_path: Path, name: str) -> None:
    style.save(tmp_path / "secret.safetensors")
    style.save(tmp_path / "styles" / "dusk.safetensors")
    assert list(styles([tmp_path, tmp_path / "none"])) == ["dusk"]
    assert torch.equal(find_style(" dusk", [tmp_path]).mean, load_style(tmp_path / "styles/dusk.safetensors").mean)
    with pytest.raises(SettingError, match=r"no style.*dusk"):
        find_style(name, [tmp_path])


def test_a_name_with_a_fingerprint_is_that_very_style(style: Style, tmp_path: Path) -> None:
    path = tmp_path / "styles" / "dusk.safetensors"
    style.save(path)
    label = labelled_style("dusk", [tmp_path])
    assert label == f"dusk [{style.fingerprint}]" == labelled_style(label, [tmp_path])
    assert torch.equal(find_style(label, [tmp_path]).mean, load_style(path).mean)
    Style(style.mean + 0.1, style.covariance, style.colors).save(path)
    with pytest.raises(SettingError, match=rf"'dusk' was made anew.*was {style.fingerprint}.*Choose 'dusk'"):
        find_style(label, [tmp_path])
    style.save(tmp_path / "styles" / f"{label}.safetensors")  # a name may look like that
    assert torch.equal(find_style(label, [tmp_path]).mean, style.mean.float().double())


def test_no_style_is_listed_among_the_oms_models(style: Style, tmp_path: Path) -> None:
    style.save(tmp_path / "styles" / "dusk.safetensors")
    assert scan([tmp_path]) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mean": torch.zeros(4, 6, 5)}, "not those of a style"),
        ({"covariance": torch.zeros(3, 3)}, "not those of a style"),
        ({"colors": torch.zeros(5, 16)}, "not those of a style"),
        ({"colors": torch.zeros(5, 4, dtype=torch.int32)}, "not those of a style"),
        ({"mean": torch.full((4, 6, 6), float("nan"))}, "NaN"),
    ],
)
def test_a_broken_file_is_refused_in_words(style: Style, tmp_path: Path, change: dict, words: str) -> None:
    style.save(tmp_path / "a.safetensors")
    save_file({**load_file(tmp_path / "a.safetensors"), **change}, tmp_path / "b.safetensors", {"oms.kind": "style"})
    with pytest.raises(ModuleFileError, match=words):
        load_style(tmp_path / "b.safetensors")


def test_any_other_safetensors_file_is_no_style(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, tmp_path / "lora.safetensors")
    with pytest.raises(ModuleFileError, match="is no style"):
        load_style(tmp_path / "lora.safetensors")
