"""Data in shards: what is read, in which order, by whom; and that a training that is cut short goes on exactly."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections import Counter

import pytest
import torch
from PIL import Image
from training_helpers import CAPTIONS, assert_same_bits, small_config, small_settings, weights, write_model, write_tar

from lib_oms.errors import OMSError, SettingError
from lib_oms.training import checkpoint, loop, train
from lib_oms.training.shards import find_shards
from lib_oms.training.streams import BEGINNING, Stream

try:
    import datasets
except Exception:  # not installed, or not beside the huggingface_hub that a WebUI pins
    datasets = None

needs_datasets = pytest.mark.skipif(datasets is None, reason="datasets needs newer libraries than this WebUI pins")


def picture(level: float, size=(16, 16)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (int(level * 255),) * 3).save(file, "PNG")
    return file.getvalue()


def example(number: int) -> tuple[bytes, str]:
    """A picture that no other number has, and a caption that says which it is."""
    return picture(number / 100), f"{CAPTIONS[number % 3]} {number}"


def write_examples(path, numbers, captions="txt"):
    files = path.parent / path.stem
    files.mkdir(parents=True)
    for number in numbers:
        pixels, caption = example(number)
        text = json.dumps({"text": caption, "width": 16}) if captions == "json" else caption
        (files / f"{number:03}.png").write_bytes(pixels)
        (files / f"{number:03}.{captions}").write_text(text, encoding="utf-8")
    write_tar(path, sorted(files.iterdir()))
    shutil.rmtree(files)
    return path


def rows(numbers):
    return {
        "image": [{"bytes": example(number)[0], "path": None} for number in numbers],
        "text": [example(number)[1] for number in numbers],
    }


def make(kind, folder) -> str:
    """Thirty examples in five shards."""
    parts = [range(start, start + 6) for start in range(0, 30, 6)]
    if kind == "tar":
        for at, numbers in enumerate(parts):
            write_examples(folder / f"{at:03}.tar", numbers, "json" if at == 2 else "txt")
        return str(folder / "{000..004}.tar")
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    if kind == "disk":
        datasets.Dataset.from_dict(rows(range(30)), features=features).save_to_disk(str(folder))
        return str(folder)
    folder.mkdir()
    for at, numbers in enumerate(parts):
        datasets.Dataset.from_dict(rows(numbers), features=features).to_parquet(str(folder / f"{at}.parquet"))
    return str(folder)


KINDS = ["tar", pytest.param("parquet", marks=needs_datasets), pytest.param("disk", marks=needs_datasets)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module", params=KINDS)
def data(request, tmp_path_factory):
    return make(request.param, tmp_path_factory.mktemp("data") / request.param)


def stream(data, position=BEGINNING, number=0, count=1, window=7, seed=0):
    shards = find_shards(data, "image", "text")
    return Stream(shards, number, count, seed, window, as_they_are, position)


def as_they_are(samples, _):
    return [(sample, (16, 16)) for sample in samples]


def take(source, count):
    return [int(next(source)[0].caption.split()[-1]) for _ in range(count)]


# What is read


def test_every_epoch_has_every_example_once_in_another_order(data):
    seen = take(stream(data), 90)
    epochs = [seen[:30], seen[30:60], seen[60:]]
    assert [sorted(epoch) for epoch in epochs] == [list(range(30))] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert all(epoch[:6] != sorted(epoch[:6]) for epoch in epochs), "shuffled within a window"
    assert seen == take(stream(data), 90)
    assert seen != take(stream(data, seed=1), 90)


def test_a_stream_goes_on_exactly_where_it_was(data):
    whole = take(stream(data), 80)
    for cut in (3, 7, 30, 61):
        begun = stream(data)
        take(begun, cut)
        position = json.loads(json.dumps(begun.position()))
        assert take(stream(data, position), 80 - cut) == whole[cut:]


def test_streams_have_nothing_in_common_and_miss_nothing(data):
    shares = [take(stream(data, number=number, count=2, window=4), 12) for number in range(2)]
    assert not set(shares[0]) & set(shares[1])
    first, second = (stream(data, number=number, count=2) for number in range(2))
    numbers: list[int] = []
    for each in (first, second):
        while each.position()["epoch"] == 0:
            numbers += take(each, 1)
    # The one example that showed each stream its second epoch is one too many.
    assert Counter(numbers).keys() == set(range(30))


def test_the_pictures_are_those_of_their_captions(data):
    samples = stream(data)
    for _ in range(10):
        sample, _ = next(samples)
        number = int(sample.caption.split()[-1])
        assert (sample.picture, sample.caption) == example(number)


def test_a_folder_of_tars_is_their_pattern(tmp_path):
    pattern = make("tar", tmp_path)
    assert take(stream(str(tmp_path)), 30) == take(stream(pattern), 30) == take(stream(str(tmp_path / "*.tar")), 30)


# Training on it


def settings_for(output, data, model, **changes):
    values = dict(data=data, model=str(model), resolution=16, size="tiny", shuffle_buffer=7, log_every=1, batch_size=4)
    return small_settings(output, **{**values, **changes})


def losses(output):
    return [json.loads(line)["loss"] for line in (output / "training" / "log.jsonl").read_text().splitlines()]


def test_a_training_cut_short_goes_on_to_the_same_bits(tmp_path, data, model):
    """Also with what it had read and shuffled, and not yet shown: the window is of 7, a batch of 4."""
    settings = dict(steps=5, save_every=2, keep=9)
    whole = train(settings_for(tmp_path / "whole", data, model, **settings), config=small_config(32))
    shutil.copytree(tmp_path / "whole" / "training", tmp_path / "cut" / "training")
    for path in checkpoint.list_checkpoints(tmp_path / "cut" / "training" / "checkpoints")[1:]:
        checkpoint.remove(path)  # as if it had been killed after step 2
    cut = train(settings_for(tmp_path / "cut", data, model, **settings), config=small_config(32))
    assert_same_bits(weights(cut), weights(whole))
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert len(losses(tmp_path / "cut")) == 5
    assert {path.name for path in (tmp_path / "cut" / "training").iterdir()} == {"checkpoints", "log.jsonl"}


def test_processes_share_one_batch_and_read_their_own_streams(tmp_path, model):
    data = make("tar", tmp_path / "data")
    settings = settings_for(tmp_path, data, model, streams=4, batch_size=8, accumulate=2, steps=3)

    def drawn(share):
        shards = find_shards(data, "image", "text")
        opened = []
        read = shards.read
        shards.read = lambda shard, place: opened.append(shard) or read(shard, place)
        source = loop.StreamedData(shards, loop._encoders(settings, None), settings, torch.device("cpu"))
        return list(source.draws(share, 0)), set(opened)

    whole, _ = drawn([slice(0, 4), slice(4, 8)])
    parts, opened = zip(*(drawn(share) for share in loop._share_of_batch(settings, 2)), strict=True)
    for step in range(3):
        for kind in range(3):
            together = torch.cat([own[2 * step + part][kind] for own in parts for part in range(2)])
            torch.testing.assert_close(
                together, torch.cat([whole[2 * step + part][kind] for part in range(2)]), atol=1e-5, rtol=1e-5
            )
    assert all(len(own) < 5 for own in opened), "a process does not read everything"


# What is refused


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    pattern = make("tar", tmp_path)
    for name, asked in (("webdataset", pattern), ("datasets", "hf:owner/name")):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(OMSError, match=rf"library {name} .*pip install {name}"):
            find_shards(asked, "image", "text")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"streams": 6}, "the data has 5 shards: allowed is 1 to 5"),
        ({"streams": 3}, "batch_size 4 is no multiple of the 3 streams"),
        ({"resolution": 15}, "resolution 15 is no multiple of 2"),
        ({"buckets": True}, "resolution 16 is no multiple of 64"),
        ({"buckets": True, "resolution": 64, "streams": 2}, "streams: with buckets"),
        ({"buckets": True, "resolution": 64, "shuffle_buffer": 3}, "shuffle_buffer 3 is less than batch_size 4"),
    ],
)
def test_settings_that_do_not_fit_the_shards(tmp_path, model, change, message):
    data = make("tar", tmp_path / "data")
    with pytest.raises(SettingError, match=message):
        train(settings_for(tmp_path / "out", data, model, **change))


def broken(kind, folder):
    if kind == "gone":
        return str(folder / "{000..002}.tar")
    path = write_examples(folder / "000.tar", range(3), "cls" if kind == "caption" else "txt")
    content = path.read_bytes()
    if kind == "cut":
        path.write_bytes(content[:700])
    elif kind == "picture":
        path.write_bytes(content.replace(b"IDAT", b"idat"))
    elif kind == "mixed":
        (folder / "a.png").write_bytes(picture(0.5))
        return str(folder)
    return str(path)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("gone", r"3 of 3 shards do not exist, the first is .*000\.tar"),
        ("cut", r"The shard .*000\.tar cannot be read"),
        ("picture", r"The picture 00\d in .*000\.tar cannot be read"),
        ("caption", r"000 in .*000\.tar: no caption; .*cls, png"),
        ("mixed", r"holds shards and other data"),
    ],
)
def test_broken_shards_are_named(tmp_path, model, kind, message):
    data = broken(kind, tmp_path / "data")
    with pytest.raises(OMSError, match=message):
        train(settings_for(tmp_path / "out", data, model, steps=1))


@needs_datasets
def test_a_column_that_is_not_there_is_named(tmp_path, model):
    data = make("parquet", tmp_path / "data")
    with pytest.raises(OMSError, match=r"nothing in the column 'caption': give --caption-column \(of image, text\)"):
        train(settings_for(tmp_path / "out", data, model, caption_column="caption"))


@needs_datasets
def test_parquet_of_another_writer(tmp_path):
    """Which holds a picture's bytes and no word of what they are."""
    import pyarrow
    import pyarrow.parquet

    numbers = range(8)
    table = {"jpg": [example(number)[0] for number in numbers], "text": [example(number)[1] for number in numbers]}
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "0.parquet")
    source = Stream(find_shards(str(tmp_path / "0.parquet"), "jpg", "text"), 0, 1, 0, 4, as_they_are)
    assert sorted(take(source, 8)) == list(numbers)
