"""The script contract (host file: modules/scripts.py): what an extension's Script offers, and who calls it when."""

import inspect
import os
import re
import sys
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import make_dataclass
from functools import partialmethod
from pathlib import Path
from typing import Any

import gradio as gr
from modules import errors, paths, script_callbacks, script_loading, shared_cmd_options

AlwaysVisible = object()
PostSampleArgs = make_dataclass("PostSampleArgs", ["samples"])
PostprocessImageArgs = make_dataclass("PostprocessImageArgs", ["image"])
PostprocessBatchListArgs = make_dataclass("PostprocessBatchListArgs", ["images"])

HOOKS = (
    "setup", "before_process", "process", "before_process_batch", "after_extra_networks_activate", "process_batch",
    "process_before_every_sampling", "before_hr", "post_sample", "postprocess_batch", "postprocess_batch_list",
    "postprocess_image", "postprocess_image_after_composite", "postprocess",
)
"""In their order. A script gets p, what the hook is about, then the values of what `ui` returned."""


class Script:
    """Base of every script. Any of HOOKS may be a method of it."""

    name: str | None = None
    filename: str | None = None
    args_from: int | None = None
    args_to: int | None = None
    alwayson = False
    is_txt2img = False
    is_img2img = False
    tabname: str | None = None
    infotext_fields: list | None = None
    paste_field_names: list[str] | None = None
    api_info: dict | None = None
    controls: list | None = None

    def title(self) -> str:
        raise NotImplementedError

    def ui(self, is_img2img: bool) -> list | None:
        """Makes the script's components and returns those whose values the hooks get."""

    def show(self, is_img2img: bool) -> Any:
        """False: not in this tab; True: in the Script dropdown; AlwaysVisible: always there, hooks and all."""
        return True

    def nothing(self, *args: Any, **kwargs: Any) -> None:
        """What a hook does that a script does not define."""

    def run(self, p: Any, *args: Any) -> Any:
        """Only of a script chosen in the dropdown: makes all pictures itself and returns a Processed."""

    after_component = nothing
    """called with every component of the tab, of other scripts too, and what it was made with"""

    def elem_id(self, item_id: str) -> str:
        """An id for the page, made of the tab (where the script shows in both), the title and `item_id`."""
        in_both = self.show(True) == self.show(False)
        tab = f"{self.tabname}_" if in_both else ""
        title = re.sub(r"[^a-z_0-9]", "", re.sub(r"\s", "_", self.title().lower()))
        return f"script_{tab}{title}_{item_id}"


current_basedir = paths.script_path
ScriptClassData = namedtuple("ScriptClassData", ["script_class", "path", "basedir", "module"])
scripts_data: list[ScriptClassData] = []


def basedir() -> str:
    """The folder of the extension that is being loaded."""
    return current_basedir


def list_scripts(pattern: str) -> list[tuple[Path, Path]]:
    """(base folder, file) of every file of this pattern: the host's own first, then every extension's."""
    folders = [Path(paths.script_path), *shared_cmd_options.extension_folders()]
    return [(folder, file) for folder in folders for file in sorted(folder.glob(pattern))]


def load_scripts() -> None:
    """Runs scripts/*.py of every extension, whose folder is on sys.path meanwhile, and only meanwhile."""
    global current_basedir, scripts_txt2img, scripts_img2img
    scripts_data.clear()
    script_callbacks.callback_map.clear()
    path_before = sys.path
    for folder, file in list_scripts("scripts/*.py"):
        current_basedir = str(folder)
        sys.path = [current_basedir, *path_before]
        with _reported(f"Error loading script: {file.name}"):
            module = script_loading.load_module(str(file))
            for cls in vars(module).values():
                if inspect.isclass(cls) and issubclass(cls, Script):
                    scripts_data.append(ScriptClassData(cls, str(file), current_basedir, module))
    sys.path = path_before
    current_basedir = paths.script_path
    scripts_txt2img, scripts_img2img = ScriptRunner(), ScriptRunner()


@contextmanager
def _reported(message: str) -> Iterator[None]:
    """An exception of a script is printed and SWALLOWED: the host goes on, and the picture is made all the same."""
    try:
        yield
    except Exception:
        errors.report(message, exc_info=True)


class ScriptRunner:
    """All scripts of one tab. p.script_args is one flat list; [0] is the Script dropdown's choice."""

    def __init__(self) -> None:
        self.scripts: list[Script] = []
        self.selectable_scripts: list[Script] = []
        self.alwayson_scripts: list[Script] = []
        self.title_map: dict[str, Script] = {}
        self.infotext_fields: list = []
        self.paste_field_names: list[str] = []
        self.inputs: list = [None]

    def initialize_scripts(self, is_img2img: bool) -> None:
        self.__init__()
        for data in scripts_data:
            with _reported(f"Error # failed to initialize Script {data.module}: "):
                script = data.script_class()
                script.filename = data.path
                script.is_txt2img, script.is_img2img = not is_img2img, is_img2img
                script.tabname = "img2img" if is_img2img else "txt2img"
                visibility = script.show(is_img2img)
                if visibility:
                    script.alwayson = visibility is AlwaysVisible
                    self.scripts.append(script)
                    (self.alwayson_scripts if script.alwayson else self.selectable_scripts).append(script)

    def setup_ui(self) -> list:
        """The Script dropdown, and every script's components below it; the inputs that make p.script_args."""
        self.title_map = {script.title().lower(): script for script in self.scripts}
        for script in self.alwayson_scripts:
            self._create_script_ui(script)
        titles = [script.title() for script in self.selectable_scripts]
        dropdown = gr.Dropdown(
            label="Script", elem_id="script_list", choices=["None", *titles], value="None", type="index",
            visible=bool(titles),
        )
        self.inputs[0] = dropdown
        groups = [self._create_script_ui(script) for script in self.selectable_scripts]
        if groups:
            dropdown.change(
                fn=lambda index: [gr.update(visible=index == i) for i in range(1, len(groups) + 1)],
                inputs=[dropdown], outputs=groups,
            )
        return self.inputs

    def _create_script_ui(self, script: Script) -> gr.Group:
        """The script's components in a group of their own, which is in sight only if the script is always on."""
        script.args_from = script.args_to = len(self.inputs)
        with gr.Group(visible=script.alwayson) as group, _reported(f"Error calling: {script.filename}/ui"):
            script.controls = controls = script.ui(script.is_img2img)
            if controls is None:
                return group
            script.name = script.title().lower()
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
        return group

    def script(self, title: str) -> Script | None:
        return self.title_map.get(title.lower())

    def run(self, p: Any, *args: Any) -> Any:
        """Lets the script chosen in the dropdown make the pictures; None if none is chosen."""
        if not args[0]:
            return None
        script = self.selectable_scripts[args[0] - 1]
        return script.run(p, *args[script.args_from : script.args_to])

    def call(self, hook: str, p: Any, *first: Any, **kwargs: Any) -> None:
        """Runs one hook of every script, in loading order."""
        for script in self.alwayson_scripts:
            with _reported(f"Error running {hook}: {script.filename}"):
                script_args = p.script_args[script.args_from : script.args_to]
                getattr(script, hook)(p, *first, *script_args, **kwargs)

    def after_component(self, component: Any, **kwargs: Any) -> None:
        for script in self.scripts:
            with _reported(f"Error running after_component: {script.filename}"):
                script.after_component(component, **kwargs)


for _hook in HOOKS:
    setattr(Script, _hook, Script.nothing)
    setattr(ScriptRunner, _hook, partialmethod(ScriptRunner.call, _hook))


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
