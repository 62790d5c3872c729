"""Files and names that somebody may have made to do harm: refused in our own error, at once, in little memory."""

import json
import random
import re
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from text_helpers import VIT_H, text_model, write_tokenizer

from lib_oms.errors import ModuleFileError, SettingError
from lib_oms.library import Places, catalogue, describe, scan
from lib_oms.library.listing import listing
from lib_oms.library.text_sources import checkpoint_tower
from lib_oms.psi import OMSUNet, OMSUNetConfig
from lib_oms.text import load_text_encoder

HUGE = (0, -1, 2**31, 2**53, 2**60, 2**63, 10**400, 1e308, float("nan"), None, True, "", [], {}, "x" * 100_000)
ONE_FILE = "m.safetensors"
# As little as there can be: ten thousand of them are built.
SMALLEST_TEXT = {**VIT_H, "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1}
SMALLEST = OMSUNetConfig(
    block_out_channels=(8,),
    num_attention_heads=(2,),
    cross_attention_dim=8,
    transformer_layers_per_block=(1,),
    layers_per_block=(1,),
    down_block_types=("DownBlock2D",),
    up_block_types=("UpBlock2D",),
    norm_num_groups=4,
)
CHECKPOINT = ".checkpoints/c.safetensors"  # hidden, so that it is in no list of modules


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Sound files of every kind that is read, by the path at which they are read."""
    folder = tmp_path_factory.mktemp("sound")
    psi = OMSUNet(SMALLEST, {"oms.latents": "sd", "oms.text_encoder": "openclip"})
    psi.save_pretrained(folder / ONE_FILE)
    psi.save_pretrained(folder / "mod" / "oms_module")
    (folder / "mod" / "model_index.json").write_text('{"_name_or_path": "h1t/oms_b_openclip_xl"}')
    text_model(SMALLEST_TEXT).save_pretrained(folder / "mod" / "text_encoder", safe_serialization=True)
    write_tokenizer(folder / "mod" / "tokenizer", "!")
    (folder / CHECKPOINT).parent.mkdir()
    save_file({"cond_stage_model.model.token_embedding.weight": torch.zeros(4, 64)}, folder / CHECKPOINT)
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def lay_out(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Bytes changed, moved and lost; and where the content is JSON or has a JSON header, values that are not meant."""
    way = rng.randrange(6)
    if way == 0:
        return content[: rng.randrange(len(content))]
    if way <= 2:
        changed = bytearray(content)
        near = min(len(changed), 4096) if rng.random() < 0.7 else len(changed)  # the header is what is trusted
        for _ in range(rng.randint(1, 8)):
            at = rng.randrange(near)
            changed[at : at + rng.randint(0, 2)] = rng.randbytes(rng.randint(0, 3))
        return bytes(changed)
    if content[:1] == b"{":
        return json.dumps(_spoilt(json.loads(content), rng)).encode()
    if len(content) > 8 and content[8:9] == b"{":
        length = int.from_bytes(content[:8], "little")
        header = json.dumps(_spoilt(json.loads(content[8 : 8 + length]), rng)).encode()
        told = rng.choice((len(header), len(header), len(header), rng.getrandbits(rng.randint(1, 64))))
        return told.to_bytes(8, "little") + header + content[8 + length :]
    return content[::-1]


def _spoilt(value, rng: random.Random):
    """A JSON value with one value somewhere in it replaced, renamed or gone."""
    if isinstance(value, (dict, list)) and value and rng.random() < 0.8:
        copy = dict(value) if isinstance(value, dict) else list(value)
        key = rng.choice(list(copy)) if isinstance(copy, dict) else rng.randrange(len(copy))
        way = rng.random()
        if way < 0.8:
            inner = copy[key]
            if isinstance(inner, str) and inner[:1] == "{":  # the config in the metadata
                copy[key] = json.dumps(_spoilt(json.loads(inner), rng))
            else:
                copy[key] = _spoilt(inner, rng)
        elif way < 0.9 and isinstance(copy, dict):
            copy[rng.choice(("a" * 50_000, "../x", "\0", "__metadata__", "conv_in.weight"))] = copy.pop(key)
        else:
            del copy[key]
        return copy
    return rng.choice(HUGE)


def try_everything(folder: Path, changed: str) -> Iterator[str]:
    """Lists what lies in `folder`, and loads what the file `changed` belongs to; yields what became of it."""
    assert len(listing(Places((folder,), (folder,)))) >= 2
    checkpoint_tower(folder / CHECKPOINT)
    for entry in scan([folder]):
        problem = describe(entry.path).problem
        assert problem == entry.problem
        yield "listed" if problem is None else "refused"
        assert problem is None or len(problem) < 5000
        if problem is None and re.match(rf"{re.escape(entry.path.name)}($|/oms_module|/model_index)", changed):
            try:
                OMSUNet.from_pretrained(entry.path)
                yield "loaded"
            except ModuleFileError:
                yield "refused later"
    if changed.startswith(("mod/text_encoder", "mod/tokenizer")):
        try:
            load_text_encoder(folder / "mod", "openclip")
            yield "text loaded"
        except ModuleFileError:
            yield "text refused"


def fuzz(templates: dict[str, bytes], folder: Path, seeds: range) -> set[str]:
    lay_out(folder, templates)
    names = sorted(templates)
    assert {what for name in names for what in try_everything(folder, name)} == {"listed", "loaded", "text loaded"}
    seen = set()
    for seed in seeds:
        rng = random.Random(seed)
        name = rng.choice(names)
        (folder / name).write_bytes(mutated(templates[name], rng))
        started = time.process_time()
        seen.update(try_everything(folder, name))  # any error that is not ours ends the test
        assert time.process_time() - started < 10, f"seed {seed} hangs"
        (folder / name).write_bytes(templates[name])
    return seen


def test_mutated_files_end_in_our_own_error(templates, tmp_path):
    seen = fuzz(templates, tmp_path, range(150))
    assert seen >= {"listed", "refused", "loaded", "text loaded", "text refused"}


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 11_000, 2500))
def test_ten_thousand_mutated_files(templates, tmp_path, first):
    fuzz(templates, tmp_path, range(first, first + 2500))


def test_headers_alone_take_constant_memory(templates, tmp_path):
    """However large the tensors are that a header claims; they are holes in the file, so the sizes are true."""
    peaks = []
    for size in (2**20, 2**34):
        path = tmp_path / f"{size}.safetensors"
        header = json.dumps({"conv_in.weight": {"dtype": "F16", "shape": [size], "data_offsets": [0, 2 * size]}})
        with path.open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header.encode())
            file.truncate(8 + len(header) + 2 * size)
        tracemalloc.start()
        try:
            assert describe(path).problem
            with pytest.raises(ModuleFileError):
                OMSUNet.from_pretrained(path)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] < peaks[0] + 2**18
    assert peaks[1] < 2**22


@given(name=st.one_of(st.text(), st.binary().map(lambda raw: raw.decode("latin-1")), st.none(), st.integers()))
@example("\0")
@example("CON")
@example("nul.safetensors")
@example("../m")
@example("mod/../m")
@example("//host/share")
@example("x" * 10_000)
@settings(max_examples=100, deadline=None)
def test_names_of_downloads_are_only_looked_up(name):
    with pytest.raises(SettingError) as caught:
        catalogue.published(name)
    assert len(str(caught.value)) < 500
