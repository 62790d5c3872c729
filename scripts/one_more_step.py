"""One More Step (arXiv 2311.15744): pictures as dark, bright and colourful as the prompt says.

A table of contents: which of the host's hooks calls what. The work is in lib_oms.
"""

import gradio as gr
from modules import errors, scripts, shared

# The extension's folder is on sys.path only while this file is loaded, so everything is imported here and now.
try:
    from lib_oms.webui import hook, host, infotext, ui

    host.check()
    PROBLEM = None
except Exception as error:  # whatever it is, it must not stop the WebUI from starting
    errors.report("One More Step cannot be used", exc_info=True)
    PROBLEM = f"One More Step cannot be used: {type(error).__name__}: {error}"


class OneMoreStep(scripts.Script):
    def title(self):
        return "One More Step"

    def show(self, is_img2img):
        return False if is_img2img else scripts.AlwaysVisible  # img2img does not start from pure noise

    def ui(self, is_img2img):
        if PROBLEM:
            return self._apology()
        controls = ui.build()
        self.infotext_fields = infotext.fields(controls)
        return controls

    def process(self, p, *args):
        if not PROBLEM:
            hook.before_generating(p, args)

    def process_before_every_sampling(self, p, *args, **kwargs):
        if not PROBLEM:
            hook.before_sampling(p, args, kwargs["noise"])

    def before_process(self, p, *args):
        if PROBLEM and args and args[0]:
            self._refuse(p)

    def _apology(self):
        """An accordion that says what is wrong, and one control, so that the API can be told, too."""
        with gr.Accordion("One More Step", open=True, elem_id="oms_accordion"):
            gr.Markdown(f"{PROBLEM}\n\nThe console shows more. Restart the WebUI when it is repaired.")
            return [gr.Checkbox(False, label="One More Step", visible=False, elem_id="oms_enabled")]

    def _refuse(self, p):
        """Makes a request that asks for the step fail, instead of a picture that silently goes without."""
        if getattr(shared.opts, "oms_on_failure", "stop") == "continue without it":
            p.extra_generation_params["OMS skipped"] = PROBLEM
            return

        def sample(*args, **kwargs):
            raise RuntimeError(PROBLEM)

        p.sample = sample
