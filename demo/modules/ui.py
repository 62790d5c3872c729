"""The page (host file: modules/ui.py)."""

from typing import Any

import gradio as gr
from modules import (
    gradio_compat,
    images,
    infotext_utils,
    paths_internal,
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
from modules.ui_common import plaintext_to_html
from modules.ui_components import ToolButton

paste_symbol = "↙"


def create_ui() -> gr.Blocks:
    """The whole page. Runs every script's ui() for both tabs; img2img's is not shown."""
    infotext_utils.paste_fields.clear()
    script_callbacks.call("before_ui")
    settings = ui_settings.UiSettings()
    settings.register_settings()

    tabs = [
        (_create_txt2img, "txt2img", "txt2img"),
        (_create_pnginfo, "PNG Info", "pnginfo"),
        *((blocks.render, *names) for made in script_callbacks.call("ui_tabs") for blocks, *names in made or []),
        (settings.create_ui, "Settings", "settings"),
    ]
    made = {}
    title = "One More Step: miniature WebUI"
    # One Blocks for all tabs: gradio makes FastAPI apps for each, a quarter of a second
    with gr.Blocks(theme=gradio_compat.theme(), analytics_enabled=False, title=title) as demo:
        with gr.Row(elem_id="quicksettings"):
            checkpoint = ui_settings.create_setting_component("sd_model_checkpoint")
        with gr.Tabs(elem_id="tabs", selected="txt2img"):
            for create, label, ifid in tabs:
                with gr.Tab(label, id=ifid, elem_id=f"tab_{ifid}") as made[ifid]:
                    create()
        checkpoint.change(
            fn=lambda value: settings.run_one(value, "sd_model_checkpoint"), inputs=[checkpoint], outputs=[checkpoint],
            show_progress=False,
        )
    with gr.Blocks(analytics_enabled=False), scripts.making_ui(is_img2img=True) as runner:
        runner.setup_ui()

    loadsave = ui_loadsave.UiLoadsave(
        shared.cmd_opts.ui_config_file or f"{paths_internal.data_path}/ui-config.json"
    )
    for ifid, tab in made.items():
        if ifid != "settings":
            loadsave.add_block(tab, ifid)
    loadsave.dump_defaults()
    shared.demo = demo
    return demo


@scripts.making_ui(is_img2img=False)
def _create_txt2img() -> None:
    with gr.Row(elem_id="txt2img_toprow"):
        with gr.Column(scale=6):
            prompt = gr.Textbox(
                value="", label="Prompt", elem_id="txt2img_prompt", show_label=False, lines=2,
                placeholder="Prompt, for example: black background",
            )
            negative_prompt = gr.Textbox(
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
                sampler_name = gr.Dropdown(
                    label="Sampling method", elem_id="txt2img_sampling", value="Euler",
                    choices=sd_samplers.visible_sampler_names(),
                )
                scheduler = gr.Dropdown(
                    label="Schedule type", elem_id="txt2img_scheduler", value="Automatic",
                    choices=[x.label for x in sd_schedulers.schedulers],
                )
            steps = _slider("Sampling steps", "txt2img_steps", 1, 150, 1, 20)
            with gr.Row():
                width = _slider("Width", "txt2img_width", 64, 1024, 8, 256)
                height = _slider("Height", "txt2img_height", 64, 1024, 8, 256)
            with gr.Row():
                n_iter = _slider("Batch count", "txt2img_batch_count", 1, 100, 1, 1)
                batch_size = _slider("Batch size", "txt2img_batch_size", 1, 8, 1, 1)
            cfg_scale = _slider("CFG Scale", "txt2img_cfg_scale", 1.0, 30.0, 0.5, 7.0)
            with gr.Row():
                seed = gr.Number(label="Seed", value=-1, precision=0, elem_id="txt2img_seed", min_width=120)
                subseed = gr.Number(
                    label="Variation seed", value=-1, precision=0, elem_id="txt2img_subseed", min_width=120
                )
                strength = _slider("Variation strength", "txt2img_subseed_strength", 0, 1, 0.01, 0)
            with gr.Group(elem_id="txt2img_script_container"):
                custom_inputs = scripts.scripts_txt2img.setup_ui()
        with gr.Column(elem_id="txt2img_results"):
            gr.HTML("<div></div>", elem_id="txt2img_progress")
            gallery = gr.Gallery(
                label="Output", show_label=False, elem_id="txt2img_gallery", columns=4, height=420, preview=True,
                object_fit="contain",
            )
            infotext = gr.HTML(elem_id="html_info_txt2img", elem_classes=["infotext"])
            html_log = gr.HTML(elem_id="html_log_txt2img", elem_classes=["html-log"])

    generate = {
        "fn": wrap_gradio_gpu_call(txt2img.txt2img, extra_outputs=[None, ""]),
        "_js": "demo.submit",
        "inputs": [prompt, negative_prompt, sampler_name, scheduler, steps, n_iter, batch_size, cfg_scale, width,
                   height, seed, subseed, strength, *custom_inputs],
        "outputs": [gallery, infotext, html_log],
        "show_progress": False,
    }
    submit.click(**generate)
    prompt.submit(**generate)
    interrupt.click(fn=shared.state.interrupt, inputs=[], outputs=[], queue=False)
    fields = [
        PasteField(prompt, "Prompt", api="prompt"),
        PasteField(negative_prompt, "Negative prompt", api="negative_prompt"),
        PasteField(sampler_name, sd_samplers.get_sampler_from_infotext, api="sampler_name"),
        PasteField(scheduler, sd_samplers.get_scheduler_from_infotext, api="scheduler"),
        PasteField(steps, "Steps", api="steps"),
        PasteField(cfg_scale, "CFG scale", api="cfg_scale"),
        PasteField(width, "Size-1", api="width"),
        PasteField(height, "Size-2", api="height"),
        PasteField(seed, "Seed", api="seed"),
        PasteField(subseed, "Variation seed", api="subseed"),
        PasteField(strength, "Variation seed strength", api="subseed_strength"),
        *scripts.scripts_txt2img.infotext_fields,
    ]
    infotext_utils.add_paste_fields("txt2img", None, fields)
    infotext_utils.connect_paste(paste, infotext_utils.paste_fields["txt2img"]["fields"], prompt)


def _create_pnginfo() -> None:
    with gr.Row():
        with gr.Column():
            source = gr.File(label="Picture", elem_id="pnginfo_image", file_types=["image"])
        with gr.Column():
            shown = gr.HTML(elem_id="pnginfo_html")
            text = gr.Textbox(visible=False, elem_id="pnginfo_generation_info")
            send = gr.Button("Send to txt2img", elem_id="txt2img_tab")
    source.change(fn=_run_pnginfo, inputs=[source], outputs=[shown, text], show_progress=False)
    send.click(fn=None, _js="demo.switchToTxt2img", inputs=[], outputs=[])
    infotext_utils.connect_paste(send, infotext_utils.paste_fields["txt2img"]["fields"], text)


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
