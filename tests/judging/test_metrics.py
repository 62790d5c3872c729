"""Numbers that judge pictures, against cases whose answer is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib_oms.judging import metrics

means = st.lists(st.floats(0, 1), min_size=1, max_size=20).map(np.array)


@given(means, st.floats(-0.5, 0.5))
def test_shifting_a_distribution_moves_it_by_the_shift(values, shift):
    assert metrics.wasserstein(values + shift, values) == pytest.approx(abs(shift) * 255, abs=1e-6)


@given(means, means)
def test_wasserstein_is_symmetric_and_zero_on_itself(a, b):
    assert metrics.wasserstein(a, b) == pytest.approx(metrics.wasserstein(b, a))
    assert metrics.wasserstein(a, a) == pytest.approx(0, abs=1e-9)


def test_wasserstein_of_black_against_half_white_is_half_the_range():
    assert metrics.wasserstein(np.zeros(4), np.array([0.0, 0.0, 1.0, 1.0])) == pytest.approx(127.5)


def test_picture_means_are_over_pixels_and_channels():
    pictures = np.zeros((2, 4, 4, 3))
    pictures[1, :, :, 0] = 1.0
    assert metrics.picture_means(pictures) == pytest.approx([0.0, 1 / 3])


def test_spearman_knows_order_and_survives_pictures_that_are_all_alike():
    asked = np.array([0.1, 0.5, 0.9])
    assert metrics.spearman(asked, asked**3) == pytest.approx(1.0)
    assert metrics.spearman(asked, -asked) == pytest.approx(-1.0)
    assert metrics.spearman(asked, np.full(3, 0.5)) == 0.0


def test_background_is_what_is_around_the_shape():
    picture = np.full((1, 50, 50, 3), 0.2)
    picture[:, 10:40, 10:40] = [1.0, 0.0, 0.0]
    assert metrics.background_colors(picture)[0] == pytest.approx([0.2, 0.2, 0.2])


def test_nearest_color_is_by_distance():
    names = {"red": (1.0, 0.0, 0.0), "blue": (0.0, 0.0, 1.0)}
    assert metrics.nearest_color(np.array([0.6, 0.1, 0.3]), names) == "red"


def test_background_error_is_the_distance_of_the_two_colors():
    gray, red = np.full((2, 50, 50, 3), 0.5), np.full((2, 50, 50, 3), 0.5)
    red[1, ..., 0] += 0.3
    red[1, ..., 1] -= 0.4
    assert metrics.background_error(red, gray) == pytest.approx(0.25)


def test_color_differences_are_those_of_ciede2000():
    """Black to white is 100; and what differs by one of 255 nobody sees."""
    black, white, nearly = np.zeros((1, 3)), np.ones((1, 3)), np.full((1, 3), 254 / 255)
    assert metrics.color_differences(black, white)[0] == pytest.approx(100, abs=0.1)
    assert metrics.color_differences(nearly, white)[0] < 0.5
    assert metrics.color_differences(np.full((1, 3), 1.7), white)[0] == pytest.approx(0, abs=1e-6)


def test_edges_agree_with_themselves_whatever_the_colors_and_not_with_others():
    rng = np.random.default_rng(1)
    pictures = rng.uniform(0.4, 0.6, (3, 32, 32, 3))
    assert metrics.edge_agreement(pictures, pictures * 0.5 + 0.4) == pytest.approx(1.0)
    assert abs(metrics.edge_agreement(pictures, rng.uniform(0.4, 0.6, pictures.shape))) < 0.15
    flat = np.full((1, 32, 32, 3), 0.5)
    assert metrics.edge_agreement(flat, flat) == 1.0
    assert metrics.edge_agreement(flat, pictures[:1]) == 0.0


def test_a_layout_agrees_with_itself_and_not_with_its_mirror():
    asked = np.zeros((16, 16, 3))
    asked[:, 8:] = 1.0
    made = np.kron(asked, np.ones((8, 8, 1)))
    assert metrics.layout_agreement(asked, made) == pytest.approx(1)
    assert metrics.layout_agreement(asked, made[:, ::-1]) == pytest.approx(-1)


def test_grays_are_not_colorful():
    pictures = np.full((2, 4, 4, 3), 0.3)
    pictures[1, :, :, 0] = 0.8
    assert metrics.colorfulness(pictures) == pytest.approx([0, 0.5])
