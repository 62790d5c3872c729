"""The embedded model: the parts, the LoRA, the shipped weights and what was measured."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPTokenizerFast

from lib_oms.__main__ import main
from lib_oms.embedded import MODEL_DIR, XL_MODEL_DIR, draw
from lib_oms.embedded.build import build_tokenizer, build_unet, build_vae
from lib_oms.embedded.load import LORAS, VARIANTS, load_pipeline
from lib_oms.embedded.lora import LoRALayers, merge_lora
from lib_oms.embedded.shapes import classify, drawn_shapes
from lib_oms.errors import OMSError
from lib_oms.judging.painter import Painter


def test_untrained_vae_gives_the_colors_of_flat_pictures_back():
    vae = build_vae()
    flat = torch.rand(8, 3, 1, 1).mul(2).sub(1).expand(-1, -1, 64, 64)
    with torch.no_grad():
        latents = vae.encode(flat).latent_dist.mode()
        back = vae.decode(latents).sample
    assert latents.shape == (8, 4, 8, 8)
    assert (back - flat).abs().mean() < 0.1


def test_tokenizer_knows_the_words_of_its_captions_and_survives_all_others(tmp_path):
    build_tokenizer(draw.captions(300, seed=0), tmp_path)
    tokenizer = CLIPTokenizerFast.from_pretrained(tmp_path)  # without ftfy the slow one of transformers 4 drops accents
    words = "a red circle on a black background"
    ids = tokenizer(words).input_ids
    assert len(ids) <= len(words.split()) + 4
    assert ids[-1] == tokenizer.eos_token_id == len(tokenizer) - 1
    strange = tokenizer("Zürich, 夜 \U0001f319!").input_ids
    assert tokenizer.eos_token_id not in strange[:-1]
    assert tokenizer.decode(strange[1:-1]).replace(" ", "") == "zürich,夜\U0001f319!"


def test_merged_lora_gives_what_was_trained_and_can_be_taken_out_again():
    torch.manual_seed(1)
    plain, trained = build_unet(), build_unet()
    trained.load_state_dict(plain.state_dict())
    layers = LoRALayers(trained, rank=2)
    for parameter in layers.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    x, t, text = torch.randn(1, 4, 16, 16), torch.tensor([400]), torch.randn(1, 77, 128)

    def run(unet):
        with torch.no_grad():
            return unet(x, t, text).sample

    before = run(plain)
    tensors = {name: tensor.float() for name, tensor in layers.state_dict().items()}
    merge_lora(plain, tensors)
    wanted = run(trained)
    assert (wanted - before).abs().max() > 1e-3
    half = 2e-3 * wanted.abs().max().item()  # what keeping the LoRA in half precision costs
    assert torch.allclose(run(plain), wanted, atol=half)
    merge_lora(plain, tensors, -1.0)
    assert torch.allclose(run(plain), before, atol=1e-4)


# --- The weights that are shipped ---------------------------------------------------------------------------------


def test_the_model_folders_are_small_and_hold_safetensors_only():
    files = [path for folder in (MODEL_DIR, XL_MODEL_DIR) for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 40e6
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".txt", ".md"}


def test_shipped_configs_name_no_path_and_text_tensors_have_their_published_names():
    for config in (*MODEL_DIR.rglob("config.json"), *XL_MODEL_DIR.rglob("config.json")):
        assert "_name_or_path" not in json.loads(config.read_text("utf-8"))
    names = load_file(MODEL_DIR / "text_encoder" / "model.safetensors")
    assert all(name.startswith("text_model.") for name in names)


@pytest.mark.parametrize("variant", ["main", "xl"])
def test_shipped_vae_gives_pictures_back(variant):
    pictures, _ = draw.dataset(8, seed=123)
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    vae = load_pipeline(variant).vae
    with torch.no_grad():
        back = vae.decode(vae.encode(x).latent_dist.mode()).sample
    assert (back - x).abs().mean() < 0.08
    assert (back.mean(dim=(1, 2, 3)) - x.mean(dim=(1, 2, 3))).abs().max() < 0.1


@pytest.mark.parametrize(("variant", "command"), [("main", "make`"), ("xl", "make --xl`")])
def test_a_folder_without_the_model_is_told_with_what_trains_it(tmp_path, variant, command):
    with pytest.raises(OMSError, match=f"variant '{variant}'.*lib_oms.embedded.{command}"):
        load_pipeline(variant, tmp_path)


@pytest.mark.parametrize("file", LORAS.values(), ids=LORAS)
def test_shipped_lora_fits_the_shipped_model(file):
    tensors = load_file(MODEL_DIR / "lora" / file)
    unet = load_pipeline().unet
    before = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    merge_lora(unet, tensors)
    changed = [name for name, tensor in unet.state_dict().items() if not torch.equal(tensor, before[name])]
    assert len(changed) == sum(name.endswith("lora_A.weight") for name in tensors)


def test_shipped_classifier_tells_the_shapes_of_unseen_pictures_apart():
    pictures, shown = drawn_shapes(300, seed=99)
    found = classify(pictures.permute(0, 2, 3, 1).numpy() / np.float32(255))
    assert (found == shown.numpy()).mean() >= 0.98


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_paints_with_the_step_and_without(variant):
    sampler, cfg = ("LCM", 1.0) if variant.startswith("lcm") else ("Euler", 3.0)
    painter = Painter(variant, sampler, 4, cfg, seed=1)
    raw, oms = (painter.paint(["a red circle on a black background"], oms=oms)[0] for oms in (False, True))
    assert raw.shape == oms.shape == (256, 256, 3)
    assert oms.mean() < raw.mean() - 0.05


def run_cli(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "lib_oms", *words], capture_output=True, text=True, timeout=900, check=False
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [(["--embedded", "--sampler", "Magic"], ["Magic", "DDIM", "Euler"]), ([], ["--embedded, --solvers, --colors N"])],
    ids=["unknown sampler", "nothing said"],
)
def test_what_cannot_be_measured_is_refused_with_what_can(words, told, capsys):
    assert main(["evaluate", *words]) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in told)


@pytest.mark.slow
@pytest.mark.parametrize(("sampler", "cfg", "mean", "most"), [("Euler", 1, 3, 5), ("DDIM", 3, 6, 10)])
def test_a_color_that_is_asked_for_comes(sampler, cfg, mean, most):
    done = run_cli(
        "evaluate", "--colors", "6", "--each", "3", "--seed", "77", "--sampler", sampler, "--cfg", str(cfg), "--json"
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["quiet"] == 6
    assert result["ciede2000_mean"] < mean  # guidance takes a tenth of a color: docs/steering.md
    assert result["ciede2000_p95"] < most


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["DDIM", "Euler"])
def test_one_more_step_brings_brightness_to_what_captions_ask_for(tmp_path, sampler):
    done = run_cli(
        "evaluate", "--embedded", "--count", "50", "--each", "5", "--seed", "77", "--cfg", "3", "--sampler", sampler,
        "--steps", "10", "--json", "--out", str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["ratio"] > 2.5  # of 500 pictures it is above 4: see the model card
    assert result["mean_black"] < 0.1
    assert result["mean_white"] > 0.9
    assert result["obedience_spearman"] > 0.9
    assert result["color_accuracy"] >= 0.9
    assert len(list(tmp_path.glob("*.png"))) == 2


@pytest.mark.slow
@pytest.mark.parametrize(("folder", "words"), [(MODEL_DIR, []), (XL_MODEL_DIR, ["--xl"])], ids=["sd", "xl"])
def test_the_script_remakes_the_whole_folder(tmp_path, folder, words):
    done = subprocess.run(
        [sys.executable, "-m", "lib_oms.embedded.make", "--scale", "0.002", "--out", str(tmp_path / "model"),
         "--work", str(tmp_path / "work"), *words],
        capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shipped = {path.relative_to(folder) for path in folder.rglob("*.safetensors")}
    assert {path.relative_to(tmp_path / "model") for path in (tmp_path / "model").rglob("*.safetensors")} == shipped
