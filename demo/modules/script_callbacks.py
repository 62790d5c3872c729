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


def _register(category: str, callback: Callable) -> None:
    callback_map[category].append(ScriptCallback(_caller(), callback))


def _call(category: str, *args: Any) -> list:
    results = []
    for c in list(callback_map[category]):
        try:
            results.append(c.callback(*args))
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


def on_app_started(callback: Callable, *, name: str | None = None) -> None:
    """callback(demo: gradio.Blocks | None, app: fastapi.FastAPI), before the server answers."""
    _register("app_started", callback)


def on_before_ui(callback: Callable, *, name: str | None = None) -> None:
    _register("before_ui", callback)


def on_ui_settings(callback: Callable, *, name: str | None = None) -> None:
    """callback() adds options with shared.opts.add_option."""
    _register("ui_settings", callback)


def on_ui_tabs(callback: Callable, *, name: str | None = None) -> None:
    """callback() returns [(blocks, title, elem_id)]."""
    _register("ui_tabs", callback)


def on_model_loaded(callback: Callable, *, name: str | None = None) -> None:
    _register("model_loaded", callback)


def on_script_unloaded(callback: Callable, *, name: str | None = None) -> None:
    _register("script_unloaded", callback)


def on_infotext_pasted(callback: Callable, *, name: str | None = None) -> None:
    """callback(infotext: str, params: dict), params may be changed."""
    _register("infotext_pasted", callback)


def on_before_image_saved(callback: Callable, *, name: str | None = None) -> None:
    _register("before_image_saved", callback)


def on_image_saved(callback: Callable, *, name: str | None = None) -> None:
    _register("image_saved", callback)


def on_cfg_denoiser(callback: Callable, *, name: str | None = None) -> None:
    _register("cfg_denoiser", callback)


def on_cfg_denoised(callback: Callable, *, name: str | None = None) -> None:
    _register("cfg_denoised", callback)


def on_before_component(callback: Callable, *, name: str | None = None) -> None:
    _register("before_component", callback)


def on_after_component(callback: Callable, *, name: str | None = None) -> None:
    _register("after_component", callback)


def app_started_callback(demo: Any, app: Any) -> None:
    _call("app_started", demo, app)


def before_ui_callback() -> None:
    _call("before_ui")


def ui_settings_callback() -> None:
    _call("ui_settings")


def ui_tabs_callback() -> list:
    return [tab for tabs in _call("ui_tabs") for tab in tabs or []]


def model_loaded_callback(sd_model: Any) -> None:
    _call("model_loaded", sd_model)


def script_unloaded_callback() -> None:
    _call("script_unloaded")


def infotext_pasted_callback(infotext: str, params: dict[str, Any]) -> None:
    _call("infotext_pasted", infotext, params)


def before_image_saved_callback(params: ImageSaveParams) -> None:
    _call("before_image_saved", params)


def image_saved_callback(params: ImageSaveParams) -> None:
    _call("image_saved", params)


def cfg_denoiser_callback(params: CFGDenoiserParams) -> None:
    _call("cfg_denoiser", params)


def cfg_denoised_callback(params: CFGDenoisedParams) -> None:
    _call("cfg_denoised", params)


def before_component_callback(component: Any, **kwargs: Any) -> None:
    for c in list(callback_map["before_component"]):
        try:
            c.callback(component, **kwargs)
        except Exception:
            errors.report(f"Error executing callback before_component for {c.script}", exc_info=True)


def after_component_callback(component: Any, **kwargs: Any) -> None:
    for c in list(callback_map["after_component"]):
        try:
            c.callback(component, **kwargs)
        except Exception:
            errors.report(f"Error executing callback after_component for {c.script}", exc_info=True)
