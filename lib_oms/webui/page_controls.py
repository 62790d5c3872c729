"""The host's own controls of the txt2img page, by the ids that all hosts give them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gradio.context import Context
from modules import infotext_utils

LAST = "html_log_txt2img"
"""What hosts make after all controls of txt2img, scripts' included: the output panel (modules/ui_common.py)."""
VARIES = "subseed_show"
"""The box that has to be ticked for a variation, in hosts that have one (modules/processing_scripts/seed.py)."""
_IDS = {
    "prompt": "txt2img_prompt",
    "negative_prompt": "txt2img_neg_prompt",
    "styles": "txt2img_styles",
    "width": "txt2img_width",
    "height": "txt2img_height",
    "n_iter": "txt2img_batch_count",
    "batch_size": "txt2img_batch_size",
    "cfg_scale": "txt2img_cfg_scale",
    "distilled_cfg_scale": "txt2img_distilled_cfg_scale",
    "steps": "txt2img_steps",
    "sampler_name": "txt2img_sampling",
    "scheduler": "txt2img_scheduler",
    "seed": "txt2img_seed",
    VARIES: "txt2img_subseed_show",
    "subseed": "txt2img_subseed",
    "subseed_strength": "txt2img_subseed_strength",
    "override_settings": "txt2img_override_settings",
}
_WHOLE = ("width", "height", "n_iter", "batch_size", "steps")
_SEEDS = ("seed", "subseed")


def made_so_far() -> dict[str, Any]:
    """The components of the page that is being made, by their elem_id."""
    blocks = Context.root_block.blocks.values()
    return {block.elem_id: block for block in blocks if getattr(block, "elem_id", None)}


def of_host(components: Mapping[str, Any], names: Iterable[str] = tuple(_IDS)) -> dict[str, Any]:
    """Those of the host's controls that there are, by the names that its processing object has for their values."""
    return {name: components[_IDS[name]] for name in names if _IDS[name] in components}


def read(values: Mapping[str, Any]) -> dict[str, Any]:
    """What the controls hold, as the processing object takes it; empty ones are left out."""
    read = {name: value for name, value in values.items() if value is not None}
    for name in _SEEDS:
        if name in read:
            read[name] = _seed(read[name])
    read.update({name: int(read[name]) for name in _WHOLE if name in read})
    if "override_settings" in read:  # "Clip skip: 2", as an infotext that was read has put it there
        read["override_settings"] = infotext_utils.create_override_settings_dict(read["override_settings"])
    if not read.pop(VARIES, True):
        for name in ("subseed", "subseed_strength"):
            read.pop(name, None)
    return read


def _seed(value: Any) -> int:
    """Hosts take for random what is no number (modules/processing.py, get_fixed_seed)."""
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return -1
