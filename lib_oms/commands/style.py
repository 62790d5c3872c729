"""`python -m lib_oms style FOLDER`: makes a style of a folder of pictures, see lib_oms/given/style.py."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from lib_oms.commands.checkpoint_vae import vae_of_checkpoint
from lib_oms.commands.places import own_models, webui_folder
from lib_oms.embedded import MODEL_DIR
from lib_oms.errors import OMSError
from lib_oms.given import style_of
from lib_oms.given.latents import SIDE, VAELatents
from lib_oms.given.style import STYLES_FOLDER


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the `style` command."""
    parser.add_argument("folder", type=Path, help="pictures, in sub-folders too")
    parser.add_argument(
        "--out", type=Path, default=argparse.SUPPRESS,
        help="the .safetensors file to write (default: the folder's name, among the WebUI's OMS models in styles)",
    )  # fmt: skip
    parser.add_argument(
        "--vae", type=Path, default=MODEL_DIR / "vae",
        help="the checkpoint (.safetensors) whose VAE it is, or a folder in diffusers layout; as it comes, the demo's",
    )  # fmt: skip


def main(args: argparse.Namespace) -> int:
    """Makes the style, writes it, and says where it is."""
    from lib_oms.training.data import load_vae, scaled_latents

    own = args.vae / "vae"
    vae = vae_of_checkpoint(args.vae) if args.vae.is_file() else load_vae(own if own.is_dir() else args.vae)

    @torch.no_grad()
    def encode(picture: Tensor) -> Tensor:
        return scaled_latents(vae, picture * 2 - 1)

    style = style_of((encode(picture)[0] for picture in _pictures(args.folder)), VAELatents().directions(encode))
    webui = webui_folder()
    models = webui / "models" / "OMS" if webui else own_models()
    out = getattr(args, "out", models / STYLES_FOLDER / f"{args.folder.resolve().name}.safetensors")
    if out.suffix.lower() != ".safetensors":
        raise OMSError(f"--out is {out}; a style is a .safetensors file")
    style.save(out)
    print(out)
    return 0


def _pictures(folder: Path) -> Iterator[Tensor]:
    """Each picture [1, 3, SIDE, SIDE], 0 to 1, cut to a square around its center."""
    from lib_oms.training.dataset import load_picture

    known = Image.registered_extensions()
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in known and path.is_file()]
    paths = [path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    if not paths:
        raise OMSError(f"{folder} holds no pictures")
    for path in tqdm(paths, desc="pictures", unit="picture"):
        yield load_picture(path, SIDE)[None] / 2 + 0.5
