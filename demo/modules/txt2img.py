"""The Generate button (host file: modules/txt2img.py)."""

import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from modules import images, processing, scripts
from modules.ui_common import plaintext_to_html
from PIL import Image


def txt2img(
    prompt: str, negative_prompt: str, sampler_name: str, scheduler: str, steps: float, n_iter: float,
    batch_size: float, cfg_scale: float, width: float, height: float, seed: float | None, subseed: float | None,
    subseed_strength: float, *script_args: Any,
) -> tuple:
    """Pictures for the gallery, the first infotext, and comments, from the page's values."""
    p = processing.StableDiffusionProcessingTxt2Img(
        prompt=prompt, negative_prompt=negative_prompt, sampler_name=sampler_name, scheduler=scheduler,
        steps=int(steps), n_iter=int(n_iter), batch_size=int(batch_size), cfg_scale=cfg_scale, width=int(width),
        height=int(height), seed=_seed(seed), subseed=_seed(subseed), subseed_strength=subseed_strength,
    )
    with closing(p):
        p.scripts = scripts.scripts_txt2img
        p.script_args = script_args
        processed = p.scripts.run(p, *script_args) or processing.process_images(p)
    files = [_file_of(image) for image in processed.images]
    comments = plaintext_to_html(processed.comments, classname="comments")
    return files, plaintext_to_html(processed.info), comments


def _seed(value: float | None) -> int:
    return -1 if value is None else int(value)


def _file_of(image: Image.Image) -> str:
    """The saved file, infotext and all, or one for the browser alone: gradio itself would drop the infotext."""
    saved = getattr(image, "already_saved_as", None)
    if saved:
        return saved
    folder = Path(tempfile.gettempdir()) / "gradio"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".png", delete=False) as file:
        file.write(images.png_bytes(image))
    return file.name
