"""The accordion on the txt2img page: what one came for at first sight, the rest folded away."""

from __future__ import annotations

import secrets
from typing import Any

import gradio as gr
from modules import ui_components

from lib_oms.settings import AUTOMATIC, BRUSH, COLOR, NONE, PICTURE, PROMPT, SETTINGS, STYLE
from lib_oms.webui import (
    chips,
    downloading,
    given_panel,
    library_panel,
    module_note,
    offer,
    presets_panel,
    preview_row,
    styles,
)
from lib_oms.webui.controls import AT_ONCE, BY_NAME, JS, color_picker, dropdown, elem_id, radio, slider, tab, textbox
from lib_oms.webui.library_panel import Panel

_LEAD = (
    "<p class='oms-lead'>Real night, white pages, the color you ask for. Acts once, before sampling; your model stays "
    "as it is.</p>"
)
_SLIDERS = "<p class='oms-lead'>Nothing but the sliders <i>Brightness</i> and <i>Color</i> under Advanced.</p>"
_BY_HAND = "(source) => [source, document.querySelector('#{}:is(:hover, :focus-within)') ? 'yes' : '']"
"""Of the events of a radio button none tells in gradio 4 whether a person pressed it."""
_GIVEN = (COLOR, PICTURE, BRUSH, STYLE, NONE)


def component_made(component: Any) -> None:
    """To be called for each component of the host's page, ours and others', as it is made."""
    preview_row.component_made(component)


def build(is_img2img: bool = False) -> list[Any]:
    """Makes the accordion. Returns the controls in the order of SETTINGS, which is that of the script's arguments.

    That of img2img has no preview, which is of txt2img's page, and none of what the page's script brings to life.
    """
    with tab(is_img2img):
        return _build(is_img2img)


def _build(is_img2img: bool) -> list[Any]:
    choices = offer.choices()  # before anything stands on the page, as reading folders may fail
    controls: dict[str, Any] = {}
    with _accordion(controls):
        gr.HTML(_LEAD, elem_id=elem_id("lead"))
        banner = library_panel.banner()
        controls["source"] = radio("source")
        words, followed = _followed(controls, has_chips=not is_img2img)
        if not is_img2img:
            preview_row.build()
        with gr.Row(elem_id=elem_id("strength_row")):
            controls["strength"] = slider("strength")
            start_from = presets_panel.Panel()
        start_from.fold()
        advanced = _advanced(controls)
        with gr.Accordion("OMS models", open=False, elem_id=elem_id("library")) as models:
            with gr.Row(elem_id=elem_id("module_row")):
                controls["module"] = dropdown("module", choices)
                refresh = ui_components.ToolButton(value="\U0001f504", elem_id=elem_id("module_refresh"))
            note = gr.HTML("", elem_id=elem_id("module_note"))
            panel = library_panel.build(models, banner)
        _follow_the_source(controls, [*followed, advanced])
        _keep_up_to_date(controls, refresh, note, panel)
        start_from.connect(controls)
        _fill_as_the_page_is_loaded(controls, words, start_from, note, panel)
    for setting in SETTINGS:
        controls[setting.name].value = setting.filled_in
    return [controls[setting.name] for setting in SETTINGS]


def _followed(controls: dict[str, Any], *, has_chips: bool) -> tuple[gr.HTML | None, list[Any]]:
    """What the source is given by. Returns the words of the prompt, where there are such, and the frames, in the order
    in which `_shown` speaks of them.
    """
    with gr.Column(elem_id=elem_id("prompt_frame")) as prompt:
        controls["prompt"] = textbox("prompt", "black background, one candle", lines=2, elem_classes=["prompt"])
        words = chips.build(controls) if has_chips else None
    with gr.Row(visible=False, elem_id=elem_id("given_row")) as row:
        with gr.Column(min_width=240):
            frames = {name: gr.Column(visible=False, elem_id=elem_id(f"{name}_frame")) for name in _GIVEN}
            with frames[COLOR]:
                controls[COLOR] = color_picker(COLOR)
            with frames[PICTURE]:
                controls[PICTURE] = given_panel.picture()
            with frames[BRUSH]:
                controls[BRUSH] = given_panel.brush()
            with frames[STYLE]:
                # One can be named that the page does not know yet: styles are looked up when a picture is made.
                controls[STYLE] = dropdown(STYLE, styles.names(), allow_custom_value=True)
            with frames[NONE]:
                gr.HTML(_SLIDERS)
        with gr.Column(min_width=240):
            controls["prompt_weight"] = slider("prompt_weight")
    return words, [prompt, row, *frames.values()]


def _advanced(controls: dict[str, Any]) -> gr.Accordion:
    """The sliders that most pictures do without; those that need no explanation come first."""
    label = "Advanced: brightness, color, exactness, layout, guidance, variation"
    with gr.Accordion(label, open=False, elem_id=elem_id("advanced")) as frame:
        for pair in (("brightness", "saturation"), ("quiet", "detail"), ("guidance_scale", "eta")):
            with gr.Row():
                for name in pair:
                    controls[name] = slider(name)
        controls["guidance_rescale"] = slider("guidance_rescale")
        controls["negative_prompt"] = textbox("negative_prompt", lines=2, interactive=False)
    guidance = controls["guidance_scale"]
    guidance.change(
        fn=lambda scale: gr.update(interactive=scale != 1),
        inputs=[guidance],
        outputs=[controls["negative_prompt"]],
        **AT_ONCE,
    )
    return frame


def _follow_the_source(controls: dict[str, Any], frames: list[Any]) -> None:
    """Shows what the source is given by, however that was chosen; the quiet noise that goes with it is set where a
    person chose it, as a pasted picture or a preset brings its own.
    """
    source, quiet = controls["source"], controls["quiet"]
    for control in (source, controls["prompt_weight"]):
        inputs = [source, controls["prompt_weight"]]
        control.change(fn=_shown, inputs=inputs, outputs=frames, **AT_ONCE)
    by_hand = gr.Textbox(visible=False, elem_id=elem_id("source_by_hand"))
    in_browser = {JS: _BY_HAND.format(elem_id("source"))}
    source.change(fn=_quiet, inputs=[source, by_hand], outputs=[quiet], **AT_ONCE, **in_browser)


def _shown(source: Any, prompt_weight: Any) -> list[Any]:
    mixed = source != PROMPT and bool(prompt_weight)
    visible = [source == PROMPT or mixed, source != PROMPT, *(source == name for name in _GIVEN)]
    return [
        *(gr.update(visible=is_shown) for is_shown in visible),
        gr.update(open=True) if source == NONE else gr.update(),
    ]


def _quiet(source: Any, by_hand: Any) -> Any:
    setting = BY_NAME["quiet"]
    return gr.update(value=setting.by_source.get(source, setting.default)) if by_hand else gr.update()


def _keep_up_to_date(controls: dict[str, Any], refresh: gr.Button, note: gr.HTML, panel: Panel) -> None:
    """Makes what depends on files and on the loaded checkpoint anew: by the refresh button; when a download ends; when
    the step is switched on; and the line below the dropdown also when another OMS model is chosen or pasted.
    """
    module = controls["module"]
    shown = {"fn": _now, "inputs": [module], "outputs": [module, note, *panel.shown], **AT_ONCE}
    controls["enabled"].change(**shown)
    refresh.click(**shown)
    for download in panel.downloads:
        download.then(**shown)
    module.change(fn=_note, inputs=[module], outputs=[note, panel.frame], **AT_ONCE)


def _fill_as_the_page_is_loaded(
    controls: dict[str, Any], words: gr.HTML | None, start_from: presets_panel.Panel, note: gr.HTML, panel: Panel
) -> None:
    """Makes all of it anew when the page is loaded, as what the server puts into every page is as it was at its start.

    By one event for the whole accordion: gradio 4.40 queues what a load calls, and loses what is asked for while it
    closes the stream of results, as it does in between when several are short.
    """
    # Another text at every load: its change is the one event of a page load that both generations of gradio have
    # wherever in the host's page the accordion stands.
    page_loaded = gr.Textbox(lambda: secrets.token_hex(8), visible=False, elem_id=elem_id("page_loaded"))
    module = controls["module"]
    shown = [module, note, *panel.shown, *start_from.shown, panel.running, *([] if words is None else [words])]

    def fill(chosen: Any) -> list[Any]:
        filled = [*_now(chosen), *presets_panel.now(), downloading.JOB.running_name]
        return filled if words is None else [*filled, chips.as_html()]

    page_loaded.change(fn=fill, inputs=[module], outputs=shown, **AT_ONCE)


def _note(module: Any) -> tuple[str, Any]:
    """The line below the dropdown, unfolded where it says that the chosen or pasted OMS model will not do."""
    fine, _ = module_note.told(module)
    return module_note.as_html(module), gr.update() if fine or module == AUTOMATIC else gr.update(open=True)


def _now(module: Any) -> tuple[Any, ...]:
    choices = gr.update(choices=offer.choices(str(module)))
    return choices, module_note.as_html(module), *library_panel.now()


def _accordion(controls: dict[str, Any]) -> Any:
    """The frame, entered as a context. Its own tick is `enabled` where the host can do that, else a box inside is."""
    setting = BY_NAME["enabled"]
    input_accordion = getattr(ui_components, "InputAccordion", None)
    if input_accordion is not None:
        controls["enabled"] = input_accordion(setting.default, label=setting.label, elem_id=elem_id("enabled"))
        return controls["enabled"]
    accordion = gr.Accordion(setting.label, open=False, elem_id=elem_id("accordion"))
    with accordion:
        controls["enabled"] = gr.Checkbox(
            setting.default, label=f"Enable {setting.label}", info=setting.help, elem_id=elem_id("enabled")
        )
    return accordion
