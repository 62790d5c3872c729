"""The Generate button (host file: modules/txt2img.py)."""

import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from modules import images, infotext_utils, processing, scripts
from modules.ui_components import plaintext_to_html
from PIL import Image

_WHOLE = ("steps", "n_iter", "batch_size", "width", "height", "seed", "subseed")
"""what the page may send as 20.0, and a seed that is left empty as None"""


def txt2img(names: tuple[str, ...], *values: Any) -> tuple:
    """Pictures for the gallery, the first infotext, and comments.

    Args:
        names: fields of p.
        values: theirs, and then the scripts' arguments.
    """
    page, script_args = dict(zip(names, values, strict=False)), values[len(names) :]
    page |= {name: -1 if page[name] is None else int(page[name]) for name in _WHOLE}
    page["override_settings"] = infotext_utils.create_override_settings_dict(page["override_settings"] or [])
    p = processing.StableDiffusionProcessingTxt2Img(**page)
    with closing(p):
        p.scripts = scripts.scripts_txt2img
        p.script_args = script_args
        processed = p.scripts.run(p, *script_args) or processing.process_images(p)
    files = [_file_of(image) for image in processed.images]
    comments = plaintext_to_html(processed.comments, classname="comments")
    return files, plaintext_to_html(processed.info), comments


def _file_of(image: Image.Image) -> str:
    """The saved file, infotext and all, or one for the browser alone: gradio itself would drop the infotext."""
    if not hasattr(image, "already_saved_as"):
        folder = Path(tempfile.gettempdir()) / "gradio"
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".png", delete=False) as file:
            file.write(images.encode_pil_to_bytes(image))
        image.already_saved_as = file.name
    return image.already_saved_as
