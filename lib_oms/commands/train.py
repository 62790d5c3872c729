"""`python -m lib_oms train`: trains an OMS model on pictures with captions."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from lib_oms.commands import places
from lib_oms.errors import SettingError
from lib_oms.library import scan
from lib_oms.training import TrainingSettings
from lib_oms.training.settings import value_type


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the `train` command: the fields of TrainingSettings."""
    for item in dataclasses.fields(TrainingSettings):
        flag, rules, kind = f"--{item.name.strip('_').replace('_', '-')}", item.metadata, value_type(item)
        if kind is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=item.default, help=rules["help"])
        else:
            parser.add_argument(
                flag,
                dest=item.name,
                type=kind,
                default=item.default,
                choices=rules.get("choices"),
                metavar=None if "choices" in rules else kind.__name__.upper(),
                required=item.name in ("output", "latents", "data"),
                help=rules["help"],
            )


def main(args: argparse.Namespace) -> int:
    """Trains, and returns 0."""
    from lib_oms.training.loop import train  # seconds of import, which `--help` does not need

    args.from_ = _path_of(args.from_) if args.from_ else ""
    train(TrainingSettings(**{item.name: getattr(args, item.name) for item in dataclasses.fields(TrainingSettings)}))
    return 0


def _path_of(model: str) -> str:
    """The path of an OMS model that is given as one, or by its name in the models folders."""
    if Path(model).exists():
        return model
    entries = scan(places.module_folders())
    found = next((entry for entry in entries if entry.name == model), None)
    if found is None:
        there = ", ".join(entry.name for entry in entries) or "none"
        raise SettingError(
            f"from {model}: there is no such file or folder, nor an OMS model of this name here ({there})."
        )
    return str(found.path)
