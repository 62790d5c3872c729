"""The modules that are kept in memory: loaded once, two of them, with one text encoder between them."""

import io
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from module_helpers import tiny_encoder, tiny_psi, write_module
from safetensors.torch import load_file, save_file
from text_helpers import VIT_H

from lib_oms.errors import ModuleFileError
from lib_oms.library import ModuleEntry, Places, TextSource, describe, find_source, scan
from lib_oms.library.fingerprint import fingerprint
from lib_oms.module import OMSModule
from lib_oms.module_cache import ModuleCache
from lib_oms.text import TextEncoder


@pytest.fixture
def cache(tmp_path: Path) -> ModuleCache:
    """A cache that looks for text encoders in `tmp_path` alone."""
    return ModuleCache(lambda entry: find_source(entry, Places((tmp_path,))))


def entries(folder: Path) -> dict[str, ModuleEntry]:
    return {entry.name: entry for entry in scan([folder])}


def get(cache, entry: ModuleEntry) -> OMSModule:
    with cache.use(entry, fingerprint(entry.path), torch.float32) as module:
        return module


def test_a_name_that_the_console_cannot_show(tmp_path, monkeypatch):
    """WebUIs write their output into files, too; on Windows those know no Chinese."""
    console = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", console)
    entry = describe(write_module(tmp_path / "暗"))
    with ModuleCache().use(entry, "1", torch.float32) as module:
        assert module.latents == "sd"
    console.flush()
    assert console.buffer.getvalue().splitlines() == [rb"Loading OMS model \u6697"]


def test_two_requests_at_once_load_once(cache, tmp_path, monkeypatch):
    write_module(tmp_path / "a")
    entry = entries(tmp_path)["a"]
    loads, barrier, got = [], threading.Barrier(4), []
    real = OMSModule.from_pretrained
    monkeypatch.setattr(OMSModule, "from_pretrained", lambda *a, **k: loads.append(1) or real(*a, **k))

    def ask() -> None:
        barrier.wait()
        got.append(get(cache, entry))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loads) == 1
    assert len({id(module) for module in got}) == 1


def test_two_are_kept_and_the_one_unused_longest_goes(cache, tmp_path):
    for name in "abc":
        write_module(tmp_path / name)
    a, b, c = (entries(tmp_path)[name] for name in "abc")
    first, second = get(cache, a), get(cache, b)
    assert get(cache, a) is first
    assert get(cache, b) is second
    get(cache, a)
    get(cache, c)
    assert get(cache, a) is first
    assert get(cache, b) is not second


def test_one_text_encoder_for_both(cache, tmp_path):
    shared = tmp_path / "text_encoders" / "openclip"
    write_module(tmp_path / "a")
    shared.mkdir(parents=True)
    for part in ("text_encoder", "tokenizer"):
        (tmp_path / "a" / part).rename(shared / part)
    tiny_psi(24, 5, {"oms.text_encoder": "openclip", "oms.latents": "sd"}).save_pretrained(tmp_path / "b.safetensors")
    found = entries(tmp_path)
    assert get(cache, found["a"]).text_encoder is get(cache, found["b"]).text_encoder


def test_another_text_encoder_than_before_is_read_and_the_same_one_is_not(tmp_path):
    """A module without one of its own reads that of the checkpoint that is loaded, which may be another one now."""
    psi = tiny_psi(VIT_H["hidden_size"], metadata={"oms.text_encoder": "openclip", "oms.latents": "sd"})
    psi.save_pretrained(tmp_path / "a.safetensors")
    entry, loads, now = entries(tmp_path)["a"], [], ["one"]

    def load(dtype: torch.dtype) -> TextEncoder:
        loads.append(now[-1])
        return tiny_encoder(tmp_path / str(len(loads)))

    cache = ModuleCache(lambda entry: TextSource("openclip", now[-1], load))
    first = get(cache, entry)
    assert get(cache, entry) is first
    now.append("two")
    second = get(cache, entry)
    assert get(cache, entry) is second
    assert second.text_encoder is not first.text_encoder
    now.append("one")
    get(cache, entry)
    assert loads == ["one", "two", "one"]


def test_a_file_that_changed_is_read_again_and_replaces_itself(cache, tmp_path):
    write_module(tmp_path / "a")
    write_module(tmp_path / "b")
    found = entries(tmp_path)
    kept, before = get(cache, found["b"]), get(cache, found["a"])
    weights = next((tmp_path / "a" / "oms_module").glob("*.safetensors"))
    tensors = {name: 2 * tensor for name, tensor in load_file(weights).items()}
    save_file(tensors, weights, {"oms.text_encoder": "openclip"})
    after = get(cache, entries(tmp_path)["a"])
    assert torch.equal(after.psi.conv_in.weight, 2 * before.psi.conv_in.weight)
    assert get(cache, found["b"]) is kept


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-9])


def _other_shape(file: Path) -> None:
    """One of the last tensors to be read is of another shape than its config asks for."""
    tensors = load_file(file)
    name = max(name for name in tensors if name.endswith(".bias"))
    save_file({**tensors, name: torch.zeros(7)}, file, {"oms.text_encoder": "openclip"})


@pytest.mark.parametrize("spoil", [_cut, _other_shape])
@pytest.mark.parametrize("part", ["oms_module", "text_encoder"])
def test_what_cannot_be_loaded_costs_the_others_nothing(cache, tmp_path, part, spoil):
    for name in "abc":
        write_module(tmp_path / name)
    found = entries(tmp_path)
    kept = get(cache, found["a"]), get(cache, found["b"])
    (weights,) = (tmp_path / "c" / part).glob("*.safetensors")
    spoil(weights)
    with pytest.raises(ModuleFileError), cache.use(found["c"], "fingerprint", torch.float32):
        pass
    assert (get(cache, found["a"]), get(cache, found["b"])) == kept


class LetGo(list):
    """What a cache let go, in the order in which it did."""

    def __call__(self, *networks) -> None:
        self.extend(networks)


@contextmanager
def used(cache, entry: ModuleEntry) -> Iterator[OMSModule]:
    with cache.use(entry, fingerprint(entry.path), torch.float32) as module:
        yield module


def test_nothing_is_let_go_while_somebody_uses_it(tmp_path):
    for name in "abcd":
        write_module(tmp_path / name)
    found, gone = entries(tmp_path), LetGo()
    cache = ModuleCache(lambda entry: find_source(entry, Places((tmp_path,))), gone)
    with used(cache, found["a"]) as first, used(cache, found["a"]) as again:
        assert again is first
        cache.clear()
        assert gone == []
        other = threading.Thread(target=lambda: [get(cache, found[name]) for name in "bcd"])
        other.start()
        other.join()
        assert first.psi not in gone
        assert first.text_encoder not in gone
        with used(cache, found["a"]) as anew:
            assert anew is not first
    assert first.psi in gone
    assert anew.psi not in gone
    assert anew.text_encoder not in gone


def test_shared_text_encoder_goes_with_the_last_that_reads_it(tmp_path):
    encoder = tiny_encoder(tmp_path / "encoder")
    loads, gone = [], LetGo()
    for i, name in enumerate("ab"):
        psi = tiny_psi(encoder.width, i, {"oms.text_encoder": "openclip", "oms.latents": "sd"})
        psi.save_pretrained(tmp_path / f"{name}.safetensors")
    write_module(tmp_path / "c")
    found = entries(tmp_path)

    def source(entry: ModuleEntry) -> TextSource:
        if entry.name == "c":
            return find_source(entry, Places())
        return TextSource("openclip", "shared", lambda dtype: loads.append(1) or encoder)

    cache = ModuleCache(source, gone)
    a, b = get(cache, found["a"]), get(cache, found["b"])
    assert a.text_encoder is b.text_encoder is encoder
    c = get(cache, found["c"])
    assert gone == [a.psi]
    get(cache, found["a"])
    assert gone == [a.psi, b.psi]
    assert loads == [1]
    cache.clear()
    assert set(gone) >= {c.psi, c.text_encoder, encoder}


def test_stopped_between_its_parts_it_goes_on_from_there(tmp_path):
    """Whoever interrupts after the text encoder was read does not wait for psi, nor for the text encoder again."""
    write_module(tmp_path / "a")
    (entry,), told = scan([tmp_path]), []

    def before(what: str) -> None:
        told.append(what)
        if len(told) == 2:
            raise InterruptedError

    cache = ModuleCache()
    with pytest.raises(InterruptedError), cache.use(entry, "x", torch.float32, before=before):
        pass
    with cache.use(entry, "x", torch.float32, before=before):
        pass
    assert told == ["Loading the text encoder of OMS model a", *["Loading OMS model a"] * 2]


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_other_storage_is_brought_to_what_the_host_computes_in(tmp_path, stored):
    write_module(tmp_path / "a")
    weights = next((tmp_path / "a" / "oms_module").glob("*.safetensors"))
    tensors = {name: tensor.to(stored) for name, tensor in load_file(weights).items()}
    try:
        save_file(tensors, weights, {"oms.text_encoder": "openclip"})
    except (KeyError, ValueError, RuntimeError):
        pytest.skip("this version of safetensors writes no fp8")
    for dtype in (torch.float32, torch.float16):
        psi = OMSModule.from_pretrained(tmp_path / "a", dtype=dtype).psi
        assert psi.dtype == dtype
        for name, tensor in psi.state_dict().items():
            assert torch.equal(tensor, tensors[name].to(dtype)), name
