"""The short name of a module's content."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from lib_oms.errors import ModuleFileError
from lib_oms.fingerprint import fingerprint
from lib_oms.unet import OMSUNet, OMSUNetConfig

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
