"""Checkpoints of a training: a folder `step-00001000` with tensors (safetensors) and everything else (JSON).

A checkpoint is written under a temporary name and renamed when it is whole, so that whatever stands under
`step-*` can be continued from, also after kill -9 or a power cut. Nothing is pickled.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lib_oms.errors import OMSError
from lib_oms.training.sharded import fill

STATE = "state.json"
TEMPORARY = ".writing-"


def save_checkpoint(
    folder: Path, step: int, tensors: dict[str, torch.Tensor], state: dict[str, Any], keep: int
) -> Path:
    """Writes the checkpoint of `step` into `folder` in one atomic move, then deletes all but the newest `keep`.

    Args:
        tensors: of any device and memory layout; they are stored contiguous, in one file for each first word of
            their names ("psi.conv_in.weight" in psi.safetensors).
        state: JSON values.

    Raises:
        OMSError: it cannot be written, for want of space for instance; the earlier checkpoints are untouched.
    """
    path = folder / f"step-{step:08d}"
    temporary = folder / f"{TEMPORARY}{path.name}"
    try:
        temporary.mkdir(parents=True, exist_ok=True)
        # One file a group (psi, ema, optimizer), for a file's tensors must all be in RAM to be written.
        for group in _groups(tensors):
            part = {name: tensor for name, tensor in tensors.items() if _group(name) == group}
            save_file(
                {name: tensor.detach().cpu().contiguous() for name, tensor in part.items()},
                temporary / f"{group}.safetensors",
            )
        (temporary / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
        for file in (*sorted(temporary.iterdir()), temporary):
            _flush_to_disk(file)
        temporary.rename(path)
        _flush_to_disk(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise OMSError(f"The checkpoint {path} could not be written ({error}); earlier ones are whole.") from error
    for old in list_checkpoints(folder)[:-keep]:
        with suppress(OMSError):  # tried again after the next one: Windows keeps files that a program looks into
            remove(old)
    remove_unfinished(folder)
    return path


def remove(checkpoint: Path) -> None:
    """Deletes a checkpoint. The file that makes it one goes first, so that a half deleted one is none.

    Raises:
        OMSError: it is one still. What else of it cannot be deleted now waits for `remove_unfinished`.
    """
    try:
        (checkpoint / STATE).unlink()
    except OSError as error:
        raise OMSError(f"The checkpoint {checkpoint} cannot be removed ({error}): delete this folder.") from error
    shutil.rmtree(checkpoint, ignore_errors=True)


def list_checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints in `folder`, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / STATE).is_file())


def load_state(checkpoint: Path) -> dict[str, Any]:
    """The JSON part of a checkpoint. Raises OMSError if it cannot be read."""
    try:
        return json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _broken(checkpoint, str(error)) from error


def load_tensors_into(checkpoint: Path, targets: dict[str, torch.Tensor]) -> None:
    """Copies the tensors of a checkpoint into `targets`, name by name.

    Copied, not assigned: results then do not depend on how a file's memory map happens to be aligned, which is what
    lets a continued run equal an uninterrupted one to the last bit.

    Raises:
        OMSError: the file is damaged, a tensor is missing or has another shape.
    """
    try:
        for group in _groups(targets):
            with safe_open(checkpoint / f"{group}.safetensors", framework="pt") as file, torch.no_grad():
                names = set(file.keys())
                for name, target in targets.items():
                    if _group(name) != group:
                        continue
                    if name not in names:
                        raise _broken(checkpoint, f"the tensor {name} is missing")
                    tensor = file.get_tensor(name)
                    if tensor.shape != target.shape:
                        raise _broken(checkpoint, f"{name} is {list(tensor.shape)}, expected {list(target.shape)}")
                    fill(target, tensor)
    except (OSError, SafetensorError) as error:
        raise _broken(checkpoint, str(error)) from error


def remove_unfinished(folder: Path) -> None:
    """Deletes what a killed process had begun to write, or to delete, as far as that can be deleted now."""
    whole = list_checkpoints(folder)
    for path in (*folder.glob(f"{TEMPORARY}*"), *folder.glob("step-*")):
        if path not in whole:
            shutil.rmtree(path, ignore_errors=True)


def _group(name: str) -> str:
    return name.split(".", 1)[0]


def _groups(names: Iterable[str]) -> list[str]:
    return sorted({_group(name) for name in names})


def _broken(checkpoint: Path, why: str) -> OMSError:
    return OMSError(
        f"The checkpoint {checkpoint} cannot be used ({why}): delete this folder to go on from the one before."
    )


def _flush_to_disk(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows has no handle on a folder to flush
        return
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
