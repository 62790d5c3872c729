"""Buckets: which sizes there are, and that every batch has one of them."""

from __future__ import annotations

import shutil
from collections import Counter

import pytest
from training_helpers import (
    assert_same_bits,
    small_config,
    small_settings,
    weights,
    write_model,
    write_picture,
    write_tar,
)

from lib_oms.errors import SettingError
from lib_oms.training import checkpoint, loop, train
from lib_oms.training.buckets import batches_of_one_size, bucket_sizes, nearest
from lib_oms.training.dataset import picture_size

SHAPES = ((20, 40), (30, 30), (40, 20))
SIZES = [(128, 256), (192, 192), (256, 128)]  # those of a resolution of 192


@pytest.mark.parametrize("resolution", [192, 512, 768, 1024])
def test_sizes_are_multiples_of_64_of_about_one_area(resolution):
    sizes = bucket_sizes(resolution)
    assert sizes[len(sizes) // 2] == (resolution, resolution)
    assert {(height, width) for width, height in sizes} == set(sizes)
    assert all(width % 64 == height % 64 == 0 for width, height in sizes)
    assert all(0.85 < width * height / resolution**2 < 1.15 for width, height in sizes)
    assert [width / height for width, height in sizes] == sorted(width / height for width, height in sizes)


def test_the_nearest_size_cuts_least():
    sizes = bucket_sizes(512)
    assert nearest(sizes, (3000, 3000)) == (512, 512)
    assert nearest(sizes, (1920, 1080)) == (704, 384)
    assert nearest(sizes, (100, 5000)) == sizes[0]


def test_a_resolution_that_has_no_buckets():
    with pytest.raises(SettingError, match="resolution 500 is no multiple of 64, as buckets need it: use 448 or 512"):
        bucket_sizes(500)


def test_what_fills_no_batch_joins_the_next_size_toward_the_square():
    wanted = [SIZES[0]] * 5 + [SIZES[1]] * 2 + [SIZES[2]] * 2
    order = batches_of_one_size(wanted, SIZES, 2, seed=0, number=3)
    assert len(order) == 8, "one of nine is left"
    assert len({picture for picture, _ in order}) == 8
    assert [first[1] for first in order[::2]] == [second[1] for second in order[1::2]]
    assert Counter(size for _, size in order) == {SIZES[0]: 4, SIZES[1]: 2, SIZES[2]: 2}
    assert order == batches_of_one_size(wanted, SIZES, 2, seed=0, number=3)


def test_a_picture_lying_on_its_side_is_measured_as_it_is_seen(tmp_path):
    from PIL import Image

    exif = Image.Exif()
    exif[274] = 6  # turned by a quarter
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert picture_size(tmp_path / "a.jpg") == (20, 40)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"), (8, 8, 8, 8))


@pytest.fixture(scope="module", params=["folder", "tar"])
def data(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    names = []
    for number in range(18):
        path = write_picture(folder / f"{number:02}.png", number / 20, SHAPES[number % 3])
        path.with_suffix(".txt").write_text(f"picture {number}", encoding="utf-8")
        names.append(path)
    if request.param == "folder":
        return str(folder)
    return str(write_tar(tmp_path_factory.mktemp("tar") / "0.tar", sorted(folder.iterdir())))


def settings_for(output, data, model, **changes):
    values = dict(data=data, model=str(model), resolution=192, buckets=True, batch_size=2, shuffle_buffer=18)
    return small_settings(output, **{**values, **changes})


def test_every_batch_has_one_size_and_all_sizes_come(tmp_path, data, model):
    settings = settings_for(tmp_path, data, model, steps=9)
    source = loop._load(settings, loop._make_accelerator(settings), None, tmp_path / "cache")
    batches = list(loop.drawn(settings, source, [slice(0, 2)], 0))
    assert [tuple(noise.shape) for noise, _, _ in batches] == [tuple(x_0.shape) for _, _, x_0 in batches]
    assert {tuple(x_0.shape[2:]) for _, _, x_0 in batches} == {(height // 8, width // 8) for width, height in SIZES}


def test_a_training_cut_short_goes_on_to_the_same_bits(tmp_path, data, model):
    settings = dict(steps=4, save_every=2, keep=9)
    whole = train(settings_for(tmp_path / "whole", data, model, **settings), config=small_config(32))
    shutil.copytree(tmp_path / "whole" / "training", tmp_path / "cut" / "training")
    checkpoint.remove(checkpoint.list_checkpoints(tmp_path / "cut" / "training" / "checkpoints")[-1])
    cut = train(settings_for(tmp_path / "cut", data, model, **settings), config=small_config(32))
    assert_same_bits(weights(cut), weights(whole))
    with pytest.raises(SettingError, match="buckets was True and is False"):
        train(settings_for(tmp_path / "cut", data, model, buckets=False, **settings), config=small_config(32))
