"""Colors, pictures, sketches and the trims in a running WebUI: what the sampler starts from, and what is told."""

import base64
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from browser_helpers import host_style
from extension_helpers import RequestFailed, WebUI
from PIL import Image
from untrained_helpers import place_untrained

from lib_oms.given import Style, latents_of, style_of
from lib_oms.step import low

pytest.importorskip("gradio")

QUICK = {"steps": 1, "sampler_name": "Euler", "width": 128, "height": 128}
SIGMA = 14.6146


@pytest.fixture(scope="module")
def webui(start_webui: Callable[..., WebUI], tmp_path_factory: pytest.TempPathFactory) -> WebUI:
    return start_webui(host_style(), model=place_untrained(tmp_path_factory.mktemp("models") / "untrained"))


def in_base64(array: np.ndarray, kind: str = "PNG") -> str:
    kept = io.BytesIO()
    Image.fromarray(array).save(kept, kind)
    return base64.b64encode(kept.getvalue()).decode()


def encoded(webui: WebUI, picture: torch.Tensor) -> torch.Tensor:
    from modules import shared

    return shared.sd_model.encode_first_stage(picture * 2 - 1)


def split(height: int = 128, width: int = 128) -> np.ndarray:
    picture = np.full((height, width, 3), 20, dtype=np.uint8)
    picture[:, width // 2 :] = 230
    return picture


def test_a_color_is_what_the_low_frequencies_say_and_the_noise_is_the_hosts_beyond(webui: WebUI) -> None:
    plain = webui.txt2img(**QUICK).seen[0]
    made = webui.txt2img({"source": "color", "color": "#204060"}, **QUICK)
    flat = torch.tensor([0x20, 0x40, 0x60])[None, :, None, None].expand(1, 3, 256, 256) / 255
    wanted = encoded(webui, flat)[:, :, 4:-4, 4:-4].mean(dim=(-2, -1), keepdim=True).expand(1, 4, 16, 16)
    x, noise = made.seen[0].x, plain.x / plain.level
    assert made.seen[0].level == pytest.approx(SIGMA, rel=1e-4)
    torch.testing.assert_close(low(x, 6), wanted, rtol=1e-3, atol=2e-3)
    torch.testing.assert_close(x - low(x, 6), SIGMA * (noise - low(noise, 6)), rtol=1e-3, atol=2e-3)


def test_a_color_needs_no_oms_model_and_no_known_latents(webui: WebUI) -> None:
    made = webui.txt2img({"source": "color", "color": "#204060"}, state="unknown latents", **QUICK)
    assert "OMS source: color, OMS color: #204060, OMS quiet: 6" in made.infotext
    assert "OMS model" not in made.infotext
    again = webui.txt2img(infotext=made.infotext, styles=[], **QUICK, state="unknown latents")
    assert (again.infotext, again.pixels) == (made.infotext, made.pixels)


def test_where_the_schedule_leaves_nothing_a_color_does_not_apply_and_says_so(webui: WebUI) -> None:
    for state in ("zero terminal snr", "flow predictor"):
        made = webui.txt2img({"source": "color", "color": "#204060"}, state=state, **QUICK)
        assert "OMS skipped" in made.infotext
        assert "OMS source" not in made.infotext
        assert torch.equal(made.seen[0].x, webui.txt2img(state=state, **QUICK).seen[0].x)


@pytest.mark.parametrize("source", ["picture", "brush"])
def test_a_picture_gives_its_layout_whatever_its_size_and_kind_of_file(webui: WebUI, source: str) -> None:
    made = webui.txt2img({"source": source, source: in_base64(split())}, **QUICK)
    large = webui.txt2img({"source": source, source: in_base64(split(1024, 1024))}, **QUICK)
    url = "data:image/png;base64," + in_base64(split())
    assert made.pixels == large.pixels == webui.txt2img({"source": source, source: url}, **QUICK).pixels
    told = low(made.seen[0].x, 4)
    left, right = told[..., :8].mean(dim=(-2, -1)), told[..., 8:].mean(dim=(-2, -1))
    dark, bright = (encoded(webui, torch.full((1, 3, 128, 128), v / 255)).mean(dim=(-2, -1)) for v in (20, 230))
    assert (left - dark).norm() < 0.3 * (bright - dark).norm()
    assert (right - bright).norm() < 0.3 * (bright - dark).norm()


def test_a_picture_comes_back_from_the_infotext(webui: WebUI) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (300, 200, 3), dtype=np.uint8)
    made = webui.txt2img({"source": "picture", "picture": in_base64(noise, "JPEG"), "detail": 3}, **QUICK)
    assert len(made.infotext) < 2500
    again = webui.txt2img(infotext=made.infotext, styles=[], **QUICK)
    assert (again.infotext, again.pixels) == (made.infotext, made.pixels)


def test_strength_zero_is_the_picture_without_the_step(webui: WebUI) -> None:
    plain = webui.txt2img(**QUICK)
    for sampler in ("Euler", "DDIM", "UniPC"):
        fields = {**QUICK, "sampler_name": sampler, "steps": 2}
        plain = webui.txt2img(**fields)
        for asked in ({"source": "color", "color": "#204060"}, {"prompt": "night", "quiet": 3, "brightness": 0.5}):
            made = webui.txt2img({**asked, "strength": 0}, **fields)
            assert torch.equal(made.seen[0].x, plain.seen[0].x)
            assert made.pixels == plain.pixels


def test_the_trims_alone(webui: WebUI) -> None:
    plain = webui.txt2img(**QUICK).seen[0].x
    nothing = webui.txt2img({"source": "none"}, **QUICK).seen[0].x
    torch.testing.assert_close(nothing, plain, rtol=1e-5, atol=1e-5)
    white, black = (
        encoded(webui, torch.full((1, 3, 256, 256), v))[:, :, 4:-4, 4:-4].mean((-2, -1)) for v in (1.0, 0.0)
    )
    brighter = webui.txt2img({"source": "none", "brightness": 0.5}, **QUICK).seen[0].x
    shift = (0.25 * (white - black))[:, :, None, None].expand_as(plain)
    torch.testing.assert_close(brighter - plain, shift, rtol=1e-3, atol=1e-3)


@pytest.fixture
def dusk(webui: WebUI) -> Iterator[Style]:
    """A style of the loaded model's latents, among the WebUI's."""
    from modules import paths, shared

    from lib_oms.webui import styles

    def encode(picture: torch.Tensor) -> torch.Tensor:
        return shared.sd_model.encode_first_stage(picture * 2 - 1)

    latents = [encoded(webui, torch.full((1, 3, 256, 256), value))[0] for value in (0.1, 0.3, 0.2)]
    style = style_of(latents, latents_of(shared.sd_model.first_stage_model).directions(encode))
    path = Path(paths.models_path) / "OMS" / "styles" / "dusk.safetensors"
    style.save(path)
    assert "dusk" in styles.names()
    yield style
    path.unlink()


def test_a_style_is_drawn_anew_for_each_seed_and_is_the_same_for_one(webui: WebUI, dusk: Style) -> None:
    asked = {"source": "style", "style": "dusk"}
    plain = webui.txt2img(**QUICK, batch_size=2).seen[0]
    made = webui.txt2img(asked, **QUICK, batch_size=2)
    wanted = dusk.drawn(plain.x / plain.level)
    assert (wanted[0] - wanted[1]).abs().max() > 1e-3
    torch.testing.assert_close(low(made.seen[0].x, 6), wanted, rtol=1e-3, atol=2e-3)
    alone = webui.txt2img(asked, **QUICK, seed=8)
    assert torch.equal(made.seen[0].x[1:], alone.seen[0].x)
    assert f"OMS source: style, OMS quiet: 6, OMS style: dusk [{dusk.fingerprint}]" in alone.infotext
    again = webui.txt2img(infotext=alone.infotext, styles=[], **QUICK, seed=8)
    assert (again.infotext, again.pixels) == (alone.infotext, alone.pixels)


def test_a_style_that_was_made_anew_is_not_taken_for_the_one_of_an_infotext(webui: WebUI, dusk: Style) -> None:
    from modules import paths

    asked = {"source": "style", "style": "dusk"}
    made = webui.txt2img(asked, **QUICK)
    Style(dusk.mean + 0.2, dusk.covariance, dusk.colors).save(
        Path(paths.models_path) / "OMS" / "styles" / "dusk.safetensors"
    )
    with pytest.raises(RequestFailed, match="'dusk' was made anew"):
        webui.txt2img(infotext=made.infotext, styles=[], **QUICK)
    other = webui.txt2img(asked, **QUICK)
    assert other.pixels != made.pixels


def test_a_style_of_another_vae_ends_the_request(webui: WebUI, dusk: Style) -> None:
    from modules import paths

    from lib_oms.step import Directions

    path = Path(paths.models_path) / "OMS" / "styles" / "other.safetensors"
    style_of(torch.randn(3, 4, 8, 8), Directions(*torch.randn(5, 4))).save(path)
    with pytest.raises(RequestFailed, match="another VAE's latents"):
        webui.txt2img({"source": "style", "style": "other"}, **QUICK)
    path.unlink()


def test_prompt_and_color_in_parts(webui: WebUI) -> None:
    color = {"source": "color", "color": "#204060", "prompt": "night", "quiet": 2}
    ends = [webui.txt2img({**color, "prompt_weight": weight}, **QUICK) for weight in (0, 1, 0.25)]
    alone, prompt, mixed = (made.seen[0].x for made in ends)
    torch.testing.assert_close(mixed, 0.75 * alone + 0.25 * prompt, rtol=1e-4, atol=1e-4)
    by_prompt = webui.txt2img({"prompt": "night", "quiet": 2}, **QUICK).seen[0].x
    torch.testing.assert_close(prompt, by_prompt)
    assert "OMS model: untrained" in ends[2].infotext
    assert "OMS model" not in ends[0].infotext


def test_pictures_of_a_batch_follow_one_color_and_are_what_they_are_alone(webui: WebUI) -> None:
    asked = {"source": "color", "color": "#c08040"}
    both = webui.txt2img(asked, **QUICK, batch_size=2)
    alone = [webui.txt2img(asked, **QUICK, seed=seed) for seed in (7, 8)]
    assert torch.equal(both.seen[0].x, torch.cat([made.seen[0].x for made in alone]))


def test_the_hosts_random_numbers_are_left_alone(webui: WebUI) -> None:
    from modules import shared

    vae, state = shared.sd_model.first_stage_model, torch.get_rng_state()
    latents_of(vae).color("#123456", lambda picture: torch.randn(1, 4, 32, 32) + picture.mean())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"source": "color"}, ["OMS color (color) is empty", "#336699"]),
        ({"source": "color", "color": "blue"}, ["'blue'", "#336699"]),
        ({"source": "paint"}, ["'paint'", "prompt, color, picture, brush, none, style"]),
        ({"source": "picture"}, ["OMS picture (picture) is empty"]),
        ({"source": "picture", "picture": "not base64!"}, ["OMS picture", "is not base64"]),
        ({"source": "picture", "picture": "aGVsbG8="}, ["OMS picture", "no picture that can be read"]),
        ({"source": "picture", "picture": "https://example.com/a.png"}, ["not its address"]),
        ({"source": "picture", "picture": in_base64(split())[:120]}, ["OMS picture", "picture is broken"]),
        ({"source": "style", "style": "../dusk"}, ["OMS style (style)", "no style '../dusk'"]),
        ({"source": "brush", "brush": "aGVsbG8="}, ["OMS brush", "no picture that can be read"]),
        ({"source": "color", "color": "#204060", "strength": 3}, ["OMS strength", "from 0 to 2"]),
    ],
)
def test_what_cannot_be_followed_is_refused_before_anything_is_sampled(webui: WebUI, asked: dict, words: list) -> None:
    before = webui._count()
    with pytest.raises(RequestFailed) as error:
        webui.txt2img(asked, **QUICK)
    for word in words:
        assert word in str(error.value)
    assert webui._count() == before


def test_a_picture_of_too_many_pixels_is_refused_by_its_header(webui: WebUI) -> None:
    for side, words in ((9_000, r"9000 x 9000 pixels, at most 67108864"), (20_000, r"more than 67108864 pixels")):
        kept = io.BytesIO()
        Image.new("1", (side, side)).save(kept, "PNG")
        with pytest.raises(RequestFailed, match=words):
            webui.txt2img({"source": "picture", "picture": base64.b64encode(kept.getvalue()).decode()}, **QUICK)


def test_without_a_vae_a_color_is_refused_in_words(webui: WebUI, monkeypatch: pytest.MonkeyPatch) -> None:
    from modules import shared

    monkeypatch.setattr(shared.sd_model, "first_stage_model", None)
    with pytest.raises(RequestFailed, match="no VAE that could encode"):
        webui.txt2img({"source": "color", "color": "#123457"}, **QUICK)


def test_requests_of_version_0_2_start_from_the_same_latents_to_the_bit(webui: WebUI) -> None:
    """By position, shorter than today's list: hosts fill in the rest from the page's controls."""
    with_names = webui.txt2img({"prompt": "night", "guidance_scale": 1.5}, **QUICK)
    by_position = webui.txt2img(True, "Automatic", "night", 1.5, **QUICK)
    assert torch.equal(with_names.seen[0].x, by_position.seen[0].x)
    assert with_names.infotext == by_position.infotext
    assert "OMS quiet" not in by_position.infotext
