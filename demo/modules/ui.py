"""The page (host file: modules/ui.py)."""

from functools import partial
from typing import Any

import gradio as gr
from modules import (
    gradio_compat,
    images,
    infotext_utils,
    paths,
    script_callbacks,
    scripts,
    sd_samplers,
    sd_schedulers,
    shared,
    txt2img,
    ui_loadsave,
    ui_settings,
)
from modules.call_queue import wrap_gradio_gpu_call
from modules.infotext_utils import PasteField
from modules.ui_components import ToolButton, plaintext_to_html

paste_symbol = "↙"

_IN_INFOTEXT = {
    "prompt": "Prompt", "negative_prompt": "Negative prompt", "sampler_name": sd_samplers.get_sampler_from_infotext,
    "scheduler": sd_samplers.get_scheduler_from_infotext, "steps": "Steps", "cfg_scale": "CFG scale",
    "width": "Size-1", "height": "Size-2", "seed": "Seed", "subseed": "Variation seed",
    "subseed_strength": "Variation seed strength",
}
"""Where the page's values, by the names of p's fields, are in infotext."""


def create_ui() -> gr.Blocks:
    """The whole page. Runs every script's ui() for both tabs; img2img's is not shown."""
    script_callbacks.call("before_ui")
    script_callbacks.call("ui_settings")
    tabs = {
        "txt2img": ("txt2img", _create_txt2img),
        "pnginfo": ("PNG Info", _create_pnginfo),
        "settings": ("Settings", ui_settings.create_ui),
    }
    loadsave = ui_loadsave.UiLoadsave(shared.cmd_opts.ui_config_file or f"{paths.data_path}/ui-config.json")
    title = "One More Step: miniature WebUI"
    # One Blocks for all tabs: gradio makes FastAPI apps for each, a quarter of a second
    with gr.Blocks(theme=gradio_compat.theme(), analytics_enabled=False, title=title) as demo:
        with gr.Row(elem_id="quicksettings"):
            checkpoint = ui_settings.create_setting_component("sd_model_checkpoint")
        with gr.Tabs(elem_id="tabs", selected="txt2img"):
            for ifid, (label, create) in tabs.items():
                with gr.Tab(label, id=ifid, elem_id=f"tab_{ifid}") as tab:
                    create()
                if ifid != "settings":
                    loadsave.add_block(tab, ifid)
        checkpoint.change(
            fn=lambda value: ui_settings.run_one(value, "sd_model_checkpoint"), inputs=[checkpoint],
            outputs=[checkpoint], show_progress=False,
        )
    with gr.Blocks(analytics_enabled=False), scripts.making_ui(is_img2img=True) as runner:
        runner.setup_ui()
    loadsave.dump_defaults()
    shared.demo = demo
    return demo


@scripts.making_ui(is_img2img=False)
def _create_txt2img() -> None:
    of_p: dict[str, Any] = {}
    with gr.Row(elem_id="txt2img_toprow"):
        with gr.Column(scale=6):
            of_p["prompt"] = prompt = gr.Textbox(
                value="", label="Prompt", elem_id="txt2img_prompt", show_label=False, lines=2,
                placeholder="Prompt, for example: black background",
            )
            of_p["negative_prompt"] = gr.Textbox(
                value="", label="Negative prompt", elem_id="txt2img_neg_prompt", show_label=False, lines=2,
                placeholder="Negative prompt",
            )
        with gr.Column(scale=1, min_width=180, elem_id="txt2img_actions_column"):
            submit = gr.Button("Generate", elem_id="txt2img_generate", variant="primary")
            interrupt = gr.Button("Interrupt", elem_id="txt2img_interrupt")
            paste = ToolButton(paste_symbol, elem_id="paste", tooltip="Read infotext from the prompt")
    with gr.Row(elem_id="txt2img_main"):
        with gr.Column(elem_id="txt2img_settings"):
            with gr.Row():
                of_p["sampler_name"] = gr.Dropdown(
                    label="Sampling method", elem_id="txt2img_sampling", value="Euler",
                    choices=sd_samplers.visible_sampler_names(),
                )
                of_p["scheduler"] = gr.Dropdown(
                    label="Schedule type", elem_id="txt2img_scheduler", value="Automatic",
                    choices=[x.label for x in sd_schedulers.schedulers],
                )
            of_p["steps"] = _slider("Sampling steps", "txt2img_steps", 1, 150, 1, 20)
            with gr.Row():
                of_p["width"] = _slider("Width", "txt2img_width", 64, 1024, 8, 256)
                of_p["height"] = _slider("Height", "txt2img_height", 64, 1024, 8, 256)
            with gr.Row():
                of_p["n_iter"] = _slider("Batch count", "txt2img_batch_count", 1, 100, 1, 1)
                of_p["batch_size"] = _slider("Batch size", "txt2img_batch_size", 1, 8, 1, 1)
            of_p["cfg_scale"] = _slider("CFG Scale", "txt2img_cfg_scale", 1.0, 30.0, 0.5, 7.0)
            with gr.Row():
                of_p["seed"] = _seed("Seed", "txt2img_seed")
                of_p["subseed"] = _seed("Variation seed", "txt2img_subseed")
                of_p["subseed_strength"] = _slider("Variation strength", "txt2img_subseed_strength", 0, 1, 0.01, 0)
            of_p["override_settings"] = gr.Dropdown(
                [], label="Override settings", visible=False, elem_id="txt2img_override_settings", multiselect=True
            )
            with gr.Group(elem_id="txt2img_script_container"):
                of_scripts = scripts.scripts_txt2img.setup_ui()
        with gr.Column(elem_id="txt2img_results"):
            gr.HTML("<div></div>", elem_id="txt2img_progress")
            gallery = gr.Gallery(
                label="Output", show_label=False, elem_id="txt2img_gallery", columns=4, height=420, preview=True,
                object_fit="contain",
            )
            infotext = gr.HTML(elem_id="html_info_txt2img", elem_classes=["infotext"])
            html_log = gr.HTML(elem_id="html_log_txt2img", elem_classes=["html-log"])

    generate = {
        "fn": wrap_gradio_gpu_call(partial(txt2img.txt2img, tuple(of_p)), extra_outputs=[None, ""]),
        gradio_compat.JS: "demo.submit",
        "inputs": [*of_p.values(), *of_scripts],
        "outputs": [gallery, infotext, html_log],
        "show_progress": False,
    }
    submit.click(**generate)
    prompt.submit(**generate)
    interrupt.click(fn=shared.state.interrupt, inputs=[], outputs=[], queue=False)
    infotext_utils.txt2img_fields[:] = [
        *(PasteField(of_p[name], target, name) for name, target in _IN_INFOTEXT.items()),
        PasteField(of_p["override_settings"], infotext_utils.to_override_settings),
        *(PasteField(*field) for field in scripts.scripts_txt2img.infotext_fields),
    ]
    infotext_utils.connect_paste(paste, prompt)


def _create_pnginfo() -> None:
    with gr.Row():
        with gr.Column():
            source = gr.File(label="Picture", elem_id="pnginfo_image", file_types=["image"])
        with gr.Column():
            shown = gr.HTML(elem_id="pnginfo_html")
            text = gr.Textbox(visible=False, elem_id="pnginfo_generation_info")
            send = gr.Button("Send to txt2img", elem_id="txt2img_tab")
    source.change(fn=_run_pnginfo, inputs=[source], outputs=[shown, text], show_progress=False)
    send.click(fn=None, inputs=[], outputs=[], **{gradio_compat.JS: "demo.switchToTxt2img"})
    infotext_utils.connect_paste(send, text)


def _run_pnginfo(file: Any) -> tuple[str, str]:
    if file is None:
        return "", ""
    text, items = images.read_info_from_image(images.read(getattr(file, "name", file)))
    rows = {"parameters": text or "no infotext", **items}
    return "".join(f"<p><b>{key}</b></p>{plaintext_to_html(value)}" for key, value in rows.items()), text or ""


def _slider(label: str, elem_id: str, minimum: float, maximum: float, step: float, value: float) -> gr.Slider:
    return gr.Slider(
        minimum=minimum, maximum=maximum, step=step, value=value, label=label, elem_id=elem_id, min_width=120
    )


def _seed(label: str, elem_id: str) -> gr.Number:
    return gr.Number(label=label, value=-1, precision=0, elem_id=elem_id, min_width=120)
