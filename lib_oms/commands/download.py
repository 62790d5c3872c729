"""`python -m lib_oms download NAME`: a published module with its text encoder, or a text encoder alone."""

from __future__ import annotations

import argparse
import sys

from lib_oms.commands import places
from lib_oms.errors import SettingError
from lib_oms.library.download import NAMES, Progress, download


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the `download` command."""
    parser.add_argument("name", help=f"one of {', '.join(NAMES)}")
    places.add_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Downloads what is not there, says what is new, and returns 0."""
    from tqdm import tqdm

    where = places.places(args)
    root = where.folders[0]
    if args.name not in NAMES and "/" not in args.name:
        raise SettingError(f"nothing named {args.name[:100]!r} is published; there are {', '.join(NAMES)}")
    with tqdm(unit="B", unit_scale=True, file=sys.stderr, desc=args.name, mininterval=0.5) as bar:

        def show(progress: Progress) -> None:
            bar.total = progress.total
            bar.update(progress.done - bar.n)

        new = download(args.name, root, where, progress=show)
    for path in new:
        print(f"Downloaded: {path}")
    if not new:
        print(f"Nothing to do: {args.name} and its text encoder are there already.")
    return 0
