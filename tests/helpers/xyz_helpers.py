"""The X/Y/Z plot of a running WebUI, over the API."""

from __future__ import annotations

from typing import Any

from extension_helpers import Made, WebUI

STEPS = 1


def controls(webui: WebUI, *, img2img: bool = False) -> list[dict[str, Any]]:
    """Three for each axis, and then what hosts differ in."""
    info = webui.get("/sdapi/v1/script-info").json()
    (plot,) = [script for script in info if script["name"] == "x/y/z plot" and script["is_img2img"] == img2img]
    return plot["args"]


def axis_labels(webui: WebUI, *, img2img: bool = False) -> list[str]:
    return controls(webui, img2img=img2img)[0]["choices"]


def plot(webui: WebUI, *axes: tuple[str, Any], oms: tuple = (), **fields: Any) -> Made:
    """A plot over up to three (label, values); a list stands for what is picked in the dropdown of choices."""
    own = controls(webui)
    labels = own[0]["choices"]
    args: list[Any] = []
    for label, values in (*axes, *[("Nothing", "")] * (3 - len(axes))):
        args += [labels.index(label), *((values, []) if isinstance(values, str) else ("", values))]
    dropdowns = any(isinstance(values, list) for _, values in axes)
    chosen = {"Include Sub Images": True, "Use text inputs instead of dropdowns": not dropdowns}
    args += [chosen.get(control["label"], control["value"]) for control in own[len(args) :]]
    return webui.txt2img(*oms, **quick(fields), script_name="X/Y/Z plot", script_args=args)


def quick(fields: dict) -> dict:
    return {"sampler_name": "Euler", "steps": STEPS, **fields}


def cells(made: Made) -> list[str]:
    """The infotext of each cell; the first picture is the grid."""
    return made.info["infotexts"][1:]
