"""One More Step (arXiv 2311.15744): pictures as dark, bright and colourful as the prompt says.

A table of contents: which of the host's hooks calls what. The work is in lib_oms.
"""

import gradio as gr
from modules import errors, script_callbacks, scripts, shared


def why(error):
    errors.report("One More Step cannot be used", exc_info=True)
    return f"One More Step cannot be used: {type(error).__name__}: {error}"


# The extension's folder is on sys.path only while this file is loaded, so everything is imported here and now.
try:
    from lib_oms.webui import api, hook, host, infotext, options, ui, xyz

    host.check()
    script_callbacks.on_ui_settings(options.register)
    script_callbacks.on_app_started(api.register)
    script_callbacks.on_before_ui(xyz.register)
    xyz.register()
    PROBLEM = None
except Exception as error:  # whatever it is, it must not stop the WebUI from starting
    PROBLEM = why(error)


class OneMoreStep(scripts.Script):
    problem = PROBLEM

    def title(self):
        return "One More Step"

    def show(self, is_img2img):
        return False if is_img2img else scripts.AlwaysVisible  # img2img does not start from pure noise

    def ui(self, is_img2img):
        if not self.problem:
            try:
                controls = ui.build()
                self.infotext_fields = infotext.fields(controls)
                return controls
            except Exception as error:
                self.problem = why(error)
        return self._apology()

    def process(self, p, *args):
        if not self.problem:
            hook.before_generating(p, args)

    def process_before_every_sampling(self, p, *args, **kwargs):
        if not self.problem:
            hook.before_sampling(p, args, kwargs["noise"])

    def before_process(self, p, *args):
        if self.problem and args and args[0]:
            self._refuse(p)

    def _apology(self):
        """An accordion that says what is wrong, and one control, so that the API can be told, too."""
        with gr.Accordion("One More Step", open=True, elem_id="oms_accordion"):
            gr.Markdown(f"{self.problem}\n\nThe console shows more. Restart the WebUI when it is repaired.")
            return [gr.Checkbox(False, label="One More Step", visible=False, elem_id="oms_enabled")]

    def _refuse(self, p):
        """Makes a request that asks for the step fail, instead of a picture that silently goes without."""
        problem = self.problem
        if getattr(shared.opts, "oms_on_failure", "") == "continue without it":
            p.extra_generation_params["OMS skipped"] = problem
            return

        def sample(*args, **kwargs):
            raise RuntimeError(problem)

        p.sample = sample
