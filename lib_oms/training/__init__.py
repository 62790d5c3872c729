"""Making psi: `train` trains it for any VAE's latents on pictures with captions, as `TrainingSettings` say.

The loop imports diffusers and accelerate, which takes seconds: it is read when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lib_oms.training.settings import TrainingSettings

if TYPE_CHECKING:
    from lib_oms.training.loop import train

__all__ = ["TrainingSettings", "train"]


def __getattr__(name: str) -> Any:
    if name != "train":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lib_oms.training.loop import train

    return train
