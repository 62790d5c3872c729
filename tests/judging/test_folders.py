"""Judging pictures that exist: folders, radii, measures by libraries with weights that are here, and the report."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from browser_helpers import ROOT
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save_file
from scipy import stats

from lib_oms.__main__ import main
from lib_oms.errors import OMSError
from lib_oms.judging import asked, radius
from lib_oms.judging.folders import judge, read_folder

RAW, OMS, REAL = range(110, 150, 2), range(20, 220, 10), range(20, 240, 10)


def fill(folder: Path, levels: range, caption: str | None = "a red circle", names: str = "{:03}") -> Path:
    """Pictures of these gray levels with a little pattern, and a caption in their infotext."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(len(folder.name))
    for index, level in enumerate(levels):
        facts = PngInfo()
        if caption is not None:
            facts.add_text("parameters", f"{caption}\nNegative prompt: blur\nSteps: 3, Seed: {index}")
        pixels = np.clip(level + rng.integers(-9, 10, (40, 48, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{names.format(index)}.png", pnginfo=facts)
    return folder


@pytest.fixture
def sides(tmp_path: Path) -> list[str]:
    return [str(fill(tmp_path / name, levels)) for name, levels in (("raw", RAW), ("oms", OMS))]


def test_two_folders_are_compared_with_real_pictures(
    sides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real = fill(tmp_path / "real", REAL, caption=None)
    assert main(["evaluate", *sides, "--reference", str(real), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["folders"]
    assert found["pairs"] == len(RAW)
    assert found["wasserstein_raw"] == pytest.approx(stats.wasserstein_distance(RAW, REAL), abs=0.5)
    assert found["wasserstein_oms"] == pytest.approx(stats.wasserstein_distance(OMS, REAL), abs=0.5)
    assert found["ratio"] > 3


def test_without_real_pictures_no_distance_is_told(sides: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", *sides]) == 0
    said = capsys.readouterr().out
    assert "folders mean_oms" in said
    assert "wasserstein" not in said
    assert "FID, precision, recall, density, coverage: no weights given; give --features" in said


def test_pairs_are_those_whose_names_agree_and_others_count_alone(tmp_path: Path) -> None:
    raw = read_folder(fill(tmp_path / "a", range(100, 104)))
    oms = read_folder(fill(tmp_path / "b", range(100, 103)))
    strangers = read_folder(fill(tmp_path / "c", range(100, 104), names="other-{}"))
    assert judge(raw, oms).pairs == 3
    alone = judge(raw, strangers)
    assert (alone.pairs, alone.composition, alone.pictures_oms) == (0, None, 4)


def test_a_broken_picture_is_named(sides: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    broken = Path(sides[1]) / "005.png"
    broken.write_bytes(broken.read_bytes()[:200])
    assert main(["evaluate", *sides]) == 2
    assert str(broken) in capsys.readouterr().err


def test_an_empty_folder_and_a_third_one_are_refused(
    sides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["evaluate", sides[0], str(tmp_path / "empty")]) == 2
    assert "holds no pictures" in capsys.readouterr().err
    assert main(["evaluate", *sides, sides[0]]) == 2
    assert "two folders" in capsys.readouterr().err


# Captions


def test_captions_come_line_by_line_or_as_json(tmp_path: Path) -> None:
    lines, rows = tmp_path / "a.txt", tmp_path / "a.jsonl"
    lines.write_text("\ufeffa cat\n\n  a dog, \u732b \n", encoding="utf-8")
    rows.write_text('{"text": "a cat"}\n{"caption": "a dog,\\n\u732b"}\n', encoding="utf-8")
    assert asked.read_captions(lines) == asked.read_captions(rows) == ["a cat", "a dog, \u732b"]
    assert asked.read_captions(lines, 1) == ["a cat"]
    with pytest.raises(OMSError, match="holds 2 captions, 3 are asked for"):
        asked.read_captions(lines, 3)
    rows.write_text('{"text": "a cat"}\n{"title": "x"}\n', encoding="utf-8")
    with pytest.raises(OMSError, match="line 2"):
        asked.read_captions(rows)


def test_the_colors_are_forty_and_css_knows_them() -> None:
    from matplotlib.colors import to_hex

    assert len(asked.COLORS) == 40
    assert {name: to_hex(name.replace(" ", "")) for name in asked.COLORS} == asked.COLORS


# Radii


def test_radii_are_those_of_noisy_latents(tmp_path: Path) -> None:
    """Against latents that really are made noisy."""
    torch.manual_seed(0)
    x0 = 2 * torch.randn(400, 4, 8, 8) + torch.randn(400, 4, 1, 1)
    save_file({"latents": x0}, tmp_path / "latents.safetensors")
    alphas = radius.read_schedule(None)
    assert float(alphas[999]) == pytest.approx(0.0047, abs=5e-5)
    for found in radius.radii(alphas, radius.read_latents(tmp_path / "latents.safetensors"), (999, 401)):
        a = alphas[found.timestep].float()
        noisy = a.sqrt() * x0 + (1 - a).sqrt() * torch.randn_like(x0)
        length = noisy.flatten(1).norm(dim=1).square().mean().sqrt()
        mean = noisy.mean(dim=(2, 3)).square().mean().sqrt()
        assert found.radius_training == pytest.approx(float(length), rel=0.01)
        assert found.mean_training == pytest.approx(float(mean), rel=0.05)
        assert found.radius_sampling == 16
        assert found.mean_sampling == 1 / 8


def test_unit_latents_say_that_they_are_and_differ_in_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--radius", "--size", "512", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "no data" in found["latents"]["source"]
    assert all(row["radius_training"] == pytest.approx(128) for row in found["radius"])


def test_a_schedule_comes_from_a_pipelines_folder_or_a_checkpoint(tmp_path: Path) -> None:
    alphas = radius.read_schedule(ROOT / "models" / "demo")
    save_file({"alphas_cumprod": alphas.float()}, tmp_path / "model.safetensors")
    assert torch.allclose(radius.read_schedule(tmp_path / "model.safetensors"), alphas, atol=1e-6)
    save_file({"weight": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(OMSError, match="no alphas_cumprod"):
        radius.read_schedule(tmp_path / "model.safetensors")


def test_the_vae_makes_latents_of_the_real_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    real = fill(tmp_path / "real", range(0, 250, 50))
    vae = ROOT / "models" / "demo" / "vae"
    asked_for = ["--radius", str(ROOT / "models" / "demo"), "--vae", str(vae), "--reference", str(real)]
    assert main(["evaluate", *asked_for, "--size", "64", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["latents"]["numbers"] == 4 * 8 * 8
    last = found["radius"][0]
    assert last["mean_training"] > last["mean_sampling"]


# Measures by libraries


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of random weights with the embedded tokenizer, and a network of features in TorchScript."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    folder = tmp_path_factory.mktemp("weights")
    tokenizer = CLIPTokenizer.from_pretrained(ROOT / "models" / "demo" / "tokenizer")
    layers = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    marks = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = CLIPConfig(
        text_config={**layers, **marks, "vocab_size": len(tokenizer)},
        vision_config={**layers, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder / "clip")
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(images, tokenizer).save_pretrained(folder / "clip")
    pool = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    torch.jit.trace(lambda x: pool(x.float() / 255), torch.zeros(1, 3, 8, 8, dtype=torch.uint8)).save(
        str(folder / "features.pt")
    )
    return folder


def test_measures_of_features_are_better_where_pictures_are_nearer(
    sides: list[str], weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torchmetrics")
    pytest.importorskip("prdc")
    real = fill(tmp_path / "real", REAL)
    features = ["--features", str(weights / "features.pt")]
    assert main(["evaluate", *sides, "--reference", str(real), *features, "--json"]) == 0
    found = {row["name"]: row for row in json.loads(capsys.readouterr().out)["measures"]}
    assert list(found) == ["FID", "precision", "recall", "density", "coverage"]
    assert found["FID"]["oms"] < found["FID"]["raw"]
    assert found["coverage"]["oms"] > found["coverage"]["raw"]


def test_scores_of_text_and_pictures(sides: list[str], weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torchmetrics")
    clip = str(weights / "clip")
    assert main(["evaluate", *sides, "--clip", clip, "--pickscore", clip, "--json"]) == 0
    found = {row["name"]: row for row in json.loads(capsys.readouterr().out)["measures"]}
    assert list(found) == ["CLIP score", "PickScore"]
    assert all(np.isfinite([row["raw"], row["oms"]]).all() for row in found.values())


def test_what_cannot_be_measured_is_left_out_by_name(
    sides: list[str], weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    silent = str(fill(tmp_path / "silent", OMS, caption=None))
    no_model = str(tmp_path)
    given = ["--clip", str(weights / "clip"), "--features", str(weights / "features.pt"), "--imagereward", no_model]
    assert main(["evaluate", sides[0], silent, *given, "--json"]) == 0
    left_out = json.loads(capsys.readouterr().out)["left_out"]
    assert "FID, precision, recall, density, coverage: no real pictures given; give --reference" in left_out
    assert "CLIP score: not all pictures have a prompt in their infotext" in left_out
    assert main(["evaluate", *sides, "--pickscore", no_model, "--json"]) == 0
    left_out = json.loads(capsys.readouterr().out)["left_out"]
    assert any(line.startswith(f"PickScore: {no_model} cannot be used") for line in left_out)
    assert main(["evaluate", *sides, "--pickscore", str(tmp_path / "nothing")]) == 2


# The report


def test_the_report_is_one_file_that_holds_what_was_found(sides: list[str], tmp_path: Path) -> None:
    real = fill(tmp_path / "real", REAL, caption="<b>bold</b> & dark")
    page = tmp_path / "new" / "report.html"
    again = [sides[0], str(fill(tmp_path / "o", OMS, caption="<script>alert(1)</script>"))]
    assert main(["evaluate", *again, "--reference", str(real), "--radius", "--report", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    for words in (
        "Wasserstein",
        "22.47 \u2192 7.84",
        "r in training",
        "PickScore: no weights given",
        "<svg",
        "data:image/",
    ):
        assert words in text, words
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
