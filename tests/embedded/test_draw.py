"""Pictures that code draws, and what their captions say of them."""

import numpy as np
import pytest

from lib_oms.embedded import draw

DARK, LIGHT = (0.1, 0.1, 0.1), (0.9, 0.9, 0.9)


def test_pictures_are_the_same_for_the_same_seed_and_do_not_depend_on_how_many_are_drawn():
    pictures, captions = draw.dataset(6, seed=3)
    again, texts = draw.dataset(3, seed=3, start=3)
    assert np.array_equal(pictures[3:], again)
    assert captions[3:] == texts
    assert captions == draw.captions(6, seed=3)
    assert not np.array_equal(pictures, draw.dataset(6, seed=4)[0])


def test_captions_that_name_a_gray_or_a_shape_are_true():
    bounds = dict(zip([name for _, name in draw.GRAYS], [0.0, *(b for b, _ in draw.GRAYS)], strict=False))
    seen = set()
    for index in range(300):
        rng = np.random.default_rng((11, index))
        scene = draw.sample_scene(rng)
        text = draw.caption(scene, rng, say_background=True)
        gray = scene.background_name.removesuffix(" background")
        if gray in bounds:
            high = next(bound for bound, name in draw.GRAYS if name == gray)
            assert bounds[gray] <= scene.background[0] < high
            assert gray in text
            seen.add(gray)
        assert [name for name in text.replace(",", "").split() if name in draw.SHAPES] == [
            shape.name for shape in scene.shapes
        ]
    assert seen == set(bounds)


def test_of_two_shapes_the_left_one_is_named_first():
    for index in range(50):
        left, right = draw.sample_scene(np.random.default_rng((12, index)), shapes=2).shapes
        assert left.centre[0] + left.radius * 1.3 < right.centre[0] - right.radius * 1.3, "they do not touch"


def test_about_a_third_of_captions_leave_the_background_out():
    captions = draw.captions(400, seed=5)
    places = ("background", "page", " at ", " in ", "sky")
    silent = [text for text in captions if not any(word in text for word in places)]
    assert 0.2 < len(silent) / len(captions) < 0.4


def test_a_caption_that_is_astray_tells_the_same_of_all_but_the_background():
    astray = 0
    for number in range(200):
        _, text, other = draw.example(number, seed=6)
        shapes, others = ([word for word in words.split() if word.strip(",") in draw.SHAPES] for words in (text, other))
        assert [word.strip(",") for word in shapes] == [word.strip(",") for word in others]
        astray += text != other
    assert 0.5 < astray / 200 < 0.8  # a caption that does not name it cannot be wrong of it


def test_evaluation_captions_cover_the_brightness_range_evenly():
    pictures, captions = draw.evaluation_set(100, seed=1)
    border = pictures[:, :8].mean(axis=(1, 2, 3)) / 255
    counts, _ = np.histogram(border, bins=5, range=(0, 1))
    assert counts.min() >= 14
    assert all("background" in text for text in captions)
    assert all(len(scene.shapes) == 1 for scene, _ in draw.evaluation_scenes(20, seed=1))


@pytest.mark.parametrize("style", ["plain", "outlined", "shadow"])
def test_a_style_changes_the_shape_and_leaves_the_background(style):
    circle = draw.Shape("circle", "red", (0.9, 0.0, 0.0))
    scene = draw.Scene((0.8, 0.8, 0.8), "very light gray background", (circle,))
    picture = np.asarray(draw.draw(scene, style=style)).astype(int)
    assert abs(picture[:8] - 204).max() <= 1
    plain = np.asarray(draw.draw(scene)).astype(int)
    assert (picture != plain).any() == (style != "plain")


@pytest.mark.parametrize(
    ("pattern", "first", "second"),
    [
        ("fading", np.s_[:4], np.s_[-4:]),
        ("sideways", np.s_[:, :4], np.s_[:, -4:]),
        ("horizon", np.s_[:40], np.s_[-40:]),
        ("halves", np.s_[:, :40], np.s_[:, -40:]),
    ],
)
def test_a_layout_is_where_its_caption_says(pattern, first, second):
    scene = draw.Scene(DARK, "", pattern=pattern, other=LIGHT, phase=(0.5, 0.5))
    picture = np.asarray(draw.draw(scene)) / 255
    assert abs(picture[first] - 0.1).max() < 0.03
    assert abs(picture[second] - 0.9).max() < 0.03


@pytest.mark.parametrize("pattern", ["stripes", "checks", "dots"])
def test_a_pattern_has_both_of_its_colors_everywhere(pattern):
    picture = np.asarray(draw.draw(draw.Scene(DARK, "", pattern=pattern, other=LIGHT, phase=(0.3, 0.6)))) / 255
    for quarter in (picture[:128, :128], picture[:128, 128:], picture[128:, :128], picture[128:, 128:]):
        assert quarter.min() < 0.12
        assert quarter.max() > 0.88
