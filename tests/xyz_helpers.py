"""The X/Y/Z plot of a running WebUI, over the API."""

from __future__ import annotations

from typing import Any

from extension_helpers import Made, WebUI

STEPS = 1


def axis_labels(webui: WebUI, *, img2img: bool = False) -> list[str]:
    info = webui.get("/sdapi/v1/script-info").json()
    (plot,) = [script for script in info if script["name"] == "x/y/z plot" and script["is_img2img"] == img2img]
    return plot["args"][0]["choices"]


def plot(webui: WebUI, *axes: tuple[str, Any], oms: tuple = (), **fields: Any) -> Made:
    """A plot over up to three (label, values); a list stands for what is picked in the dropdown of choices."""
    labels = axis_labels(webui)
    args: list[Any] = []
    for label, values in (*axes, *[("Nothing", "")] * (3 - len(axes))):
        args += [labels.index(label), *((values, []) if isinstance(values, str) else ("", values))]
    dropdowns = any(isinstance(values, list) for _, values in axes)
    args += [True, True, False, False, False, False, False, 0, not dropdowns]
    return webui.txt2img(*oms, **quick(fields), script_name="X/Y/Z plot", script_args=args)


def quick(fields: dict) -> dict:
    return {"sampler_name": "Euler", "steps": STEPS, **fields}


def cells(made: Made) -> list[str]:
    """The infotext of each cell; the first picture is the grid."""
    return made.info["infotexts"][1:]
