"""`python -m lib_oms train`: trains an OMS model on a folder of pictures with captions."""

from __future__ import annotations

import argparse
import dataclasses

from lib_oms.training import TrainingSettings
from lib_oms.training.settings import value_type


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the `train` command: the fields of TrainingSettings."""
    for item in dataclasses.fields(TrainingSettings):
        flag, rules, kind = f"--{item.name.replace('_', '-')}", item.metadata, value_type(item)
        if kind is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=item.default, help=rules["help"])
        else:
            parser.add_argument(
                flag,
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

    train(TrainingSettings(**{item.name: getattr(args, item.name) for item in dataclasses.fields(TrainingSettings)}))
    return 0
