"""The command line: `python -m lib_oms COMMAND ...`.

A command is a module that offers `add_arguments(parser)` and `main(args) -> int`. It is imported only when it is
asked for, so that `--help` answers at once and a command that needs less imports less.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from lib_oms import __version__
from lib_oms.errors import OMSError

# command: (module that implements it, what it does in a line)
COMMANDS = {
    "train": ("lib_oms.commands.train", "train an OMS model on pictures with captions"),
    "evaluate": ("lib_oms.commands.evaluate", "measure what an OMS model does to the brightness of pictures"),
    "models": ("lib_oms.commands.models", "list the OMS models that are here, and those that can be downloaded"),
    "download": ("lib_oms.commands.download", "download a published OMS model and its text encoder"),
    "style": ("lib_oms.commands.style", "make a style of a folder of pictures, for the source style"),
    "inspect": ("lib_oms.commands.inspect", "say what a file is, why, and what it fits"),
    "convert": ("lib_oms.commands.convert", "turn an OMS model's folder into one .safetensors file, or back"),
}

EXIT_OMS_ERROR = 2  # the same as argparse's own, for a wrong argument and for a wrong file are both the caller's
EXIT_INTERRUPTED = 130  # what shells report for a program that Ctrl-C ended


def build_parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """The parser with every command's name, but the arguments of only the one that `argv` asks for."""
    parser = argparse.ArgumentParser(prog="python -m lib_oms", description="One More Step (arXiv 2311.15744).")
    parser.add_argument("--version", action="version", version=f"One More Step {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    asked = next((word for word in argv if not word.startswith("-")), None)
    for name, (module, summary) in COMMANDS.items():
        command = commands.add_parser(
            name, help=summary, description=summary, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        if name == asked:
            importlib.import_module(module).add_arguments(command)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code: 0, what the command returns, 2 for an error in plain words, 130.

    Args:
        argv: the words after the program's name; None takes them from the process.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files hold what a pipe on Windows cannot take
    try:
        args = build_parser(argv).parse_args(argv)
        return importlib.import_module(COMMANDS[args.command][0]).main(args)
    except OMSError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_OMS_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
