"""Callbacks outside of a script's hooks (host file: modules/script_callbacks.py). Exceptions in them are swallowed."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from modules import errors
from torch import Tensor


@dataclass
class CFGDenoiserParams:
    """What goes into the UNet at one step. `sigma` is the noise level, or the timestep in timestep samplers."""

    x: Tensor
    image_cond: Any
    sigma: Tensor
    sampling_step: int
    total_sampling_steps: int
    text_cond: Tensor
    text_uncond: Tensor
    denoiser: Any = None


callback_map: dict[str, list[Callable]] = defaultdict(list)


def call(category: str, *args: Any) -> None:
    """Runs all callbacks of a category; an exception in one is printed and swallowed."""
    for callback in list(callback_map[category]):
        try:
            callback(*args)
        except Exception:
            errors.report(f"Error executing callback {category}: {callback}", exc_info=True)


def remove_callbacks_for_function(callback: Callable) -> None:
    for callbacks in callback_map.values():
        callbacks[:] = [c for c in callbacks if c is not callback]


def _register(category: str, callback: Callable, *, name: str | None = None) -> None:
    callback_map[category].append(callback)


on_app_started = partial(_register, "app_started")
"""callback(demo: gradio.Blocks | None, app: fastapi.FastAPI), before the server answers"""
on_before_ui = partial(_register, "before_ui")
on_ui_settings = partial(_register, "ui_settings")
"""callback() adds options with shared.opts.add_option"""
on_cfg_denoiser = partial(_register, "cfg_denoiser")
"""callback(CFGDenoiserParams), whose tensors may be changed"""
