"""`python -m lib_oms style`: from a folder of pictures to pictures like them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib_oms import __main__ as command_line
from lib_oms.given import load_style
from lib_oms.judging import metrics
from lib_oms.judging.painter import OBEDIENCE_PROMPT, Painter


def write_pictures(folder: Path, colors: list[tuple[int, int, int]]) -> Path:
    for index, color in enumerate(colors):
        (folder / f"part {index % 2}").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (90, 60 + index), color).save(folder / f"part {index % 2}" / f"{index}.png")
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden").mkdir(exist_ok=True)
    (folder / ".hidden" / "thumbnail.png").write_bytes(b"broken")
    return folder


def test_a_folder_becomes_a_small_file(tmp_path, capsys):
    folder = write_pictures(tmp_path / "dusk", [(90, 40, 60), (100, 50, 70), (80, 40, 90)])
    out = tmp_path / "styles" / "dusk.safetensors"
    assert command_line.main(["style", str(folder), "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines() == [str(out)]
    assert out.stat().st_size < 100_000
    assert load_style(out).mean.shape == (4, 6, 6)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["empty"], "holds no pictures"),
        (["nowhere"], "holds no pictures"),
        (["one"], "two pictures at least"),
        (["one", "--vae", "empty"], "cannot be loaded"),
        (["two", "--out", "dusk.txt"], "is a .safetensors file"),
        (["broken"], "cannot be read"),
    ],
)
def test_what_makes_no_style_is_said(tmp_path, capsys, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    write_pictures(tmp_path / "one", [(90, 40, 60)])
    write_pictures(tmp_path / "two", [(90, 40, 60), (1, 2, 3)])
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"not a picture")
    assert command_line.main(["style", *words]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.slow
def test_pictures_follow_the_mean_color_of_the_folder(tmp_path):
    colors = [(40, 50, 110), (60, 70, 140), (50, 60, 120), (45, 70, 130), (60, 55, 125)]
    out = tmp_path / "blue.safetensors"
    assert command_line.main(["style", str(write_pictures(tmp_path / "blue", colors)), "--out", str(out)]) == 0
    pictures = Painter("main", "Euler", 20, 3.0, 77).paint([OBEDIENCE_PROMPT] * 12, oms=True, style=out)
    mean = metrics.background_colours(pictures).mean(axis=0)
    assert metrics.color_differences(mean[None], np.array([[51, 61, 125]]) / 255)[0] < 5
