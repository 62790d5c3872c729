"""Pictures that are given: made small, to text and back."""

import base64
import io
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lib_oms.errors import SettingError
from lib_oms.given import VAELatents, small_picture
from lib_oms.given.pictures import LONGER_SIDE, pixels

sizes = st.tuples(st.integers(1, 70), st.integers(1, 70))


def random_image(seed: int, size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    return Image.fromarray(noise, "RGBA").convert(mode)


def in_base64(image: Image.Image, kind: str = "PNG") -> str:
    kept = io.BytesIO()
    image.save(kept, kind)
    return base64.b64encode(kept.getvalue()).decode()


@settings(deadline=None)
@given(st.integers(0, 999), sizes)
def test_small_again_is_the_same_and_short(seed, size):
    small = small_picture(random_image(seed, size), "picture")
    assert small_picture(small, "picture") == small
    assert len(small) < 1300
    assert max(pixels(small).shape[-2:]) <= LONGER_SIDE


@settings(deadline=None)
@given(st.integers(0, 999), st.tuples(st.integers(32, 90), st.integers(32, 90)))
def test_a_picture_keeps_its_mean_color(seed, size):
    image = random_image(seed, size)
    wanted = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).mean(dim=(0, 1))
    torch.testing.assert_close(pixels(small_picture(image, "picture"))[0].mean(dim=(1, 2)), wanted, rtol=0, atol=0.03)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_any_mode_of_picture_is_taken(mode):
    image = random_image(1, (40, 30)).convert("L").convert("I").point(lambda v: v * 256).convert("I;16") if (
        mode == "I;16"
    ) else random_image(1, (40, 30), mode)  # fmt: skip
    kind = "TIFF" if mode in ("CMYK", "I;16") else "PNG"
    assert pixels(small_picture(in_base64(image, kind), "picture")).shape == (1, 3, 12, 16)


def test_what_is_transparent_says_nothing():
    clear = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    torch.testing.assert_close(pixels(small_picture(clear, "brush")), torch.full((1, 3, 16, 16), 128 / 255))


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=200), st.integers(0, 400), st.integers(0, 255))
def test_hostile_bytes_are_refused_in_words_or_taken(junk, place, value):
    whole = bytearray(base64.b64decode(in_base64(random_image(1, (20, 20)))))
    whole[place % len(whole)] = value
    for data in (junk, bytes(whole), bytes(whole[:place])):
        with suppress(SettingError):  # and no other
            assert small_picture(base64.b64encode(data).decode(), "picture")


def test_a_color_is_asked_once_for_a_vae():
    asked = []

    def encode(picture):
        asked.append(picture)
        return torch.nn.functional.avg_pool2d(picture, 8)

    known = VAELatents()
    for _ in range(2):
        assert known.color("#336699", encode) == pytest.approx([0.2, 0.4, 0.6])
        assert known.directions(encode).white == pytest.approx([1.0, 1.0, 1.0])
    assert len(asked) == 6


def test_a_large_picture_is_decoded_once_a_request():
    import time

    text = in_base64(random_image(3, (3000, 2000)), "JPEG")
    times = []
    for _ in range(3):
        began = time.perf_counter()
        small_picture(text, "picture")
        times.append(time.perf_counter() - began)
    assert min(times[1:]) < times[0] / 4


def test_what_is_remembered_of_pictures_has_an_end():
    from lib_oms.given.pictures import _KEPT, _SMALL

    for seed in range(2 * _KEPT):
        small_picture(in_base64(random_image(seed, (20, 20))), "picture")
    assert len(_SMALL) == _KEPT
