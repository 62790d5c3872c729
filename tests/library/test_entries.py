"""Finding modules on disk by their headers."""

import io
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lib_oms.errors import ModuleFileError
from lib_oms.library import fits, scan
from lib_oms.library.entries import identify
from lib_oms.psi import OMSUNet, OMSUNetConfig

CONFIG = {
    "block_out_channels": [8, 16],
    "attention_head_dim": [1, 2],
    "cross_attention_dim": 1024,
    "layers_per_block": 1,
    "norm_num_groups": 4,
}


@pytest.fixture(scope="module")
def modules():
    """Small modules, one for each published text encoder's width."""
    widths = (768, 1024, 2048)
    return {width: OMSUNet(OMSUNetConfig.from_dict({**CONFIG, "cross_attention_dim": width})) for width in widths}


def by_name(folder):
    return {entry.name: entry for entry in scan([folder])}


def publish(psi: OMSUNet, folder: Path) -> Path:
    """The layout of the published repositories: text encoder and tokenizer are only named."""
    psi.save_pretrained(folder / "oms_module")
    (folder / "model_index.json").write_text('{"_class_name": "OMSPipeline"}')
    for part in ("oms_text_encoder", "oms_tokenizer"):
        (folder / part).mkdir()
        named = {"_name_or_path": "stabilityai/stable-diffusion-2-1", "subfolder": part[4:]}
        (folder / part / "config.json").write_text(json.dumps(named))
    return folder


def test_folders_and_files_at_every_depth(tmp_path, modules):
    publish(modules[1024], tmp_path / "published")
    modules[1024].save_pretrained(tmp_path / "without level")
    modules[1024].save_pretrained(tmp_path / "sub" / "deeper" / "half.v2.safetensors")
    modules[2048].save_pretrained(tmp_path / "sub" / "one.safetensors", metadata={"oms.latents": "oms-demo"})
    (tmp_path / "notes.txt").write_text("nothing to see")

    entries = by_name(tmp_path)

    assert list(entries) == ["published", "sub/deeper/half.v2", "sub/one", "without level"]
    assert all(entry.problem is None for entry in entries.values())
    for entry in entries.values():
        assert OMSUNet.from_pretrained(entry.path).config.block_out_channels == (8, 16)
    assert entries["published"].path == tmp_path / "published"
    assert entries["sub/one"].size == (tmp_path / "sub" / "one.safetensors").stat().st_size
    weights = tmp_path / "published" / "oms_module" / "diffusion_pytorch_model.safetensors"
    assert entries["published"].size == weights.stat().st_size


def test_a_folder_that_is_itself_a_module(tmp_path, modules):
    publish(modules[1024], tmp_path / "mine")
    assert list(by_name(tmp_path / "mine")) == ["mine"]


def test_folders_that_do_not_exist_hold_nothing(tmp_path):
    assert scan([tmp_path / "nothing", tmp_path]) == []


@pytest.mark.parametrize(
    ("width", "metadata", "latents", "text_encoder"),
    [
        (1024, {}, "unknown", "openclip"),
        (768, {}, "sd", "clip"),
        (768, {"oms.latents": "mine"}, "mine", "clip"),
        (2048, {}, "sdxl", "mixclip"),
        (1024, {"oms.latents": "sd"}, "sd", "openclip"),
        (1024, {"oms.latents": "oms-demo", "oms.text_encoder": "tiny"}, "oms-demo", "tiny"),
        (2048, {"oms.latents": "sd"}, "sd", "mixclip"),
        (2048, {"oms.text_encoder": "openclip"}, "unknown", "openclip"),
        (1024, {"oms.latents": "x" * 1000, "oms.text_encoder": "a\nb"}, "unknown", "openclip"),
    ],
)
def test_latents_and_text_encoder(tmp_path, modules, width, metadata, latents, text_encoder):
    modules[width].save_pretrained(tmp_path / "m.safetensors", metadata=metadata)
    (entry,) = scan([tmp_path])
    assert (entry.latents, entry.text_encoder, entry.problem) == (latents, text_encoder, None)


@pytest.mark.parametrize(
    ("published", "latents"), [("oms_b_openclip_15_21", "sd"), ("oms_b_openclip_xl", "sdxl"), ("mine", "unknown")]
)
@pytest.mark.parametrize("where", ["config", "index", "folder", "cache"])
def test_base_modules_are_told_apart_by_what_they_were_published_as(tmp_path, modules, published, latents, where):
    names = {"folder": published, "cache": f"models--h1t--{published}/snapshots/0123"}
    folder = publish(modules[1024], tmp_path / names.get(where, "x"))
    recorded = {"config": folder / "oms_module" / "config.json", "index": folder / "model_index.json"}.get(where)
    if recorded:
        raw = json.loads(recorded.read_text())
        recorded.write_text(json.dumps({**raw, "_name_or_path": f"h1t/{published}"}))
    (entry,) = scan([tmp_path])
    assert entry.latents == latents
    assert entry.problem is None


def test_identify_tells_what_scan_tells(tmp_path, modules):
    publish(modules[1024], tmp_path / "oms_b_openclip_xl")
    modules[2048].save_pretrained(tmp_path / "m.safetensors", metadata={"oms.latents": "oms-demo"})
    for entry in scan([tmp_path]):
        assert identify(entry.path) == (entry.latents, entry.text_encoder)
    assert identify(tmp_path / "oms_b_openclip_xl") == ("sdxl", "openclip")
    with pytest.raises(ModuleFileError, match="there is no such file or folder"):
        identify(tmp_path / "nothing")


def test_what_fits(tmp_path, modules):
    modules[1024].save_pretrained(tmp_path / "sd.safetensors", metadata={"oms.latents": "sd"})
    modules[1024].save_pretrained(tmp_path / "bare.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"")
    entries = by_name(tmp_path)

    assert fits(entries["sd"], "sd")
    assert not fits(entries["sd"], "sdxl")
    assert not fits(entries["sd"], "sdxl", chosen=True), "known to be wrong, whoever chose it"
    assert not fits(entries["bare"], "sd")
    assert fits(entries["bare"], "sd", chosen=True)
    assert not fits(entries["broken"], "unknown", chosen=True)


def test_broken_ones_are_listed_with_their_problem(tmp_path, modules):
    modules[1024].save_pretrained(tmp_path / "good.safetensors")
    whole = (tmp_path / "good.safetensors").read_bytes()
    (tmp_path / "truncated.safetensors").write_bytes(whole[:-1])
    torch.save({"a": torch.zeros(1)}, tmp_path / "pickle.safetensors")
    save_file({"model.diffusion_model.x": torch.zeros(1)}, tmp_path / "checkpoint.safetensors")
    save_file(modules[1024].state_dict(), tmp_path / "bare.safetensors")
    state = modules[1024].state_dict()
    renamed = {name.replace("resnets.0.norm1", "resnets.0.norm3"): tensor for name, tensor in state.items()}
    publish(modules[1024], tmp_path / "renamed")
    save_file(renamed, tmp_path / "renamed" / "oms_module" / "diffusion_pytorch_model.safetensors")
    (tmp_path / "no weights" / "oms_module").mkdir(parents=True)
    (tmp_path / "a pipeline").mkdir()
    (tmp_path / "a pipeline" / "model_index.json").write_text("{}")
    publish(modules[1024], tmp_path / "bad config")
    (tmp_path / "bad config" / "oms_module" / "config.json").write_text("{")

    found = by_name(tmp_path)
    problems = {name: entry.problem for name, entry in found.items()}

    assert found["renamed"].size > 0, "what there is of it, though it is a folder"
    assert found["no weights"].size == 0
    assert problems.pop("good") is None
    for name, words in {
        "truncated": "is truncated",
        "pickle": "is a pickle",
        "checkpoint": "is a whole Stable Diffusion checkpoint",
        "bare": "head counts cannot be told",
        "renamed": "tensor 'down_blocks.0.resnets.0.norm1.weight' is missing",
        "no weights": "holds no OMS model",
        "a pipeline": "holds no OMS model",
        "bad config": "is not JSON",
    }.items():
        assert words in problems.pop(name)
    assert not problems


def test_other_programs_files_are_passed_over(tmp_path, modules):
    modules[1024].save_pretrained(tmp_path / ".cache" / "m.safetensors")
    modules[1024].save_pretrained(tmp_path / ".m.safetensors")
    encoder = tmp_path / "text_encoder"
    encoder.mkdir()
    (encoder / "config.json").write_text('{"model_type": "clip_text_model"}')
    save_file({"text_model.x": torch.zeros(1)}, encoder / "model.safetensors")
    assert scan([tmp_path]) == []


def test_links_out_of_the_folder_are_not_followed(tmp_path, modules):
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    inside.mkdir()
    modules[1024].save_pretrained(outside / "m.safetensors")
    publish(modules[1024], outside / "folder")
    publish(modules[1024], inside / "real")
    links = {
        "file.safetensors": outside / "m.safetensors",
        "folder": outside / "folder",
        "loop": inside,
        "itself.safetensors": inside / "itself.safetensors",
        "again.safetensors": inside / "real" / "oms_module" / "diffusion_pytorch_model.safetensors",
    }
    for name, target in links.items():
        try:
            os.symlink(target, inside / name)
        except OSError:
            pytest.skip("this machine does not allow links")
    (inside / "level").mkdir()
    os.symlink(outside / "folder" / "oms_module", inside / "level" / "oms_module")
    (inside / "weights").mkdir()
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        os.symlink(outside / "folder" / "oms_module" / name, inside / "weights" / name)

    entries = by_name(inside)

    assert sorted(name for name, entry in entries.items() if entry.problem is None) == ["again", "real"]
    assert set(entries) == {"again", "file", "itself", "level", "real", "weights"}
    for name in ("file", "level", "weights"):
        assert "is a link out of" in entries[name].problem


def test_a_name_that_is_not_utf8_is_shown_and_cannot_be_chosen(tmp_path, modules):
    """As an archive of another system unpacks it; no page could send such a name back."""
    bad = os.fsdecode(b"caf\xe9")
    try:
        modules[1024].save_pretrained(tmp_path / f"{bad}.safetensors")
        modules[1024].save_pretrained(tmp_path / os.fsdecode(b"caf\xe8.safetensors"))
        publish(modules[1024], tmp_path / bad / "published")
        (tmp_path / bad / "broken.safetensors").write_bytes(b"")
    except OSError:
        pytest.skip("this machine has no such names")
    entries = scan([tmp_path])
    assert [entry.name for entry in entries] == ["caf\ufffd", "caf\ufffd", "caf\ufffd/broken", "caf\ufffd/published"]
    for entry in entries:
        assert "is not UTF-8; rename it" in entry.problem
        entry.problem.encode()
    with pytest.raises(ModuleFileError, match="caf\ufffd: there is no such file") as caught:
        identify(tmp_path / bad / bad)
    str(caught.value).encode()


def test_two_modules_of_one_name(tmp_path, modules):
    first, second = tmp_path / "first", tmp_path / "second"
    modules[1024].save_pretrained(first / "m.safetensors")
    modules[2048].save_pretrained(second / "m.safetensors")

    entries = scan([first, second, first])

    assert [entry.path.parent for entry in entries] == [first, second]
    assert entries[0].problem is None
    assert f"has the same name as {first / 'm.safetensors'}; rename one" in entries[1].problem


def write_large(folder: Path, count: int) -> str:
    """Modules of 300 MB each, with holes that take no disk; returns the header that all of them have."""
    with torch.device("meta"):
        shapes = {name: list(tensor.shape) for name, tensor in OMSUNet(OMSUNetConfig.base()).state_dict().items()}
    header, position = {"__metadata__": {"oms.latents": "sd"}}, 0
    for name, shape in shapes.items():
        size = 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [position, position + size]}
        position += size
    text = json.dumps(header).encode()
    for i in range(count):
        with (folder / f"{i:03}.safetensors").open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + position)
    return text


def test_listing_reads_headers_alone(tmp_path):
    """Reading the 60 GB of 200 modules would take minutes."""
    text = write_large(tmp_path, 200)
    read = bytes_read()

    entries = scan([tmp_path])

    assert len(entries) == 200
    assert {(entry.latents, entry.text_encoder, entry.problem) for entry in entries} == {("sd", "openclip", None)}
    assert bytes_read() - read < 210 * (len(text) + 2**16), "headers, and a buffer's worth of what follows them"

    # What has not changed is not read again, what has is.
    read = bytes_read()
    (tmp_path / "100.safetensors").write_bytes(b"broken")
    again = scan([tmp_path])
    assert bytes_read() - read < 2**20
    assert [entry.name for entry in again if entry.problem] == ["100"]
    assert [entry for entry in again if not entry.problem] == [entry for entry in entries if entry.name != "100"]


def test_listing_asks_little_of_a_slow_share(tmp_path, modules, monkeypatch):
    """Each call is a millisecond there. 201 modules took 29 of them each, at every picture."""
    write_large(tmp_path, 200)
    publish(modules[1024], tmp_path / "published")
    calls = []
    for module, name in ((os, "stat"), (os, "lstat"), (os, "scandir"), (os, "listdir"), (os, "readlink"), (io, "open")):
        monkeypatch.setattr(module, name, counted(getattr(module, name), calls))

    assert len(scan([tmp_path])) == 201
    assert len(calls) < 8 * 201, "the first time, when each is opened"
    calls.clear()
    assert len(scan([tmp_path])) == 201
    assert len(calls) < 2 * 201


def counted(function, calls):
    def call(*args, **kwargs):
        calls.append((function.__name__, *args[:1]))
        return function(*args, **kwargs)

    return call


def bytes_read() -> int:
    """What this process has read, as the kernel counts it; 0 where no kernel does."""
    counters = Path("/proc/self/io")
    return int(counters.read_text().split("rchar:")[1].split()[0]) if counters.exists() else 0
