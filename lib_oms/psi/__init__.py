"""psi, the network that takes the step: `OMSUNet` and its configuration, and how both lie in files.

The network's own file imports diffusers, which takes seconds: it is read when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lib_oms.psi.config import OMSUNetConfig
from lib_oms.psi.files import ModuleFile, inspect_module

if TYPE_CHECKING:
    from lib_oms.psi.unet import OMSUNet, predict_v

__all__ = ["ModuleFile", "OMSUNet", "OMSUNetConfig", "inspect_module", "predict_v"]


def __getattr__(name: str) -> Any:
    if name not in ("OMSUNet", "predict_v"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lib_oms.psi import unet

    return getattr(unet, name)
