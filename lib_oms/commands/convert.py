"""`python -m lib_oms convert`: a published folder to one .safetensors file with full metadata, and back."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from lib_oms.errors import ModuleFileError, OMSError, SettingError
from lib_oms.files import written_whole
from lib_oms.library import UNKNOWN, ModuleEntry, describe
from lib_oms.library.entries import LATENTS_KEY, TEXT_ENCODER_KEY
from lib_oms.psi import OMSUNet
from lib_oms.psi.files import MODULE_FOLDER
from lib_oms.text import TEXT_ENCODERS

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the `convert` command."""
    parser.add_argument("source", type=Path, help="an OMS model's folder, or a .safetensors file")
    parser.add_argument("target", type=Path, help="a name that ends in .safetensors, or else a folder to make")
    parser.add_argument("--dtype", choices=DTYPES, default="fp16", help="what the weights are stored in")
    parser.add_argument(
        "--latents", default=None, help="sd or sdxl, where the source does not say which latents it is for"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a target that exists")


def main(args: argparse.Namespace) -> int:
    """Writes the file or folder, says where it lies, and returns 0."""
    print(f"Written: {convert(args.source, args.target, args.dtype, args.latents, overwrite=args.overwrite)}")
    return 0


def convert(
    source: Path, target: Path, dtype: str = "fp16", latents: str | None = None, *, overwrite: bool = False
) -> Path:
    """Writes the module in `source` as a file or a folder, whichever `target` is named as; returns its weights' path.

    A folder gets the published layout: its text encoder's folders only name where that comes from.

    Raises:
        OMSError: no module, latents that are neither told nor given, or a target that is there already; also where the
            weights do not fit into the dtype.
    """
    entry = describe(source)
    if entry.problem:
        raise ModuleFileError(entry.problem)
    latents = latents or entry.latents
    if latents == UNKNOWN:
        raise SettingError(
            f"{source}: does not say which latents it is for; give --latents sd (SD1.x, SD2.x) or --latents sdxl"
        )
    single = target.suffix.lower() == ".safetensors"
    try:
        _refuse_target(target, source, single, overwrite)
    except OSError as error:
        raise OMSError(f"{target}: cannot be written: {error.strerror or error}") from error
    psi = OMSUNet.from_pretrained(source, DTYPES[dtype])
    _refuse_overflow(psi, source, dtype)
    facts = {LATENTS_KEY: latents, TEXT_ENCODER_KEY: entry.text_encoder, "modelspec.title": entry.name}
    told = {**facts, **psi.metadata, LATENTS_KEY: latents}
    variant = "fp16" if dtype == "fp16" else None
    try:
        weights = psi.save_pretrained(target if single else target / MODULE_FOLDER, metadata=told, variant=variant)
        if not single:
            _name_the_rest(target, entry)
    except OSError as error:
        raise OMSError(f"{target}: cannot be written: {error.strerror or error}") from error
    return weights


def _refuse_target(target: Path, source: Path, single: bool, overwrite: bool) -> None:
    if target.is_file() and not single:
        raise SettingError(f"{target}: is a file; a folder is made, or a file whose name ends in .safetensors")
    if not overwrite and (target.exists() and (single or any(target.iterdir()))):
        raise SettingError(f"{target}: is there already; give another name or --overwrite")
    if target.resolve() == source.resolve():
        raise SettingError(f"{target}: is the source itself; give another name")


def _refuse_overflow(psi: OMSUNet, source: Path, dtype: str) -> None:
    for name, tensor in psi.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise ModuleFileError(
                f"{source}: tensor {name!r} has values that are not finite in {dtype}; try --dtype fp32, or get the "
                "file again"
            )


def _name_the_rest(target: Path, entry: ModuleEntry) -> None:
    """model_index.json, and where it is a published one, the text encoder's folders, which only name a repository."""
    index = {"_class_name": "OMSPipeline", "oms_module": ["diffusers_patch", "UNet2DConditionWoCTModel"]}
    _write(target / "model_index.json", index)
    source = TEXT_ENCODERS.get(entry.text_encoder)
    if source is None or source.width != entry.width:
        return
    for part in source.folders:
        folder = target / f"oms_{part}"
        folder.mkdir(exist_ok=True)
        if not (folder / "config.json").exists():
            _write(folder / "config.json", {"_name_or_path": source.repositories[0], "subfolder": part})


def _write(path: Path, content: dict) -> None:
    with written_whole(path) as part:
        part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
