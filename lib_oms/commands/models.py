"""`python -m lib_oms models`: what lies in the models folders, and what could."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from lib_oms.commands import places
from lib_oms.files import LATENTS_NAMES
from lib_oms.library.listing import READY, Listed, human_size, listing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the `models` command."""
    places.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print a list of objects instead of a table")


def main(args: argparse.Namespace) -> int:
    """Prints the table or the JSON, and returns 0."""
    for folder in args.models_dir or ():
        if not folder.is_dir():
            print(f"note: there is no folder {_plain(str(folder))}", file=sys.stderr)
    lines = listing(places.places(args))
    if args.json:
        print(json.dumps([asdict(line) for line in lines], indent=2))
        return 0
    head = ("name", "latents", "text encoder", "size", "state")
    rows = [
        (_plain(line.name), LATENTS_NAMES.get(line.latents, line.latents), line.text_encoder, human_size(line.size),
         line.state if line.state == READY else f"{line.state}: {_plain(line.why)}{_terms(line)}")
        for line in lines
    ]  # fmt: skip
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(4)]
    for row in (head, *rows):
        print("  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[4]]))
    return 0


def _terms(line: Listed) -> str:
    """What a download brings along and what it is under, in brackets; nothing for what is here."""
    encoder = f"{human_size(line.text_encoder_size)} of it are its text encoder; " if line.text_encoder_size else ""
    return f" ({encoder}license: {line.license})" if line.license else ""


def _plain(text: str) -> str:
    """On one line, and nothing that a terminal would obey: names of files can hold anything."""
    return "".join(char if char.isprintable() else "?" for char in text)
