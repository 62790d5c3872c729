"""The short name of a module's content."""

import json
import os
import shutil
import threading
from pathlib import Path

import pytest
import torch

from lib_oms.errors import ModuleFileError
from lib_oms.library import fingerprint as fingerprints
from lib_oms.library.fingerprint import Remembered, fingerprint
from lib_oms.psi import OMSUNet, OMSUNetConfig

CONFIG = OMSUNetConfig.tiny(cross_attention_dim=16)


def _save(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    OMSUNet(CONFIG).save_pretrained(folder)
    return folder


def test_follows_the_content_and_not_the_name(tmp_path: Path) -> None:
    first = _save(tmp_path / "first", seed=1)
    shutil.copytree(first, tmp_path / "copy")
    other = _save(tmp_path / "other", seed=2)
    assert fingerprint(first) == fingerprint(tmp_path / "copy")
    assert len(fingerprint(first)) == 10
    assert fingerprint(first) != fingerprint(other)


def test_notices_that_the_file_was_replaced(tmp_path: Path) -> None:
    folder = _save(tmp_path / "module", seed=1)
    before = fingerprint(folder)
    weights = next(folder.rglob("*.safetensors"))
    status = weights.stat()
    _save(folder, seed=2)
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert fingerprint(folder) != before


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ModuleFileError, match="no such file or folder"):
        fingerprint(tmp_path / "gone")


# Finding a module by its fingerprint


@pytest.fixture
def modules(tmp_path: Path) -> list[Path]:
    return [_save(tmp_path / "models" / str(seed), seed) for seed in range(3)]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Which modules' content was looked at."""
    seen: list[Path] = []
    monkeypatch.setattr(fingerprints, "fingerprint", lambda path: seen.append(Path(path)) or fingerprint(path))
    return seen


def test_what_was_looked_at_once_is_known_to_the_next_process(tmp_path: Path, modules: list[Path], read: list) -> None:
    file = tmp_path / "cache" / "fingerprints.json"
    assert Remembered(file).find("0123456789", modules) is None
    assert read == modules
    read.clear()
    assert Remembered(file).find("0123456789", modules) is None
    assert read == []
    assert Remembered(file).find(fingerprint(modules[1]), modules) == modules[1]
    assert read == modules[1:2], "what is said to be it is looked at: a cache proves nothing"


def test_what_changed_is_looked_at_again(tmp_path: Path, modules: list[Path], read: list) -> None:
    file = tmp_path / "fingerprints.json"
    Remembered(file).find("0123456789", modules)
    weights = next(modules[2].glob("*.safetensors"))
    status = weights.stat()
    _save(modules[2], seed=7)
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    read.clear()
    assert Remembered(file).find(fingerprint(modules[2]), modules) == modules[2]
    assert set(read) == {modules[2]}


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"x": 1}', b"\xff\xfe", b"[" * 100_000, '{"PATH": [1, 2, "0123456789"]}', None]
)
def test_a_broken_cache_is_none(tmp_path: Path, modules: list[Path], content: bytes | str | None) -> None:
    file = tmp_path / "fingerprints.json"
    if content is None:
        file.mkdir()
    elif isinstance(content, str):
        file.write_text(content.replace("PATH", str(next(modules[0].glob("*.safetensors"))).replace("\\", "/")))
    else:
        file.write_bytes(content)
    assert Remembered(file).find(fingerprint(modules[1]), modules) == modules[1]
    assert Remembered(file).find("0123456789", modules) is None


def test_a_cache_that_lies_finds_nothing_else(tmp_path: Path, modules: list[Path]) -> None:
    file = tmp_path / "fingerprints.json"
    Remembered(file).find("0123456789", modules)
    told = json.loads(file.read_text())
    file.write_text(json.dumps({path: [*facts[:2], "0123456789"] for path, facts in told.items()}))
    assert Remembered(file).find("0123456789", modules) is None


def test_many_write_at_once(tmp_path: Path, modules: list[Path]) -> None:
    file = tmp_path / "fingerprints.json"
    threads = [threading.Thread(target=Remembered(file).find, args=("0123456789", [modules[i % 3]])) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert json.loads(file.read_text())
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".part"] == []


def test_a_module_that_is_gone_or_broken_is_passed_over(tmp_path: Path, modules: list[Path]) -> None:
    next(modules[0].glob("*.safetensors")).write_bytes(b"broken")
    asked = [tmp_path / "gone", *modules]
    assert Remembered(tmp_path / "f.json").find(fingerprint(modules[1]), asked) == modules[1]
