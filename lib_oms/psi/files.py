"""OMS models as files: where the weights and the config lie, and writing them whole or not at all.

Known are the published folder (config.json beside diffusion_pytorch_model[.fp16].safetensors, with or without the
oms_module/ level) and one .safetensors file, whose metadata may hold the config. Only headers are read here.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lib_oms.errors import ModuleFileError, OMSError
from lib_oms.files import FLOATS, Header, TensorInfo, json_object, read_header, read_json
from lib_oms.psi.config import OMSUNetConfig
from lib_oms.psi.tensors import expected_tensors

CONFIG_NAME = "config.json"
CONFIG_KEY = "config"  # of a single file's metadata
MODULE_FOLDER = "oms_module"
WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
FP16_WEIGHTS_NAME = "diffusion_pytorch_model.fp16.safetensors"
_PARTS = ("conv_in.", "down_blocks.", "mid_block.", "up_blocks.", "conv_norm_out.", "conv_out.")


@dataclass(frozen=True)
class ModuleFile:
    """One whole OMS model on disk, as far as its headers tell.

    config is the architecture; raw_config is what it was read from (empty where the file had none); source says where
    that was, for messages; metadata is the file's own without format and config.
    """

    path: Path
    weights: Path
    header: Header
    config: OMSUNetConfig
    raw_config: Mapping[str, Any]
    source: str
    metadata: dict[str, str]


def inspect_module(path: str | os.PathLike[str], *, prefer_fp16: bool = False) -> ModuleFile:
    """Find a module folder or file, read its headers, and check that it holds every tensor its config asks for.

    Raises:
        ModuleFileError: nothing there, or not a whole OMS model; names the file and, where one is at fault, the
            first offending tensor and what was expected.
    """
    path = Path(path)
    try:
        folder, weights = _locate(path, prefer_fp16)
    except OSError as error:
        raise ModuleFileError(f"{str(path)[:300]}: cannot be read: {error.strerror or error}") from error
    header = read_header(weights)
    _refuse_foreign(weights, header)
    raw, source = _find_config(folder, weights, header)
    try:
        if raw is None:
            config, raw, source = _recognize(weights, header), {}, "the published architecture of these widths"
        else:
            config = OMSUNetConfig.from_dict(raw)
    except ModuleFileError:
        raise
    except OMSError as error:
        raise ModuleFileError(f"{source or weights}: {str(error)[:1000]}") from error
    metadata = {key: value for key, value in header.metadata.items() if key not in ("format", CONFIG_KEY)}
    module = ModuleFile(path, weights, header, config, raw, source, metadata)
    _check_tensors(module)
    return module


def weights_of(path: str | os.PathLike[str]) -> Path:
    """The weights file of a module's folder or file; it is not looked into.

    Raises ModuleFileError where there is none, OSError where that cannot be told.
    """
    return _locate(Path(path), prefer_fp16=False)[1]


def _locate(path: Path, prefer_fp16: bool) -> tuple[Path | None, Path]:
    if path.is_dir():
        folder = path / MODULE_FOLDER if (path / MODULE_FOLDER).is_dir() else path
        names = (FP16_WEIGHTS_NAME, WEIGHTS_NAME) if prefer_fp16 else (WEIGHTS_NAME, FP16_WEIGHTS_NAME)
        for name in names:
            if (folder / name).is_file():
                return folder, folder / name
        raise ModuleFileError(
            f"{folder}: holds no OMS model; expected {CONFIG_NAME} and {WEIGHTS_NAME} or {FP16_WEIGHTS_NAME}"
            + (f", here or in {MODULE_FOLDER}/" if folder == path else "")
        )
    if not path.exists():
        raise ModuleFileError(f"{path}: there is no such file or folder")
    return None, path


def _refuse_foreign(weights: Path, header: Header) -> None:
    for name, info in header.tensors.items():
        if not name.startswith(_PARTS) or ".time_emb_proj." in name:
            raise ModuleFileError(
                f"{weights}: is {_guess(header)}, not an OMS model: it holds tensor {name[:160]!r} of shape "
                f"{list(info.shape)}; expected only {', '.join(part + '*' for part in _PARTS)} without time embedding"
            )


def _guess(header: Header) -> str:
    names = header.tensors
    if any(name.startswith("conditioner.") for name in names):
        return "a whole SDXL checkpoint"
    if any(name.startswith(("model.diffusion_model.", "cond_stage_model.", "first_stage_model.")) for name in names):
        return "a whole Stable Diffusion checkpoint"
    if any("lora" in name.lower() for name in names):
        return "a LoRA"
    if any(name.startswith("add_embedding.") for name in names):
        return "the UNet of an SDXL model"
    if any(name.startswith("time_embedding.") or ".time_emb_proj." in name for name in names):
        return "the UNet of a diffusion model"
    return "something else"


def _find_config(folder: Path | None, weights: Path, header: Header) -> tuple[dict[str, Any] | None, str]:
    if folder is not None and (folder / CONFIG_NAME).is_file():
        return read_json(folder / CONFIG_NAME), str(folder / CONFIG_NAME)
    if CONFIG_KEY in header.metadata:
        source = f"{weights}, metadata {CONFIG_KEY!r}"
        return json_object(header.metadata[CONFIG_KEY], source), source
    # Other writers put the same JSON under keys of their own.
    for key, text in header.metadata.items():
        if "block_out_channels" in text and text.lstrip()[:1] == "{":
            source = f"{weights}, metadata {key[:80]!r}"
            return json_object(text, source), source
    return None, ""


def _check_tensors(module: ModuleFile) -> None:
    tensors = module.header.tensors
    expected = expected_tensors(module.config)
    asked = f"as {module.source} asks for {len(expected)} tensors and the file holds {len(tensors)}"
    for name, shape in expected.items():
        info = tensors.get(name)
        if info is None:
            raise ModuleFileError(f"{module.weights}: tensor {name!r} is missing; expected {list(shape)}, {asked}")
        if info.shape != shape:
            raise ModuleFileError(
                f"{module.weights}: tensor {name!r} has shape {list(info.shape)}, expected {list(shape)} "
                f"by {module.source}"
            )
        if info.dtype not in FLOATS:
            raise ModuleFileError(
                f"{module.weights}: tensor {name!r} has dtype {info.dtype}, expected one of {', '.join(sorted(FLOATS))}"
            )
    for name, info in tensors.items():
        if name not in expected:
            raise ModuleFileError(
                f"{module.weights}: tensor {name[:160]!r} of shape {list(info.shape)} is one too many: expected none "
                f"of this name, {asked}"
            )


def _recognize(weights: Path, header: Header) -> OMSUNetConfig:
    """The config of a file that has none, if its widths are those of a published architecture."""
    published = {config.block_out_channels: config for config in (OMSUNetConfig.base(), OMSUNetConfig.large())}
    wide = (rf"down_blocks\.{block}\.resnets\.\d+\.(conv1|conv2|norm2)\.bias" for block in range(4))
    widths = tuple(width for names in wide if (width := _most_common(header.tensors, names, 0)) is not None)
    config = published.get(widths)
    text_dim = _most_common(header.tensors, r".*\.attn2\.to_[kv]\.weight", 1)
    if config is None or not text_dim:
        first = next(iter(header.tensors), "")
        raise ModuleFileError(
            f"{weights}: its head counts cannot be told from its tensors (the first is {first[:160]!r}): without a "
            f"config only the widths {' and '.join(str(list(known)) for known in published)} are known, those of the "
            f"published OMS models, and these are {list(widths)}. Add metadata {CONFIG_KEY!r} holding the OMS model's "
            "config.json as text, with at least block_out_channels, attention_head_dim (the number of heads), "
            f"cross_attention_dim and norm_num_groups, or put {CONFIG_NAME} and {WEIGHTS_NAME} in a folder"
        )
    return replace(config, cross_attention_dim=text_dim)


def _most_common(tensors: Mapping[str, TensorInfo], pattern: str, axis: int) -> int | None:
    # By vote, so that one misshapen tensor is found to be at fault instead of being believed.
    matcher = re.compile(pattern)
    sizes = Counter(
        info.shape[axis] for name, info in tensors.items() if len(info.shape) > axis and matcher.fullmatch(name)
    )
    return sizes.most_common(1)[0][0] if sizes else None
