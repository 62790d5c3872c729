"""A script that does nothing but notice, and what its arguments tell it to do: it tries out the host's contract."""

import sys

import gradio as gr
import torch
from helper_beside_scripts import WORD
from modules import script_callbacks, scripts, shared
from modules.ui_components import InputAccordion

LOADED_AS = __name__
LOADED_FROM = scripts.basedir()
LOADED_IN_SYS_MODULES = __name__ in sys.modules
calls = []
"""(hook, facts) of the last generations"""
ui_runs = {"txt2img": 0, "img2img": 0}

script_callbacks.on_ui_settings(
    lambda: shared.opts.add_option("probe_option", shared.OptionInfo(7, "Probe option", section=("probe", "Probe")))
)


def _add_route(demo, app):
    app.get("/probe/hello")(lambda: {"word": WORD})


script_callbacks.on_app_started(_add_route)


class ContractProbe(scripts.Script):
    def title(self):
        return "Contract Probe"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        ui_runs[self.tabname] += 1
        with InputAccordion(False, label="Contract Probe", elem_id=self.elem_id("accordion")) as enabled:
            how = gr.Dropdown(
                ["nothing", "in place", "modified_noise", "rebind", "fail in sample"],
                value="nothing",
                label="Probe action",
                elem_id=self.elem_id("how"),
            )
            fail_in = gr.Textbox("", label="Probe failure", elem_id=self.elem_id("fail_in"))
            number = gr.Slider(
                minimum=0, maximum=10, step=0.5, value=2.5, label="Probe number", elem_id=self.elem_id("number")
            )
            note = gr.Textbox("", label="Probe note", elem_id=self.elem_id("note"))
            trap = gr.Checkbox(False, label="Probe trap", elem_id=self.elem_id("trap"))
        self.infotext_fields = [
            (enabled, lambda d: d["Probe"] == "True" if "Probe" in d else None),
            (number, "Probe number"),
            (note, "Probe note"),
            (trap, "Probe trap"),
        ]
        self.paste_field_names = ["Probe number"]
        return [enabled, how, fail_in, number, note, trap]

    def _notice(self, hook, p, args, **facts):
        calls.append((hook, {"args": list(args), "sampler": getattr(p, "sampler", None), **facts}))
        if len(args) > 2 and args[2] == hook:
            raise ZeroDivisionError(f"probe fails in {hook}")

    def setup(self, p, *args):
        self._notice("setup", p, args)

    def before_process(self, p, *args):
        self._notice("before_process", p, args)

    def process(self, p, *args):
        enabled, _, _, number, note, trap = args
        if enabled:
            p.extra_generation_params |= {
                "Probe": True,
                "Probe number": number,
                "Probe note": note,
                "Probe trap": trap,
                "Probe each": [f"picture {i}" for i in range(len(p.all_prompts))],
                "Probe index": lambda index, **kwargs: f"at {index}",
                "Probe fails": lambda **kwargs: 1 / 0,
            }
        self._notice("process", p, args)

    def before_process_batch(self, p, *args, **kwargs):
        self._notice("before_process_batch", p, args, **kwargs)

    def after_extra_networks_activate(self, p, *args, **kwargs):
        self._notice("after_extra_networks_activate", p, args, **kwargs)

    def process_batch(self, p, *args, **kwargs):
        self._notice("process_batch", p, args, **kwargs)

    def process_before_every_sampling(self, p, *args, **kwargs):
        noise = kwargs["noise"]
        facts = {
            "same_tensor": kwargs["x"] is noise,
            "noise": noise.clone(),
            "grad": torch.is_grad_enabled(),
            "inference": torch.is_inference_mode_enabled(),
            "seeds": list(p.seeds),
            "prompts": list(p.prompts),
            "c": kwargs["c"].shape,
            "uc": kwargs["uc"].shape,
            "has_modified_noise": hasattr(p, "modified_noise"),
            "has_sigmas": hasattr(p.sampler, "get_sigmas"),
            "has_timesteps": hasattr(p.sampler, "get_timesteps"),
            "processing": p,
        }
        how = args[1]
        if how == "in place":
            noise.mul_(0.5)
        elif how == "modified_noise":
            p.modified_noise = noise * 0.5
        elif how == "rebind":
            kwargs["noise"] = noise * 0.5
        elif how == "fail in sample":

            def sample(*args, **kwargs):
                raise RuntimeError("the probe says no")

            p.sampler.sample = sample
        if args[0]:
            p.extra_generation_params["Probe sampling"] = "seen"
            p.comment("probe comment")
        self._notice("process_before_every_sampling", p, args, **facts)

    def before_hr(self, p, *args):
        self._notice("before_hr", p, args)

    def post_sample(self, p, ps, *args):
        self._notice("post_sample", p, args, modified_noise=getattr(p, "modified_noise", "no such attribute"))

    def postprocess_batch(self, p, *args, **kwargs):
        self._notice("postprocess_batch", p, args, shape=kwargs["images"].shape)

    def postprocess_batch_list(self, p, pp, *args, **kwargs):
        self._notice("postprocess_batch_list", p, args)

    def postprocess_image(self, p, pp, *args):
        self._notice("postprocess_image", p, args, size=pp.image.size)

    def postprocess(self, p, processed, *args):
        self._notice("postprocess", p, args)


class Chosen(scripts.Script):
    """A script of the dropdown: makes the pictures itself."""

    def title(self):
        return "Chosen Probe"

    def ui(self, is_img2img):
        return [gr.Number(3, label="Chosen steps", elem_id=self.elem_id("steps"))]

    def run(self, p, steps):
        from modules.processing import process_images

        p.steps = int(steps)
        return process_images(p)
