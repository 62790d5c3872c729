"""The command line (host files: modules/cmd_args.py, shared_cmd_options.py, extensions.py)."""

import argparse
from pathlib import Path

from modules import paths, script_loading

cmd_opts = argparse.Namespace()
"""filled in place, so that `from ... import cmd_opts` stays valid"""


def make_parser(**more: bool) -> argparse.ArgumentParser:
    """The demo's own arguments; extensions add theirs through preload.py."""
    parser = argparse.ArgumentParser(
        prog="python -m demo",
        description="A miniature Stable Diffusion WebUI around the embedded demo model. Serves on this machine only.",
        **more,
    )
    add = parser.add_argument
    add("--port", type=int, default=7860, help="port to serve on; the next free one if it is taken (default 7860)")
    add("--once", action="store_true", help="generate one pair of pictures, print their brightness, and end")
    add("--model", default=f"{paths.models_path}/demo", help="diffusers folder of the checkpoint")
    add("--data-dir", default="outputs", help="folder for pictures, config.json and params.txt (default ./outputs)")
    add("--ui-config-file", "--ui-config", help="defaults of the page (default DATA_DIR/ui-config.json)")
    add("--extension", action="append", metavar="FOLDER",
        help="extension to load, may be repeated (default: the repository that holds the demo)")
    add("--host-style", choices=["a1111", "forge"], default="a1111",
        help="forge: p.modified_noise exists, wins over the noise tensor, and is cleared after use")
    add("--api-only", action="store_true", help="serve the API without the page")
    add("--api-auth", metavar="USER:PASSWORD", help="who may use the API; several with commas between")
    add("--freeze-settings", action="store_true", help="refuse to change settings")
    add("--freeze-settings-in-sections", metavar="SECTIONS", help="those of these sections only")
    add("--freeze-specific-settings", metavar="NAMES", help="these only")
    add("--hide-ui-dir-config", action="store_true", help="neither show folders nor let them be changed")
    return parser


def extension_folders(arguments: argparse.Namespace = cmd_opts) -> list[Path]:
    return [Path(folder).resolve() for folder in arguments.extension or [paths.repository_path]]


def use(argv: list[str]) -> None:
    """Lets extensions add their arguments, then parses `argv` for good, into the host's `cmd_opts`."""
    known, _ = make_parser(add_help=False).parse_known_args(argv)
    parser = make_parser()
    script_loading.preload_extensions(extension_folders(known), parser)
    vars(cmd_opts).clear()
    parser.parse_args(argv, cmd_opts)
    if getattr(cmd_opts, "oms_models_dir", "") is None and cmd_opts.model != parser.get_default("model"):
        cmd_opts.oms_models_dir = cmd_opts.model  # a model folder from elsewhere brings its own OMS module along
