"""The command line (host files: modules/cmd_args.py, shared_cmd_options.py)."""

import argparse
from pathlib import Path

from modules import paths_internal


def make_parser() -> argparse.ArgumentParser:
    """The demo's own arguments; extensions add theirs through preload.py."""
    parser = argparse.ArgumentParser(
        prog="python -m demo",
        description="A miniature Stable Diffusion WebUI around the embedded demo model. Serves on this machine only.",
    )
    repository = Path(paths_internal.repository_path)
    add = parser.add_argument
    add("--port", type=int, default=7860, help="port to serve on; the next free one if it is taken (default 7860)")
    add("--once", action="store_true", help="generate one pair of pictures, print their brightness, and end")
    add("--model", default=str(repository / "models" / "demo"), help="diffusers folder of the checkpoint")
    add("--data-dir", default="outputs", help="folder for pictures, config.json and params.txt (default ./outputs)")
    add("--ui-config-file", "--ui-config", default=None, help="defaults of the page (default DATA_DIR/ui-config.json)")
    add("--extension", action="append", default=None, metavar="FOLDER",
        help="extension to load, may be repeated (default: the repository that holds the demo)")
    add("--host-style", choices=["a1111", "forge"], default="a1111",
        help="forge: p.modified_noise exists, wins over the noise tensor, and is cleared after use")
    add("--api-only", action="store_true", help="serve the API without the page")
    add("--api-auth", default=None, metavar="USER:PASSWORD", help="who may use the API; several with commas between")
    add("--freeze-settings", action="store_true", help="refuse to change settings")
    add("--freeze-settings-in-sections", default=None, metavar="SECTIONS", help="those of these sections only")
    add("--freeze-specific-settings", default=None, metavar="NAMES", help="these only")
    add("--hide-ui-dir-config", action="store_true", help="neither show folders nor let them be changed")
    return parser


parser: argparse.ArgumentParser = make_parser()
cmd_opts: argparse.Namespace = parser.parse_args([])
"""filled in place, so that `from ... import cmd_opts` stays valid"""


def use(new_parser: argparse.ArgumentParser, argv: list[str]) -> None:
    """Parses `argv` and makes the result the host's `cmd_opts`."""
    global parser
    parser = new_parser
    parsed = parser.parse_args(argv)
    vars(cmd_opts).clear()
    vars(cmd_opts).update(vars(parsed))
