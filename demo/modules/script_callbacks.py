"""Callbacks outside of a script's hooks (host file: modules/script_callbacks.py). Exceptions in them are swallowed."""

import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from modules import errors


@dataclass
class ScriptCallback:
    script: str
    callback: Callable


@dataclass
class ImageSaveParams:
    image: Any
    p: Any
    filename: str
    pnginfo: dict


@dataclass
class CFGDenoiserParams:
    """What goes into the UNet at one step. `sigma` is the noise level, or the timestep in timestep samplers."""

    x: torch.Tensor
    image_cond: Any
    sigma: torch.Tensor
    sampling_step: int
    total_sampling_steps: int
    text_cond: torch.Tensor
    text_uncond: torch.Tensor
    denoiser: Any = None


@dataclass
class CFGDenoisedParams:
    x: torch.Tensor
    sampling_step: int
    total_sampling_steps: int
    inner_model: Any = None


callback_map: dict[str, list[ScriptCallback]] = defaultdict(list)


def clear_callbacks() -> None:
    callback_map.clear()


def _caller() -> str:
    """The file that registers a callback: the first frame outside this one."""
    frame = sys._getframe()  # inspect.stack reads the source of every frame: a second of the start
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return frame.f_code.co_filename if frame else "unknown file"


def call(category: str, *args: Any, **kwargs: Any) -> list:
    """What all callbacks of a category answer; an exception in one is printed and swallowed."""
    results = []
    for c in list(callback_map[category]):
        try:
            results.append(c.callback(*args, **kwargs))
        except Exception:
            errors.report(f"Error executing callback {category} for {c.script}", exc_info=True)
    return results


def remove_current_script_callbacks() -> None:
    """Forgets every callback that the calling file has registered."""
    script = _caller()
    for callbacks in callback_map.values():
        callbacks[:] = [c for c in callbacks if c.script != script]


def remove_callbacks_for_function(callback: Callable) -> None:
    for callbacks in callback_map.values():
        callbacks[:] = [c for c in callbacks if c.callback is not callback]


def _registration(category: str) -> Callable[..., None]:
    def register(callback: Callable, *, name: str | None = None) -> None:
        callback_map[category].append(ScriptCallback(_caller(), callback))

    return register


on_app_started = _registration("app_started")
"""callback(demo: gradio.Blocks | None, app: fastapi.FastAPI), before the server answers"""
on_before_ui = _registration("before_ui")
on_ui_settings = _registration("ui_settings")
"""callback() adds options with shared.opts.add_option"""
on_ui_tabs = _registration("ui_tabs")
"""callback() returns [(blocks, title, elem_id)]"""
on_model_loaded = _registration("model_loaded")
on_script_unloaded = _registration("script_unloaded")
on_infotext_pasted = _registration("infotext_pasted")
"""callback(infotext: str, params: dict), params may be changed"""
on_before_image_saved = _registration("before_image_saved")
on_image_saved = _registration("image_saved")
on_cfg_denoiser = _registration("cfg_denoiser")
on_cfg_denoised = _registration("cfg_denoised")
on_before_component = _registration("before_component")
on_after_component = _registration("after_component")
