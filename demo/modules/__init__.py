"""The host's package `modules`, in small. What comes here goes before anything imports gradio."""

import os
import sys
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")


class _WithoutPyi:
    """Spares the start the seconds in which gradio 4 parses its own sources to write .pyi files beside them."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name == "gradio.component_meta" else None
        if spec is None:
            return None
        run = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            run(module)
            module.create_or_modify_pyi = lambda *args, **kwargs: None

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, _WithoutPyi)
