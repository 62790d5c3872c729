"""One More Step (arXiv 2311.15744): pictures as dark, bright and colorful as the prompt says.

A table of contents: which of the host's hooks calls what. The work is in lib_oms.
"""

from typing import Any

from modules import script_callbacks, scripts

from lib_oms.webui import trouble

# The extension's folder is on sys.path only while this file is loaded, so everything is imported here and now.
try:
    from lib_oms.webui import api, hook, host, infotext, options, result, ui, xyz

    host.check()
    script_callbacks.on_ui_settings(options.register)
    script_callbacks.on_app_started(api.register)
    script_callbacks.on_before_ui(xyz.register)
    xyz.register()
    PROBLEM: str | None = None
except Exception as error:  # whatever it is, it must not stop the WebUI from starting
    PROBLEM = trouble.report(error)


class OneMoreStep(scripts.Script):
    problem = PROBLEM

    def title(self) -> str:
        return "One More Step"

    def show(self, is_img2img: bool) -> Any:
        # img2img does not start from pure noise; at denoising strength 1 nearly so
        return scripts.AlwaysVisible if not is_img2img or (not self.problem and options.acts_in_img2img()) else False

    def ui(self, is_img2img: bool) -> list[Any]:
        if not self.problem:
            try:
                controls = ui.build(is_img2img)
                self.infotext_fields = infotext.fields(controls)
                return controls
            except Exception as error:
                self.problem = trouble.report(error)
        return trouble.accordion(self.problem)

    def after_component(self, component: Any, **kwargs: Any) -> None:
        if not self.problem:
            ui.component_made(component)

    def before_process(self, p: Any, *args: Any) -> None:
        if self.problem and args and args[0]:
            trouble.stand_in(p, self.problem)

    def process(self, p: Any, *args: Any) -> None:
        if not self.problem:
            hook.before_generating(p, args)

    def process_before_every_sampling(self, p: Any, *args: Any, **kwargs: Any) -> None:
        if not self.problem:
            hook.before_sampling(p, args, kwargs["noise"], kwargs["x"])

    def postprocess_image(self, p: Any, pp: Any, *args: Any) -> None:
        if not self.problem:
            result.tell(p, args, pp.image)
