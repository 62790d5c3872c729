"""Infotext through the host's own writing and reading: any text comes back, and what past versions wrote is read."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from extension_helpers import ROOT, WebUI
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from module_helpers import tiny_psi
from settings_helpers import UNSAID

from lib_oms.settings import SETTINGS, OMSSettings, from_infotext

pytest.importorskip("gradio")

PAST = json.loads((ROOT / "tests" / "data" / "infotexts.json").read_text(encoding="utf-8"))
"""What versions of the extension have written, and what it means. Rows are added, never changed or removed."""


def meant(row: dict) -> dict:
    """All settings of a row; those of later versions are as they were, or left alone with the others."""
    left_alone = row["settings"]["eta"] is None
    return (dict.fromkeys(UNSAID) if left_alone else UNSAID) | row["settings"]


PIECES = [
    '"',
    ",",
    ":",
    "\n",
    "\\",
    "'",
    " ",
    "\t",
    "x",
    "512x768",
    "OMS: True",
    "Negative prompt: ",
    "Steps: 20, ",
    "OMS eta: 1.0",
    "<lora:a:1>",
    '"a", ',
    "{}",
    "[a:b:0.5]",
    "夜",
    "OMS prompt",
    "\\n",
    '\\"',
    "\r",
    "True",
]
texts = st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=7).map("".join)
foreign_texts = texts.filter(lambda text: '"' not in text or re.search("[,:\\n]", text))
"""What other extensions write. Not a bare quote: two of them swallow whatever stands between, by the host's grammar."""
module_names = st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=12)
asked = st.builds(
    OMSSettings,
    enabled=st.just(True),
    prompt=texts,
    guidance_scale=st.floats(0, 10),
    eta=st.floats(0, 1),
    negative_prompt=texts,
    source=st.sampled_from(["prompt", "color", "none"]),
    color=st.from_regex("#[0-9a-f]{6}", fullmatch=True),
    prompt_weight=st.floats(0.05, 1),
    strength=st.floats(0, 2),
    detail=st.integers(1, 16),
    quiet=st.integers(0, 16),
    guidance_rescale=st.floats(0, 1),
    brightness=st.floats(-1, 1),
    saturation=st.floats(-1, 1),
)


def written(prompt: str, negative_prompt: str, params: dict[str, str]) -> str:
    """The infotext that the host writes for a picture."""
    from modules import processing

    p = processing.StableDiffusionProcessingTxt2Img(prompt=prompt, negative_prompt=negative_prompt)
    p.setup_prompts()
    p.extra_generation_params.update(params)
    return processing.create_infotext(p, p.all_prompts, [1], [1])


def read(infotext: str) -> dict[str, Any]:
    from modules import infotext_utils

    params = infotext_utils.parse_generation_parameters(infotext)
    return {setting.name: from_infotext(setting, params) for setting in SETTINGS}


@given(asked, texts, texts, module_names, foreign_texts)
@example(OMSSettings(True, prompt='"abc', negative_prompt='"'), "", "", "m", '"')
@example(OMSSettings(True, prompt="512x768\n", negative_prompt="0x0"), "", "", "m", "1x1")
@example(OMSSettings(True, prompt='abc"'), "", "", "m", '"open')
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_setting_comes_back_whatever_stands_around_it(
    webui: WebUI, oms: OMSSettings, prompt: str, negative_prompt: str, module: str, foreign: str
) -> None:
    module = f"m{module.strip()} [0123456789]"
    params = {"Other extension": foreign or None, **oms.to_infotext(module), "Another one": foreign or None}
    got = read(written(prompt, negative_prompt, params))
    wanted = {s.name: getattr(oms, s.name) if s.acts(oms.source) else s.before for s in SETTINGS}
    assert got == {**{name: _without_end(value) for name, value in wanted.items()}, "module": module}


def _without_end(value: Any) -> Any:
    """Without the line break after a size, the one thing that the host's reader loses."""
    return value[:-1] if isinstance(value, str) and re.fullmatch(r"\d+x\d+\n", value) else value


@given(asked)
@settings(
    max_examples=8,
    deadline=None,
    phases=set(Phase) - {Phase.shrink},
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_the_infotext_of_a_request_makes_the_same_infotext(webui: WebUI, oms: OMSSettings) -> None:
    fields = {"sampler_name": "Euler", "steps": 1}
    first = webui.txt2img(oms.as_dict(), **fields)
    again = webui.txt2img(infotext=first.infotext, styles=[], **fields)
    assert again.infotext == first.infotext
    assert again.pixels == first.pixels


@pytest.mark.parametrize("row", PAST, ids=[row["form"] for row in PAST])
def test_past_infotexts_are_read(webui: WebUI, row: dict) -> None:
    assert read(row["infotext"]) == meant(row)


def test_what_is_written_today_stands_in_the_table(webui: WebUI) -> None:
    """Whoever changes the form keeps the old row and adds a new one."""
    rows = [row for row in PAST if row["form"].startswith(("0.1.0, everything set", "0.1.0, quotes, colon"))]
    assert len(rows) == 2
    for row in rows:
        params = OMSSettings(**row["settings"]).to_infotext(row["settings"]["module"])
        line = written("a red circle", "", params).splitlines()[-1]
        start = row["infotext"].index("OMS: True")
        assert row["infotext"][start:].removesuffix(", Version: demo") in line


@pytest.mark.parametrize("row", PAST, ids=[row["form"] for row in PAST])
def test_past_infotexts_in_a_request_are_taken(webui: WebUI, row: dict) -> None:
    """`False` included: a picture made without the step is made without it again."""
    (label,) = {name for name in _modules() if name.startswith("untrained [")}
    infotext = row["infotext"]
    for module in ("demo [05b3c3aeb4]", "sub/folder, v2 [05b3c3aeb4]"):
        infotext = infotext.replace(module, label)
    answer = webui.txt2img(infotext=infotext, styles=[], steps=1, width=64, height=64, sampler_name="Euler").infotext
    line = answer.splitlines()[-1]
    assert ("OMS: True" in line) == row["settings"]["enabled"]
    if row["settings"]["enabled"]:
        assert read(answer) == {**meant(row), "module": label}


def pasted(infotext: str) -> str:
    """The module that the page chooses, and the API takes, for this infotext."""
    from modules import infotext_utils, scripts

    params = infotext_utils.parse_generation_parameters(infotext)
    fields = scripts.scripts_txt2img.infotext_fields
    (value,) = (read(params) for field, read in fields if getattr(field, "elem_id", "") == "oms_module")
    assert value["value"] in value["choices"], "a dropdown sends what it does not show"
    return value["value"]


def test_automatic_comes_back_as_automatic_and_a_name_as_a_name(webui: WebUI) -> None:
    fields = {"sampler_name": "Euler", "steps": 1}
    automatic = webui.txt2img(True, "Automatic", "night", **fields)
    named = webui.txt2img(True, "untrained", "night", **fields)
    assert automatic.infotext.replace(", OMS model choice: Automatic", "") == named.infotext
    assert automatic.pixels == named.pixels
    assert pasted(automatic.infotext) == "Automatic"
    assert pasted(named.infotext) == "untrained"
    again = webui.txt2img(infotext=automatic.infotext, styles=[], **fields)
    assert (again.infotext, again.pixels) == (automatic.infotext, automatic.pixels)
    assert webui.txt2img(infotext=named.infotext, styles=[], **fields).infotext == named.infotext


def test_what_was_automatic_is_named_where_automatic_would_be_another_module_now(
    webui: WebUI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lib_oms.webui import host

    made = webui.txt2img(True, "Automatic", "night", sampler_name="Euler", steps=1)
    tiny = {"oms.latents": "oms-demo", "oms.text_encoder": "openclip"}
    tiny_psi(24, metadata=tiny).save_pretrained(tmp_path / "a-smaller-one" / "oms_module")
    folders = host.module_folders()
    monkeypatch.setattr(host, "module_folders", lambda: [*folders, tmp_path])
    assert pasted(made.infotext) == "untrained"
    shutil.rmtree(tmp_path / "a-smaller-one")
    (own,) = (folder for folder in folders if (folder / "untrained").is_dir())
    shutil.copytree(own / "untrained" / "oms_module", tmp_path / "a-copy" / "oms_module")
    assert pasted(made.infotext) == "Automatic", "it would be a copy of the same"
    assert (
        pasted(made.infotext.replace("OMS model: untrained [", "OMS model: gone [1"))
        == "gone [1" + re.search(r"untrained \[(\w{10}\])", made.infotext)[1]
    )
    # Before a checkpoint is loaded nothing contradicts it; for another one, Automatic is another module.
    monkeypatch.setattr(host, "latents_now", lambda: None)
    assert pasted(made.infotext) == "Automatic"
    monkeypatch.setattr(host, "latents_now", lambda: "sdxl")
    assert pasted(made.infotext) == "untrained"


def _modules() -> list[str]:
    from lib_oms.webui import offer

    return [offer.label(entry) for entry in offer.entries() if not entry.problem]


def test_false_in_a_request_wins_over_infotext_and_true_over_none(webui: WebUI) -> None:
    fields = {"steps": 1, "sampler_name": "Euler", "styles": []}
    on, off = PAST[1]["infotext"].replace("demo [05b3c3aeb4]", "Automatic"), PAST[9]["infotext"]
    assert "OMS: True" in webui.txt2img(infotext=on, **fields).infotext
    assert "OMS" not in webui.txt2img(False, infotext=on, **fields).infotext
    assert "OMS: True" in webui.txt2img(True, infotext=off, **fields).infotext.splitlines()[-1]


def test_params_txt_of_a_plain_request_after_one_with_the_step(webui: WebUI) -> None:
    webui.txt2img(True, "Automatic", "night", steps=1)
    webui.txt2img(steps=1)
    assert "OMS" not in Path(webui.folder / "data" / "params.txt").read_text(encoding="utf-8")
