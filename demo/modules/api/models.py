"""Bodies of API requests (host file: modules/api/models.py). What they do not know they ignore, as in the host."""

from typing import Any

from modules.processing import StableDiffusionProcessingTxt2Img
from pydantic import BaseModel, create_model

#: Fields of p that a request may set, with their types; every one may also be null.
_TYPES = {
    "prompt": str, "negative_prompt": str, "styles": list, "seed": int, "subseed": int, "subseed_strength": float,
    "seed_resize_from_h": int, "seed_resize_from_w": int, "sampler_name": str, "scheduler": str, "batch_size": int,
    "n_iter": int, "steps": int, "cfg_scale": float, "width": int, "height": int, "do_not_save_samples": bool,
    "do_not_save_grid": bool, "eta": float, "denoising_strength": float, "override_settings": dict,
    "override_settings_restore_afterwards": bool, "disable_extra_networks": bool, "enable_hr": bool,
    "hr_scale": float,
}
_defaults = StableDiffusionProcessingTxt2Img.__dataclass_fields__

StableDiffusionTxt2ImgProcessingAPI = create_model(
    "StableDiffusionProcessingTxt2Img",
    **{name: (kind | None, _defaults[name].default) for name, kind in _TYPES.items()},
    sampler_index=(str | None, "Euler"),
    script_name=(str | None, None),
    script_args=(list, []),
    send_images=(bool, True),
    save_images=(bool, False),
    alwayson_scripts=(dict[str, Any], {}),
    force_task_id=(str | None, None),
    infotext=(str | None, None),
)


class PNGInfoRequest(BaseModel):
    image: str


def dump(model: BaseModel, **kwargs: Any) -> dict[str, Any]:
    """A model as a dict, in either pydantic."""
    return model.model_dump(**kwargs) if hasattr(model, "model_dump") else model.dict(**kwargs)
