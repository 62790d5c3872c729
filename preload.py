"""Command line arguments of the extension; the WebUI calls this before it parses them."""

import argparse


def preload(parser: argparse.ArgumentParser) -> None:
    """Adds --oms-models-dir."""
    parser.add_argument(
        "--oms-models-dir",
        type=str,
        default=None,
        help="one more folder with OMS models, besides models/OMS and the extension's own models folder",
    )
