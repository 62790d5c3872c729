"""The host's styles in OMS prompts, in a running WebUI with a styles.csv."""

from collections.abc import Callable
from pathlib import Path

import pytest
import requests
import torch
from extension_helpers import RequestFailed, WebUI

pytest.importorskip("gradio")

STYLES = """name,prompt,negative_prompt
Noir,"black and white, {prompt}, film noir",color
Fog,"fog, mist",sun
Nothing,,
"""


@pytest.fixture(scope="module")
def webui(start_webui: Callable[..., WebUI], tmp_path_factory: pytest.TempPathFactory) -> WebUI:
    home = tmp_path_factory.mktemp("home")
    (home / "webui" / "data").mkdir(parents=True)
    Path(home / "webui" / "data" / "styles.csv").write_text(STYLES, encoding="utf-8")
    return start_webui(folder=home)


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("night, [STYLE: Fog]", "night, fog, mist"),
        ("[STYLE:Fog], night", "night, fog, mist"),
        ("[STYLE: Noir] a street", "black and white, a street, film noir"),
        ("a street [STYLE: Fog] at night, [STYLE: Noir]", "black and white, a street at night, fog, mist, film noir"),
        ("[PROMPT], [STYLE: Noir]", "black and white, a red circle, film noir"),
        ("[STYLE: Nothing]", "a red circle"),  # empty: the main prompt
        ("[style: Fog]", "[style: Fog]"),
    ],
)
def test_a_style_is_put_in_by_its_name(webui: WebUI, asked: str, meant: str) -> None:
    made, same = (webui.txt2img({"prompt": text}, sampler_name="Euler") for text in (asked, meant))
    assert torch.equal(made.seen[0].x, same.seen[0].x)
    assert "STYLE" not in made.infotext
    again = webui.txt2img(infotext=made.infotext, styles=[], sampler_name="Euler")
    assert torch.equal(again.seen[0].x, made.seen[0].x)


def test_a_preview_has_it_too(webui: WebUI) -> None:
    named, same = (
        requests.post(f"{webui.url}/oms/v1/preview", json={"seed": 1, "oms": {"prompt": text}}, timeout=120)
        for text in ("night, [STYLE: Fog]", "night, fog, mist")
    )
    assert named.status_code == 200, named.text
    assert named.json()["image"] == same.json()["image"]


def test_of_a_style_the_negative_text_goes_into_the_negative_prompt(webui: WebUI) -> None:
    made = webui.txt2img(
        {"prompt": "night", "guidance_scale": 2, "negative_prompt": "[STYLE: Fog]"}, sampler_name="Euler"
    )
    assert "OMS negative prompt: sun" in made.infotext


def test_the_chosen_styles_are_in_the_main_prompt_that_is_followed(webui: WebUI) -> None:
    chosen = webui.txt2img({}, styles=["Fog"], sampler_name="Euler")
    named = webui.txt2img({"prompt": "a red circle, fog, mist"}, styles=["Fog"], sampler_name="Euler")
    assert torch.equal(chosen.seen[0].x, named.seen[0].x)


@pytest.mark.parametrize("name", ["Fogg", "", "../x"])
def test_a_style_that_is_not_there_ends_the_request(webui: WebUI, name: str) -> None:
    with pytest.raises(RequestFailed, match=r"OMS prompt \(prompt\): the WebUI has no style") as error:
        webui.txt2img({"prompt": f"night [STYLE: {name}]"}, sampler_name="Euler")
    assert ("Did you mean 'Fog'?" in str(error.value)) == (name == "Fogg")
