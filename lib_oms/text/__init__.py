"""Prompts in the WebUI's syntax, and the text encoders that psi understands: `load_text_encoder(...).encode(prompts)`.

What is known of the encoders as they are published stands in `TEXT_ENCODERS`, a kind each.
"""

from lib_oms.text.encoders import (
    KINDS,
    ClipEncoder,
    MixClipEncoder,
    OpenCLIPEncoder,
    TextEncoder,
    encoder_width,
    holds_encoder,
    load_text_encoder,
)
from lib_oms.text.published import LENT, TEXT_ENCODERS

__all__ = [
    "KINDS",
    "LENT",
    "TEXT_ENCODERS",
    "ClipEncoder",
    "MixClipEncoder",
    "OpenCLIPEncoder",
    "TextEncoder",
    "encoder_width",
    "holds_encoder",
    "load_text_encoder",
]
