"""Where the command line finds the WebUI's folders, which it has no host to ask for."""

from __future__ import annotations

import argparse
from pathlib import Path

from lib_oms.library import Places
from lib_oms.text import LENT


def webui_folder() -> Path | None:
    """The WebUI in whose `extensions` folder this extension lies; None where it lies elsewhere."""
    extension = Path(__file__).resolve().parents[2]
    return extension.parent.parent if extension.parent.name == "extensions" else None


def own_models() -> Path:
    """The extension's own models folder."""
    return Path(__file__).resolve().parents[2] / "models"


def module_folders() -> list[Path]:
    """Where OMS models are looked for if nobody says where: the WebUI's models/OMS, and the extension's own folder."""
    webui = webui_folder()
    return [*([webui / "models" / "OMS"] if webui else []), own_models()]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --models-dir and --checkpoints."""
    parser.add_argument(
        "--models-dir",
        type=Path,
        action="append",
        metavar="FOLDER",
        help="folder with OMS models, more than once for more; if not given: the WebUI's models/OMS and the "
        "extension's own models folder",
    )
    parser.add_argument(
        "--checkpoints",
        type=Path,
        action="append",
        metavar="FOLDER",
        help="folder with checkpoints, of which one of SD2.x can lend its text encoder; if not given: the WebUI's "
        "models/Stable-diffusion",
    )


def places(args: argparse.Namespace) -> Places:
    """The places that the arguments name, or the WebUI's."""
    webui = webui_folder()
    folders = args.models_dir or module_folders()
    checkpoints = args.checkpoints or ([webui / "models" / "Stable-diffusion"] if webui else [])
    bundled = webui / "backend/huggingface/stabilityai/stable-diffusion-2-1/tokenizer" if webui else None
    return Places(
        tuple(folders),
        tuple(checkpoints),
        (bundled,) if bundled and bundled.is_dir() else (),
        will_lend=LENT if webui else (),  # lib_oms/webui/host_text.py
    )
