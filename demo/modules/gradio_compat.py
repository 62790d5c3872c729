"""The two gradio generations, 3.41 and 4: every difference the demo meets stands here.

Hosts hook into gradio the same way, so that scripts hear of each component as it is made (host files:
modules/gradio_extensons.py, modules/ui_gradio_extensions.py).
"""

import re
from collections.abc import Callable
from functools import wraps
from typing import Any

import gradio as gr
import gradio.blocks
import gradio.components
import gradio.routes
from fastapi import FastAPI

GRADIO_4 = int(gr.__version__.split(".")[0]) >= 4
JS = "js" if GRADIO_4 else "_js"
"""what an event's part in the browser is called"""

if GRADIO_4:
    import gradio.component_meta

    # where somebody imported gradio before us: it would write .pyi files beside our sources, too
    gradio.component_meta.create_or_modify_pyi = lambda *args, **kwargs: None
    _Component = gradio.components.Component
else:
    _Component = gradio.components.IOComponent

_REMOTE = re.compile(rb'<(script|link|meta)\b[^>]*"https?://[^>]*?(/>|></script>|>)', re.DOTALL)
"""What the page template loads from the internet; the demo loads nothing."""


def _announced(original: Callable) -> Callable:
    """An __init__ that tells the tab's scripts afterwards."""
    from modules import scripts

    @wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        is_base = getattr(self, "_announced", False)  # a base class's turn: whoever is derived will tell
        self._announced = True
        original(self, *args, **kwargs)
        if scripts.scripts_current is not None and not is_base:
            scripts.scripts_current.after_component(self, **kwargs)

    return __init__


def install(page_head: Callable[[], str]) -> None:
    """Hooks into gradio, once: component announcements, `page_head()` in every page, nothing from the internet."""
    if getattr(gr, "_demo_hooks", False):
        return
    gr._demo_hooks = True
    for cls in (_Component, gradio.blocks.BlockContext):
        cls.__init__ = _announced(cls.__init__)
    original = gradio.routes.templates.TemplateResponse

    def template_response(*args: Any, **kwargs: Any) -> Any:
        response = original(*args, **kwargs)
        body = _REMOTE.sub(b"", response.body)
        response.body = body.replace(b"</head>", page_head().encode("utf8") + b"</head>", 1)
        response.init_headers()
        return response

    gradio.routes.templates.TemplateResponse = template_response


def theme() -> gr.themes.Base:
    """Fonts that every machine has: gradio's own would come from the internet."""
    sans = ("Segoe UI", "Helvetica Neue", "Arial", "sans-serif")
    mono = ("Consolas", "Menlo", "monospace")
    return gr.themes.Default(primary_hue="indigo", neutral_hue="slate", radius_size="sm", font=sans, font_mono=mono)


def mount(app: FastAPI, blocks: gr.Blocks, allowed_paths: list[str]) -> None:
    """Serves the page at "/", behind the routes that `app` has already."""
    blocks.queue(**({} if GRADIO_4 else {"concurrency_count": 64}))  # A1111's webui.py: queue(64)
    blocks.show_error = True
    blocks.favicon_path = blocks.auth = None
    if GRADIO_4:
        gr.mount_gradio_app(app, blocks, path="/", allowed_paths=allowed_paths)
    else:
        blocks.allowed_paths = allowed_paths
        gr.mount_gradio_app(app, blocks, path="/")
