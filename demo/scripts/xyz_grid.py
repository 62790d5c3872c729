"""The X/Y/Z plot (host file: scripts/xyz_grid.py) with few axes of its own: extensions append theirs to `axis_options`.

As in the host: an axis' values are cast by its type and confirmed before the first picture; every cell gets a shallow
copy of p, which shares the dict of infotext; what goes wrong while a cell is made is printed, and the cell stays
black. Without the host's sub grids, counted ranges such as 1-10 [5], permutations, and buttons.
"""

import csv
import io
import math
import re
from collections import namedtuple
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from itertools import chain
from typing import Any

import gradio as gr
import numpy as np
from modules import errors, images, infotext_utils, processing, scripts, sd_models, sd_samplers, shared
from modules.processing import Processed, process_images
from PIL import Image, ImageDraw

AxisInfo = namedtuple("AxisInfo", ["axis", "values"])
_RANGE = re.compile(r"\s*([+-]?\d+(?:\.\d*)?)\s*-\s*([+-]?\d+(?:\.\d*)?)(?:\s*\(([+-]\d+(?:\.\d*)?)\))?\s*")


def apply_field(name: str) -> Callable:
    return lambda p, x, xs: setattr(p, name, x)


def apply_prompt(p: Any, x: str, xs: list[str]) -> None:
    if xs[0] not in p.prompt and xs[0] not in p.negative_prompt:
        raise RuntimeError(f"Prompt S/R did not find {xs[0]} in prompt or negative prompt.")
    p.prompt = p.prompt.replace(xs[0], x)
    p.negative_prompt = p.negative_prompt.replace(xs[0], x)


def apply_checkpoint(p: Any, x: str, xs: list[str]) -> None:
    p.override_settings["sd_model_checkpoint"] = sd_models.get_closet_checkpoint_match(x).name


def confirm_known(kind: str, find: Callable) -> Callable:
    """A check that `find` finds every value."""

    def confirm(p: Any, xs: list[str]) -> None:
        for x in xs:
            if find(x) is None:
                raise RuntimeError(f"Unknown {kind}: {x}")

    return confirm


def format_value_add_label(p: Any, opt: "AxisOption", x: Any) -> str:
    return f"{opt.label}: {format_value(p, opt, x)}"


def format_value(p: Any, opt: "AxisOption", x: Any) -> Any:
    return round(x, 8) if isinstance(x, float) else x


@dataclass(eq=False)
class AxisOption:
    """An axis: `type` casts a value's text, confirm(p, values) raises, apply(p, value, values) writes to a cell's p."""

    label: str
    type: Callable
    apply: Callable
    format_value: Callable = format_value_add_label
    confirm: Callable | None = None
    cost: float = 0.0
    choices: Callable | None = None
    prepare: Callable | None = None


class AxisOptionTxt2Img(AxisOption):
    is_img2img = False


axis_options = [
    AxisOption("Nothing", str, lambda p, x, xs: None, format_value=lambda p, opt, x: ""),
    AxisOption("Seed", int, apply_field("seed")),
    AxisOption("Steps", int, apply_field("steps")),
    AxisOption("CFG Scale", float, apply_field("cfg_scale")),
    AxisOption("Prompt S/R", str, apply_prompt, format_value),
    AxisOptionTxt2Img("Sampler", str, apply_field("sampler_name"), format_value,
                      confirm=confirm_known("sampler", sd_samplers.all_samplers_map.get),
                      choices=sd_samplers.visible_sampler_names),
    AxisOption("Checkpoint name", str, apply_checkpoint, format_value, cost=1.0, choices=sd_models.checkpoint_tiles,
               confirm=confirm_known("checkpoint", sd_models.get_closet_checkpoint_match)),
]


def list_to_csv_string(values: list[str]) -> str:
    with io.StringIO() as file:
        csv.writer(file).writerow(values)
        return file.getvalue().strip()


def csv_string_to_list_strip(text: str) -> list[str]:
    return [value.strip() for value in chain.from_iterable(csv.reader(io.StringIO(text), skipinitialspace=True))]


def values_of(p: Any, option: AxisOption, text: str) -> list:
    """The values of an axis, cast and confirmed."""
    if option.label == "Nothing":
        return [0]
    values = csv_string_to_list_strip(text)
    if option.type in (int, float):
        values = list(chain.from_iterable(_range(value, option.type) for value in values if value.strip()))
    values = [option.type(value) for value in values]
    if option.confirm is not None:
        option.confirm(p, values)
    return values


def _range(text: str, kind: type) -> list:
    """1-3 or 1-2 (+0.5) as the values it stands for."""
    match = _RANGE.fullmatch(text)
    if match is None:
        return [text]
    start, end, step = kind(match[1]), kind(match[2]), kind(match[3] or 1)
    return list(range(start, end + 1, step)) if kind is int else np.arange(start, end + step, step).tolist()


def draw_grid(cells: list[Image.Image], columns: list[str], rows: list[str], legend: bool, margin: int) -> Image.Image:
    """The cells row by row, with the values of their axes above and beside them."""
    width, height = map(max, zip(*(cell.size for cell in cells), strict=True))
    left = 160 if legend and any(rows) else 0
    top = 24 if legend and any(columns) else 0
    size = (left + len(columns) * (width + margin) - margin, top + len(rows) * (height + margin) - margin)
    grid = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(grid)
    for i, cell in enumerate(cells):
        column, row = i % len(columns), i // len(columns)
        grid.paste(cell, (left + column * (width + margin), top + row * (height + margin)))
    for i, text in enumerate(columns if top else []):
        draw.text((left + i * (width + margin) + 4, 6), _latin(text), fill="black")
    for i, text in enumerate(rows if left else []):
        draw.text((4, top + i * (height + margin) + height // 2), _latin(text), fill="black")
    return grid


def _latin(text: str) -> str:
    """What pillow's own font can draw; older ones raise at anything else."""
    return str(text).encode("latin-1", "replace").decode("latin-1")


class Script(scripts.Script):
    def title(self) -> str:
        return "X/Y/Z plot"

    def ui(self, is_img2img: bool) -> list:
        options = [o for o in axis_options if type(o) is AxisOption or o.is_img2img == is_img2img]
        self.current_axis_options = options
        axes, fields = [], []
        with gr.Group():
            for axis, first in (("X", 1), ("Y", 0), ("Z", 0)):
                with gr.Row():
                    made = self._axis(axis, options[first].label)
                axes.append(made)
                fields += [(made[0], f"{axis} Type"), (made[1], f"{axis} Values")]
        with gr.Row():
            draw_legend = gr.Checkbox(True, label="Draw legend", elem_id=self.elem_id("draw_legend"))
            lone = gr.Checkbox(False, label="Include Sub Images", elem_id=self.elem_id("include_lone_images"))
            sub_grids = gr.Checkbox(False, label="Include Sub Grids", visible=False)
            no_fixed = gr.Checkbox(False, label="Keep -1 for seeds", elem_id=self.elem_id("no_fixed_seeds"))
            vary = [gr.Checkbox(False, label=f"Vary seeds for {axis}", min_width=80) for axis in "XYZ"]
            csv_mode = gr.Checkbox(
                False, label="Use text inputs instead of dropdowns", elem_id=self.elem_id("csv_mode")
            )
        margin = gr.Slider(0, 500, 0, step=2, label="Grid margins (px)", elem_id=self.elem_id("margin_size"))
        for axis in axes:
            for trigger in (axis[0], csv_mode):
                trigger.change(fn=self._select_axis, inputs=[axis[0], csv_mode], outputs=axis[1:])
        self.infotext_fields = fields
        return [*chain.from_iterable(axes), draw_legend, lone, sub_grids, no_fixed, *vary, margin, csv_mode]

    def _axis(self, axis: str, first: str) -> list:
        key = axis.lower()
        labels = [option.label for option in self.current_axis_options]
        return [
            gr.Dropdown(labels, value=first, type="index", label=f"{axis} type", elem_id=self.elem_id(f"{key}_type")),
            gr.Textbox(label=f"{axis} values", lines=1, elem_id=self.elem_id(f"{key}_values")),
            gr.Dropdown([], label=f"{axis} values", visible=False, multiselect=True, interactive=True,
                        elem_id=self.elem_id(f"{key}_values_dropdown")),
        ]

    def _select_axis(self, index: int | None, csv_mode: bool) -> list:
        """Text or dropdown for the values, whichever the axis has."""
        choices = self.current_axis_options[index or 0].choices
        dropdown = choices is not None and not csv_mode
        return [
            gr.update(visible=not dropdown),
            gr.update(visible=dropdown, choices=choices() if dropdown else [], value=[]),
        ]

    def run(self, p: Any, *args: Any) -> Processed:
        """Arguments in the order of `ui`, which is the host's."""
        types, texts, chosen = (list(args[i:9:3]) for i in range(3))
        draw_legend, lone, _sub_grids, no_fixed_seeds, *vary, margin, csv_mode = args[9:]
        if not no_fixed_seeds:
            processing.fix_seed(p)
        options = [self.current_axis_options[i or 0] for i in types]
        for i, option in enumerate(options):
            if option.choices is not None and not csv_mode:
                texts[i] = list_to_csv_string(chosen[i])
        axes = [values_of(p, option, text) for option, text in zip(options, texts, strict=True)]
        for name, option, values in zip("xyz", options, axes, strict=True):
            setattr(shared.state, f"xyz_plot_{name}", AxisInfo(option, values))  # for extensions to see
        made = self._cells(p, options, axes, vary)
        template = next((processed for processed in made if processed.images), None)
        if template is None:
            return Processed(p, [])

        blank = Image.new("RGB", template.images[0].size)
        pictures = [processed.images[0] if processed.images else blank for processed in made]
        columns, rows, blocks = (
            [str(option.format_value(p, option, value)) for value in values]
            for option, values in zip(options, axes, strict=True)
        )
        rows = [f"{block} {row}".strip() for block in blocks for row in rows]
        grid = draw_grid(pictures, columns, rows, draw_legend, int(margin))
        text = self._infotext(template, options, texts)
        grid.info["parameters"] = text
        result = copy(template)
        result.images, result.infotexts, result.index_of_first_image = [grid], [text], 1
        if lone:
            result.images += pictures
            result.infotexts += [processed.infotexts[0] if processed.images else "" for processed in made]
        if shared.opts.grid_save and not p.do_not_save_grid:
            images.save_image(grid, p.outpath_grids or shared.opts.outdir_txt2img_grids, "xyz_grid", info=text)
        return result

    def _cells(self, p: Any, options: list[AxisOption], axes: list[list], vary: list[bool]) -> list[Processed]:
        """One generation for every combination: x changes fastest, then y, then z. They are made in another order, so
        that what is slow to change is changed seldom.
        """
        counts = [len(values) for values in axes]
        shared.state.job_count = math.prod(counts) * p.n_iter
        order = sorted(range(3), key=lambda axis: (-options[axis].cost, -axis))
        cells = {}
        for numbers in np.ndindex(*(counts[axis] for axis in order)):
            x, y, z = (numbers[order.index(axis)] for axis in range(3))
            pc = copy(p)
            pc.styles = pc.styles[:]
            for option, values, i in zip(options, axes, (x, y, z), strict=True):
                option.apply(pc, values[i], values)
            columns = counts[0] if vary[0] else 1
            rows = counts[1] if vary[1] else 1
            pc.seed += x * vary[0] + y * vary[1] * columns + z * vary[2] * columns * rows
            try:
                cells[z, y, x] = process_images(pc)
            except Exception:
                errors.report("Error generating image for xyz plot", exc_info=True)
                cells[z, y, x] = Processed(p, [])
        return [cells[place] for place in sorted(cells)]

    def _infotext(self, template: Processed, options: list[AxisOption], texts: list[str]) -> str:
        """The first picture's, with what the axes were."""
        facts = {"Script": self.title()}
        for axis, option, text in zip("XYZ", options, texts, strict=True):
            if option.label != "Nothing":
                facts |= {f"{axis} Type": option.label, f"{axis} Values": text}
        return ", ".join([template.infotexts[0], *(f"{k}: {infotext_utils.quote(v)}" for k, v in facts.items())])
