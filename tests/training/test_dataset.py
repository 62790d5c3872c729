"""Reading a folder of pictures with captions: what is understood, and what is said about what is not."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from training_helpers import write_picture

from lib_oms.errors import OMSError
from lib_oms.training.dataset import load_picture, read_image_folder


def captions_of(folder, **options):
    return {str(e.picture.relative_to(folder)): e.caption for e in read_image_folder(folder, **options)}


def test_metadata_jsonl(tmp_path):
    write_picture(tmp_path / "a.png", 0.1)
    write_picture(tmp_path / "sub" / "b.JPG", 0.9)
    rows = [{"file_name": "a.png", "text": "dark – très"}, {"file_name": "sub/b.JPG", "text": " bright "}]
    (tmp_path / "metadata.jsonl").write_text("\n\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    assert captions_of(tmp_path) == {"a.png": "dark – très", "sub/b.JPG": "bright"}


def test_metadata_csv_with_another_column_and_quoting(tmp_path):
    write_picture(tmp_path / "a.png", 0.1)
    write_picture(tmp_path / "b.png", 0.1)
    table = 'file_name,text,caption\na.png,x,"one, ""two""\nthree"\nb.png,y,plain\n'
    (tmp_path / "metadata.csv").write_text(table, encoding="utf-8-sig")
    assert captions_of(tmp_path, caption_column="caption") == {"a.png": 'one, "two"\nthree', "b.png": "plain"}


def test_text_beside_each_picture(tmp_path):
    for name in ("b.png", "a.webp", "deep/er/c.bmp"):
        path = write_picture(tmp_path / name, 0.5)
        path.with_suffix(".txt").write_text(f"{name}\n", encoding="utf-8")
    assert list(captions_of(tmp_path).items()) == [
        ("a.webp", "a.webp"), ("b.png", "b.png"), ("deep/er/c.bmp", "deep/er/c.bmp"),
    ]  # fmt: skip


def test_each_split_folder_may_have_its_own_metadata(tmp_path):
    for split in ("train", "more"):
        write_picture(tmp_path / split / "0.png", 0.5)
        line = json.dumps({"file_name": "0.png", "text": split})
        (tmp_path / split / "metadata.jsonl").write_text(line, encoding="utf-8")
    assert captions_of(tmp_path) == {"more/0.png": "more", "train/0.png": "train"}


def test_a_picture_may_have_several_captions(tmp_path):
    write_picture(tmp_path / "a.png", 0.5)
    lines = [json.dumps({"file_name": "a.png", "text": text}) for text in ("one", "two")]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert [example.caption for example in read_image_folder(tmp_path)] == ["one", "two"]


def test_hidden_files_are_passed_over(tmp_path):
    write_picture(tmp_path / "a.png", 0.5).with_suffix(".txt").write_text("a", encoding="utf-8")
    (tmp_path / "._a.png").write_bytes(b"a resource fork")
    write_picture(tmp_path / ".thumbnails" / "a.png", 0.5)
    assert captions_of(tmp_path) == {"a.png": "a"}


def test_no_folder(tmp_path):
    with pytest.raises(OMSError, match=r"nowhere does not exist"):
        read_image_folder(tmp_path / "nowhere")


def test_empty_folder(tmp_path):
    (tmp_path / "notes.md").write_text("no pictures", encoding="utf-8")
    with pytest.raises(OMSError, match=r"No pictures in .*\.png"):
        read_image_folder(tmp_path)


def test_picture_without_caption_is_named(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        write_picture(tmp_path / name, 0.5)
    (tmp_path / "a.txt").write_text("a", encoding="utf-8")
    with pytest.raises(OMSError, match=r"2 of 3 pictures .* the first is b\.png"):
        read_image_folder(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metadata.jsonl", '{"file_name": "a.png", "text": "x"}\n{"file_name', r"metadata\.jsonl, line 2: not JSON"),
        ("metadata.jsonl", '["a.png", "x"]', r"line 1: a JSON object"),
        ("metadata.jsonl", '{"file_name": "a.png", "label": "x"}', r"line 1: no text in the column 'text' .*label"),
        ("metadata.jsonl", '{"file_name": "a.png", "text": null}', r"no text in the column 'text'"),
        ("metadata.jsonl", '{"file_name": "gone.png", "text": "x"}', r"line 1: the picture 'gone\.png' is not in"),
        ("metadata.jsonl", '{"file_name": "a.png", "text": "a \\ud83c b"}', r"line 1: .*half of a character, '\\ud83c"),
        ("metadata.jsonl", '{"file_name": "\\ud83c.png", "text": "x"}', r"line 1: the picture '\\ud83c\.png' is not"),
        ("metadata.csv", "file_name,text\na.png\n", r"line 2: no text in the column 'text'"),
        ("metadata.csv", "picture,text\na.png,x\n", r"line 2: no text in the column 'file_name' .*picture"),
    ],
)
def test_a_bad_metadata_file_is_named_with_its_line(tmp_path, name, content, message):
    write_picture(tmp_path / "a.png", 0.5)
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(OMSError, match=message):
        read_image_folder(tmp_path)


def test_captions_that_are_not_utf8(tmp_path):
    write_picture(tmp_path / "a.png", 0.5).with_suffix(".txt").write_bytes("für".encode("latin-1"))
    with pytest.raises(OMSError, match=r"a\.txt is not UTF-8"):
        read_image_folder(tmp_path)


def test_two_metadata_files_contradict(tmp_path):
    write_picture(tmp_path / "a.png", 0.5)
    for name in ("metadata.csv", "metadata.jsonl"):
        (tmp_path / name).write_text("", encoding="utf-8")
    with pytest.raises(OMSError, match="keep one"):
        read_image_folder(tmp_path)


def test_load_picture_cuts_around_the_centre(tmp_path):
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = 255  # white in the middle third alone
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    picture = load_picture(tmp_path / "wide.png", 20)
    assert picture.shape == (3, 20, 20)
    assert picture.dtype == torch.float32
    assert float(picture.min()) == 1.0


@pytest.mark.parametrize("size", [(16, 16), (40, 17), (5, 9), (300, 16)])
def test_load_picture_keeps_the_brightness(tmp_path, size):
    Image.new("RGB", size, (51, 102, 204)).save(tmp_path / "flat.png")
    picture = load_picture(tmp_path / "flat.png", 16)
    assert picture.shape == (3, 16, 16)
    expected = torch.tensor([51.0, 102.0, 204.0]) / 127.5 - 1
    torch.testing.assert_close(picture.mean((1, 2)), expected, atol=1e-3, rtol=0)


def test_a_long_strip_is_cut_before_it_is_resized(tmp_path, monkeypatch):
    """20000x8 pixels at 512 would be 655 megapixels on the way."""
    sizes, resize = [], Image.Image.resize

    def watched(self, size, *more, **named):
        sizes.append(size)
        return resize(self, size, *more, **named)

    monkeypatch.setattr(Image.Image, "resize", watched)
    pixels = np.zeros((8, 2000, 3), np.uint8)
    pixels[:, 996:1004] = 255
    Image.fromarray(pixels).save(tmp_path / "strip.png")
    picture = load_picture(tmp_path / "strip.png", 64)
    assert max(width * height for width, height in sizes) <= 64 * 64
    assert float(picture[:, :, 8:56].min()) > 0.9, "around the center"


@pytest.mark.parametrize("level", [0.0, 0.25, 1.0])
def test_floating_point_pictures_are_from_0_to_1(tmp_path, level):
    Image.fromarray(np.full((8, 8), level, np.float32)).save(tmp_path / "float.tiff")
    assert float(load_picture(tmp_path / "float.tiff", 8).mean()) == pytest.approx(level * 2 - 1, abs=0.005)


@pytest.mark.parametrize("value", [255.0, -0.5, np.nan, np.inf])
def test_other_floating_point_pictures_are_refused(tmp_path, value):
    pixels = np.full((8, 8), 0.5, np.float32)
    pixels[3, 3] = value
    Image.fromarray(pixels).save(tmp_path / "float.tiff")
    with pytest.raises(OMSError, match=r"float\.tiff cannot be read .*only those from 0 \(black\) to 1 \(white\)"):
        load_picture(tmp_path / "float.tiff", 8)


def test_transparency_is_white_not_what_lies_under_it(tmp_path):
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert float(load_picture(tmp_path / "clear.png", 8).min()) == 1.0


def test_sixteen_bits_a_pixel_are_not_clipped(tmp_path):
    Image.fromarray(np.full((8, 8), 257 * 100, np.uint16)).save(tmp_path / "deep.png")
    expected = 100 / 127.5 - 1
    assert float(load_picture(tmp_path / "deep.png", 8).mean()) == pytest.approx(expected, abs=1e-3)


def test_gray_and_palette_pictures(tmp_path):
    Image.new("L", (8, 8), 255).save(tmp_path / "gray.png")
    Image.new("P", (8, 8), 0).save(tmp_path / "palette.gif")
    assert float(load_picture(tmp_path / "gray.png", 8).min()) == 1.0
    assert load_picture(tmp_path / "palette.gif", 8).shape == (3, 8, 8)


def test_the_camera_orientation_is_obeyed(tmp_path):
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4] = 255  # the upper half is white in the file
    exif = Image.Exif()
    exif[274] = 3  # turned by 180 degrees
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    picture = load_picture(tmp_path / "turned.png", 8)
    assert float(picture[:, :4].max()) == -1.0
    assert float(picture[:, 4:].min()) == 1.0


@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
def test_an_unreadable_picture_is_named(tmp_path, damage):
    path = write_picture(tmp_path / "bad one.png", 0.5, (64, 64))
    content = {"cut": path.read_bytes()[:200], "text": b"<html>404</html>", "empty": b""}[damage]
    path.write_bytes(content)
    with pytest.raises(OMSError, match=r"bad one\.png cannot be read"):
        load_picture(path, 16)
