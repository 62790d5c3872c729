"""The parsed command line: one namespace, filled in place so that `from ... import cmd_opts` stays valid."""

import argparse

from modules import cmd_args

parser: argparse.ArgumentParser = cmd_args.make_parser()
cmd_opts: argparse.Namespace = parser.parse_args([])


def use(new_parser: argparse.ArgumentParser, argv: list[str]) -> None:
    """Parses `argv` and makes the result the host's `cmd_opts`."""
    global parser
    parser = new_parser
    parsed = parser.parse_args(argv)
    vars(cmd_opts).clear()
    vars(cmd_opts).update(vars(parsed))
