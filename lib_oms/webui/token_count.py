"""How many tokens an OMS prompt takes, as the WebUI tells it of its own prompts: "6/75"."""

from __future__ import annotations

from typing import Any

from modules import shared

from lib_oms.errors import OMSError
from lib_oms.library.entries import own_folder
from lib_oms.library.text_sources import find_tokenizer
from lib_oms.text.files import has_vocabulary, load_tokenizer
from lib_oms.text.prompt import MAIN_PROMPT, first_step_text
from lib_oms.text.tower import prompt_length
from lib_oms.webui import offer, sources

_CLIP = 49408  # tokens of the published encoders' vocabulary


def of(prompt: str) -> str:
    """The tokens that the prompt takes and that its chunks hold, without those of the main prompt; empty where the
    WebUI is set to count nothing, or no tokenizer lies here. CLIP's tokenizers are all alike: any will do.
    """
    if getattr(shared.opts, "disable_token_counters", False):
        return ""
    tokenizer = _tokenizer()
    if tokenizer is None:
        return ""
    used, room = prompt_length(tokenizer, first_step_text(prompt.replace(MAIN_PROMPT, "")))
    return f"{used}/{room}"


def _tokenizer() -> Any | None:
    try:
        entry = offer.automatic()
        own = None if entry is None else own_folder(entry.path) / "tokenizer"
        if own is not None and has_vocabulary(own):
            return load_tokenizer(own)
        make = find_tokenizer(_CLIP, sources.places())
        return None if make is None else make()
    except (OMSError, OSError):
        return None
