"""The script contract (host file: modules/scripts.py): what an extension's Script offers, and who calls it when."""

import inspect
import os
import re
import sys
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import make_dataclass
from functools import partialmethod
from pathlib import Path
from typing import Any

import gradio as gr
from modules import errors, extensions, paths_internal, script_callbacks, script_loading

AlwaysVisible = object()
PostSampleArgs = make_dataclass("PostSampleArgs", ["samples"])
PostprocessImageArgs = make_dataclass("PostprocessImageArgs", ["image"])
PostprocessBatchListArgs = make_dataclass("PostprocessBatchListArgs", ["images"])
OnComponent = make_dataclass("OnComponent", ["component"])


class Script:
    """Base of every script. Hooks get p, then the values of what `ui` returned; in the order below."""

    name: str | None = None
    section: str | None = None
    filename: str | None = None
    args_from: int | None = None
    args_to: int | None = None
    alwayson = False
    is_txt2img = False
    is_img2img = False
    tabname: str | None = None
    group: Any = None
    create_group = True
    infotext_fields: list | None = None
    paste_field_names: list[str] | None = None
    api_info: dict | None = None
    on_before_component_elem_id: list | None = None
    on_after_component_elem_id: list | None = None
    controls: list | None = None

    def title(self) -> str:
        raise NotImplementedError

    def ui(self, is_img2img: bool) -> list | None:
        """Makes the script's components and returns those whose values the hooks get."""

    def show(self, is_img2img: bool) -> Any:
        """False: not in this tab; True: in the Script dropdown; AlwaysVisible: always there, hooks and all."""
        return True

    def run(self, p: Any, *args: Any) -> Any:
        """Only of a script chosen in the dropdown: makes all pictures itself and returns a Processed."""

    def _nothing(self, *args: Any, **kwargs: Any) -> None:
        """What a hook does that a script does not define."""

    setup = before_process = process = before_process_batch = after_extra_networks_activate = process_batch = _nothing
    process_before_every_sampling = before_hr = post_sample = postprocess_batch = postprocess_batch_list = _nothing
    postprocess_image = postprocess_image_after_composite = postprocess = before_component = after_component = _nothing

    def on_before_component(self, callback: Callable, *, elem_id: str) -> None:
        self.on_before_component_elem_id = [*(self.on_before_component_elem_id or []), (elem_id, callback)]

    def on_after_component(self, callback: Callable, *, elem_id: str) -> None:
        self.on_after_component_elem_id = [*(self.on_after_component_elem_id or []), (elem_id, callback)]

    def elem_id(self, item_id: str) -> str:
        """An id for the page, made of the tab (where the script shows in both), the title and `item_id`."""
        in_both = self.show(True) == self.show(False)
        tab = ("img2img_" if self.is_img2img else "txt2img_") if in_both else ""
        title = re.sub(r"[^a-z_0-9]", "", re.sub(r"\s", "_", self.title().lower()))
        return f"script_{tab}{title}_{item_id}"


current_basedir = paths_internal.script_path
ScriptClassData = namedtuple("ScriptClassData", ["script_class", "path", "basedir", "module"])
scripts_data: list[ScriptClassData] = []


def basedir() -> str:
    """The folder of the extension that is being loaded."""
    return current_basedir


def list_scripts(folder: str, suffix: str) -> list[tuple[str, Path]]:
    """(base folder, file) of every file in that folder: the host's own first, then every extension's."""
    own = extensions.Extension(name="", path=paths_internal.script_path)
    return [(ext.path, file) for ext in [own, *extensions.active()] for file in ext.list_files(folder, suffix)]


def list_files_with_name(filename: str) -> list[str]:
    return [f for ext in extensions.active() if os.path.isfile(f := os.path.join(ext.path, filename))]


def load_scripts() -> None:
    """Runs scripts/*.py of every extension, whose folder is on sys.path meanwhile, and only meanwhile."""
    global current_basedir, scripts_txt2img, scripts_img2img
    scripts_data.clear()
    script_callbacks.clear_callbacks()
    for folder, file in list_scripts("scripts", ".py"):
        path_before = sys.path
        sys.path = [folder, *sys.path]
        current_basedir = folder
        try:
            module = script_loading.load_module(str(file))
            for cls in vars(module).values():
                if inspect.isclass(cls) and issubclass(cls, Script):
                    scripts_data.append(ScriptClassData(cls, str(file), folder, module))
        except Exception:
            errors.report(f"Error loading script: {file.name}", exc_info=True)
        finally:
            sys.path = path_before
            current_basedir = paths_internal.script_path
    scripts_txt2img, scripts_img2img = ScriptRunner(), ScriptRunner()


def wrap_call(func: Callable, filename: str | None, funcname: str, *args: Any, default: Any = None) -> Any:
    try:
        return func(*args)
    except Exception:
        errors.report(f"Error calling: {filename}/{funcname}", exc_info=True)
    return default


class ScriptRunner:
    """All scripts of one tab. p.script_args is one flat list; [0] is the Script dropdown's choice."""

    def __init__(self) -> None:
        self.scripts: list[Script] = []
        self.selectable_scripts: list[Script] = []
        self.alwayson_scripts: list[Script] = []
        self.titles: list[str] = []
        self.title_map: dict[str, Script] = {}
        self.infotext_fields: list = []
        self.paste_field_names: list[str] = []
        self.inputs: list = [None]

    def initialize_scripts(self, is_img2img: bool) -> None:
        self.__init__()
        for data in scripts_data:
            try:
                script = data.script_class()
            except Exception:
                errors.report(f"Error # failed to initialize Script {data.module}: ", exc_info=True)
                continue
            script.filename = data.path
            script.is_txt2img, script.is_img2img = not is_img2img, is_img2img
            script.tabname = "img2img" if is_img2img else "txt2img"
            visibility = script.show(is_img2img)
            if not visibility:
                continue
            script.alwayson = visibility is AlwaysVisible
            self.scripts.append(script)
            (self.alwayson_scripts if script.alwayson else self.selectable_scripts).append(script)

    def setup_ui(self) -> list:
        """The Script dropdown, and every script's components below it; the inputs that make p.script_args."""
        titles = [wrap_call(s.title, s.filename, "title") or s.filename for s in self.scripts]
        self.title_map = {t.lower(): s for t, s in zip(titles, self.scripts, strict=True)}
        self.titles = [t for t, s in zip(titles, self.scripts, strict=True) if s in self.selectable_scripts]
        self.setup_ui_for_section(None)
        dropdown = gr.Dropdown(
            label="Script", elem_id="script_list", choices=["None", *self.titles], value="None", type="index",
            visible=bool(self.titles),
        )
        self.inputs[0] = dropdown
        self.setup_ui_for_section(None, self.selectable_scripts)
        if self.selectable_scripts:
            groups = [s.group for s in self.selectable_scripts]
            dropdown.change(
                fn=lambda index: [gr.update(visible=index == i) for i in range(1, len(groups) + 1)],
                inputs=[dropdown], outputs=groups,
            )
        return self.inputs

    def setup_ui_for_section(self, section: str | None, scriptlist: list[Script] | None = None) -> None:
        for script in self.alwayson_scripts if scriptlist is None else scriptlist:
            if script.alwayson and script.section != section:
                continue
            if script.create_group:
                with gr.Group(visible=script.alwayson) as script.group:
                    self.create_script_ui(script)
            else:
                self.create_script_ui(script)

    def create_script_ui(self, script: Script) -> None:
        script.args_from = script.args_to = len(self.inputs)
        controls = wrap_call(script.ui, script.filename, "ui", script.is_img2img)
        script.controls = controls
        if controls is None:
            return
        script.name = wrap_call(script.title, script.filename, "title", default=script.filename).lower()
        for control in controls:
            control.custom_script_source = os.path.basename(script.filename)
        script.api_info = {
            "name": script.name, "is_img2img": script.is_img2img, "is_alwayson": script.alwayson,
            "args": [_describe(control) for control in controls],
        }
        self.infotext_fields += script.infotext_fields or []
        self.paste_field_names += script.paste_field_names or []
        self.inputs += controls
        script.args_to = len(self.inputs)

    def script(self, title: str) -> Script | None:
        return self.title_map.get(title.lower())

    def run(self, p: Any, *args: Any) -> Any:
        """Lets the script chosen in the dropdown make the pictures; None if none is chosen."""
        index = args[0]
        if index in (0, None):
            return None
        script = self.selectable_scripts[index - 1]
        return script.run(p, *args[script.args_from : script.args_to])

    def ordered_scripts(self, hook: str) -> list[Script]:
        """Scripts that have this hook of their own, in loading order."""
        scripts = self.scripts if hook in ("before_component", "after_component") else self.alwayson_scripts
        return [s for s in scripts if getattr(type(s), hook) is not getattr(Script, hook)]

    def _call(self, hook: str, p: Any, *first: Any, **kwargs: Any) -> None:
        """Runs one hook of every script. An exception is printed and SWALLOWED: the picture is made all the same."""
        for script in self.ordered_scripts(hook):
            try:
                script_args = p.script_args[script.args_from : script.args_to]
                getattr(script, hook)(p, *first, *script_args, **kwargs)
            except Exception:
                errors.report(f"Error running {hook}: {script.filename}", exc_info=True)

    def setup_scrips(self, p: Any, *, is_ui: bool = True) -> None:
        """The host's spelling."""
        self._call("setup", p)

    before_process = partialmethod(_call, "before_process")
    process = partialmethod(_call, "process")
    before_process_batch = partialmethod(_call, "before_process_batch")
    after_extra_networks_activate = partialmethod(_call, "after_extra_networks_activate")
    process_batch = partialmethod(_call, "process_batch")
    process_before_every_sampling = partialmethod(_call, "process_before_every_sampling")
    before_hr = partialmethod(_call, "before_hr")
    post_sample = partialmethod(_call, "post_sample")
    postprocess_batch_list = partialmethod(_call, "postprocess_batch_list")
    postprocess_image = partialmethod(_call, "postprocess_image")
    postprocess_image_after_composite = partialmethod(_call, "postprocess_image_after_composite")
    postprocess = partialmethod(_call, "postprocess")

    def postprocess_batch(self, p: Any, images: Any, **kwargs: Any) -> None:
        self._call("postprocess_batch", p, images=images, **kwargs)

    def before_component(self, component: Any, **kwargs: Any) -> None:
        self._component_made("before_component", "on_before_component_elem_id", component, kwargs)

    def after_component(self, component: Any, **kwargs: Any) -> None:
        self._component_made("after_component", "on_after_component_elem_id", component, kwargs)

    def _component_made(self, hook: str, watched: str, component: Any, kwargs: dict) -> None:
        for script in self.scripts:
            for elem_id, callback in getattr(script, watched) or []:
                if elem_id == kwargs.get("elem_id"):
                    wrap_call(callback, script.filename, hook, OnComponent(component))
        for script in self.ordered_scripts(hook):
            try:
                getattr(script, hook)(component, **kwargs)
            except Exception:
                errors.report(f"Error running {hook}: {script.filename}", exc_info=True)


def _describe(control: Any) -> dict:
    """A component as /sdapi/v1/script-info shows it."""
    choices = getattr(control, "choices", None)
    return {
        "label": control.label or "",
        **{field: getattr(control, field, None) for field in ("value", "minimum", "maximum", "step")},
        "choices": [c[0] if isinstance(c, tuple) else c for c in choices] if choices is not None else None,
    }


@contextmanager
def making_ui(is_img2img: bool) -> Iterator[ScriptRunner]:
    """The runner of a tab, its scripts freshly made, while the tab's components are made."""
    global scripts_current
    scripts_current = runner = scripts_img2img if is_img2img else scripts_txt2img
    runner.initialize_scripts(is_img2img)
    try:
        yield runner
    finally:
        scripts_current = None


scripts_txt2img = ScriptRunner()
scripts_img2img = ScriptRunner()
scripts_current: ScriptRunner | None = None
"""the tab whose components are being made"""
