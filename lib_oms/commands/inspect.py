"""`python -m lib_oms inspect FILE`: what a file is, why, and what it fits."""

from __future__ import annotations

import argparse
import math
from collections import Counter
from pathlib import Path

from lib_oms.commands import places
from lib_oms.errors import ModuleFileError
from lib_oms.files import LATENTS_NAMES, Header, read_header
from lib_oms.library import UNKNOWN, describe
from lib_oms.library.fingerprint import fingerprint
from lib_oms.library.listing import human_size, state
from lib_oms.library.text_sources import checkpoint_tower
from lib_oms.psi import ModuleFile, inspect_module
from lib_oms.text import KINDS, TEXT_ENCODERS, encoder_width, holds_encoder

_FITS = {
    "sd": "any checkpoint of SD1.x or SD2.x, and whatever is made of one",
    "sdxl": "any SDXL checkpoint, and whatever is made of one",
    UNKNOWN: "unknown: choose it by name for the model whose VAE it was trained for, or convert it with --latents",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the `inspect` command."""
    parser.add_argument("file", type=Path, help="an OMS model's folder, or any .safetensors file")
    places.add_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Prints the report, less what a terminal would obey, and returns 0."""
    for line in report(args.file, args):
        print("".join(char if char.isprintable() else "?" for char in line))
    return 0


def report(path: Path, args: argparse.Namespace) -> list[str]:
    """What is printed, line by line.

    Raises:
        ModuleFileError: nothing that could be told apart from a broken file.
    """
    try:
        module = inspect_module(path)
    except ModuleFileError as error:
        return _something_else(path, error)
    return _module(module, path, args)


def _module(module: ModuleFile, path: Path, args: argparse.Namespace) -> list[str]:
    entry = describe(path)
    numbers = sum(math.prod(info.shape) for info in module.header.tensors.values())
    how, where = state(entry, places.places(args))
    lines = [
        f"{path}: an OMS model",
        f"weights       {module.weights}, {human_size(entry.size)}, {len(module.header.tensors)} tensors, "
        f"{numbers / 1e6:.1f} M numbers, {_dtypes(module.header)}",
        f"fingerprint   {fingerprint(path)}",
        f"architecture  widths {list(module.config.block_out_channels)}, text of width {entry.width}; "
        f"told by {module.source}",
        f"latents       {LATENTS_NAMES.get(entry.latents, entry.latents)}; told by {entry.why[0]}",
        f"text encoder  {entry.text_encoder}; told by {entry.why[1]}",
        f"state         {how}" + (f"; text encoder from {where}" if how == "ready" else f": {where}"),
        f"fits          {_FITS.get(entry.latents, f'a model that declares the latents {entry.latents!r}')}",
    ]
    return [*lines, *(f"metadata      {key[:80]}: {text[:200]}" for key, text in sorted(module.metadata.items()))]


def _something_else(path: Path, error: ModuleFileError) -> list[str]:
    kinds = [kind for kind in KINDS if path.is_dir() and holds_encoder(path, kind)]
    if kinds:
        # A pair holds what a single one is told by, and the single ones differ in their width alone.
        fitting = (kind for kind in reversed(kinds) if encoder_width(path, kind) == TEXT_ENCODERS[kind].width)
        return [f"{path}: a text encoder, {next(fitting, kinds[0])}", "fits          OMS models that read it"]
    if not path.is_file():
        raise error
    header = read_header(path)  # a broken file's own error is better than that it is no module
    lines = [f"{path}: no OMS model", f"why           {error}", f"holds         {_dtypes(header)}"]
    tower = checkpoint_tower(path)
    if tower is not None:
        lines.append(
            f"fits          OMS models that read openclip text of width {tower.width}: it holds that text encoder "
            f"({tower.layers} of {tower.layers + 1} layers are run), as checkpoints of SD2.x do"
        )
    return lines


def _dtypes(header: Header) -> str:
    counts = Counter(info.dtype for info in header.tensors.values())
    return ", ".join(f"{count} of {dtype}" for dtype, count in counts.items())
