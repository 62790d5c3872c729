"""The section "One More Step" of the settings page, and what is set there.

Options hold whatever config.json and the API put into them, so each reader here knows what to do with nonsense.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import gradio as gr
from modules import shared
from modules.options import OptionInfo, options_section

SECTION = ("one_more_step", "One More Step", "sd")
"""Identifier, title, and the host's category "Stable Diffusion" (modules/shared_options.py)."""

STOP = "stop the request"
CONTINUE = "continue without it"

KEEP_ON_DEVICE = "keep on the device"
KEEP_IN_RAM = "keep in RAM"
DROP = "drop after use"
MEMORY_POLICIES = (KEEP_ON_DEVICE, KEEP_IN_RAM, DROP)


def _all() -> dict[str, OptionInfo]:
    return {
        "oms_module_folders": OptionInfo(
            "",
            "Folders with OMS models",
            gr.Textbox,
            # Hosts let nobody set an option that is not visible.
            {"lines": 2, "placeholder": "one folder per line", "visible": not _locked("oms_module_folders")},
            restrict_api=True,  # reading a folder, such as one of another machine, is no client's to ask for
        ).info("besides models/OMS, the extension's own folder and --oms-models-dir"),
        "oms_on_failure": OptionInfo(STOP, "When OMS fails", gr.Radio, {"choices": [STOP, CONTINUE]}).info(
            "a picture made without it says so in its infotext and on the page"
        ),
        "oms_memory_policy": OptionInfo(
            KEEP_IN_RAM, "OMS memory policy", gr.Radio, {"choices": list(MEMORY_POLICIES)}
        ).info("what becomes of the OMS model and its text encoder after each use"),
        "oms_paste_unticks": OptionInfo(
            True, "Pasting the infotext of a picture made without One More Step unticks it"
        ),
        "oms_tell_result": OptionInfo(False, "Tell brightness and mean color of pictures made with One More Step").info(
            "below the pictures and in their infotext, as OMS result"
        ),
        "oms_img2img": OptionInfo(False, "One More Step in img2img at denoising strength 1")
        .info("what its prompt, color or picture says takes the place of the start picture's brightness and colors")
        .needs_reload_ui(),
    }


def _locked(name: str) -> bool:
    """Whether the WebUI was started so that nobody may set this option, or any folder at all."""
    arguments = shared.cmd_opts
    sections, names = (
        [part.strip() for part in (getattr(arguments, argument, None) or "").split(",")]
        for argument in ("freeze_settings_in_sections", "freeze_specific_settings")
    )
    if getattr(arguments, "hide_ui_dir_config", False) or getattr(arguments, "freeze_settings", False):
        return True
    return SECTION[0] in sections or name in names


def register() -> None:
    """Adds the section; the host asks for it when it makes the settings page."""
    for name, info in options_section(SECTION, _all()).items():
        shared.opts.add_option(name, info)


def _value(name: str, default: Any) -> Any:
    """What is set, or `default` where the host has not asked for our options yet."""
    return getattr(shared.opts, name, default)


def module_folders() -> list[Path]:
    """The folders that a person added, one per line; quotes around one, as file managers copy them, do no harm."""
    text = _value("oms_module_folders", "")
    lines = (line.strip().strip('"').strip() for line in text.splitlines()) if isinstance(text, str) else ()
    return [Path(os.path.expanduser(line)) for line in lines if line and "\0" not in line]


def continues_on_failure() -> bool:
    """Whether a picture is to be made without the step where the step fails; anything but the very words says no."""
    return _value("oms_on_failure", STOP) == CONTINUE


def memory_policy() -> str:
    """One of MEMORY_POLICIES: what becomes of the module and its text encoder after the step."""
    policy = _value("oms_memory_policy", KEEP_IN_RAM)
    return policy if policy in MEMORY_POLICIES else KEEP_IN_RAM


def paste_unticks() -> bool:
    """Whether the infotext of a picture made without the step turns the step off, rather than leave it as it is."""
    return _value("oms_paste_unticks", True) is not False


def acts_in_img2img() -> bool:
    """Whether the step is offered in img2img, too; anything but a true tick says no."""
    return _value("oms_img2img", False) is True


def tells_result() -> bool:
    """Whether each picture's brightness and mean color are to be told; anything but a true tick says no."""
    return _value("oms_tell_result", False) is True
