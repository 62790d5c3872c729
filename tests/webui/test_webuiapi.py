"""The extension through webuiapi, the client library of people's own programs; and the examples in examples/api."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser_helpers import MODEL, ROOT, DemoProcess, brightness

pytest.importorskip("gradio")
webuiapi = pytest.importorskip("webuiapi")

EXAMPLES = sorted((ROOT / "examples" / "api").glob("*.json"))
PICTURE = {"prompt": "a red circle", "seed": 1, "steps": 20, "cfg_scale": 3, "width": 256, "height": 256}
QUICK = {**PICTURE, "steps": 2}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with DemoProcess(tmp_path_factory.mktemp("demo"), "--api-only") as demo:
        yield webuiapi.WebUIApi(host="127.0.0.1", port=demo.port, sampler="Euler")


def oms(*args: Any) -> dict:
    return {"alwayson_scripts": {"One More Step": {"args": list(args)}}}


def infotext(result: Any) -> str:
    (text,) = result.info["infotexts"]
    assert result.image.info["parameters"] == text
    return text


def test_black_background_is_dark_and_white_background_is_bright(api: Any) -> None:
    raw = api.txt2img(**PICTURE)
    black = api.txt2img(**PICTURE, **oms(True, "Automatic", "black background"))
    white = api.txt2img(**PICTURE, **oms({"prompt": "white background"}))
    assert raw.image.size == (256, 256)
    assert "OMS" not in infotext(raw)
    assert "OMS prompt: black background" in infotext(black)
    assert "OMS prompt: white background" in infotext(white)
    assert brightness(black.image) < 0.2  # the circle is a part of it
    assert brightness(black.image) < brightness(raw.image) - 0.2
    assert brightness(white.image) > 0.75
    assert brightness(white.image) > brightness(raw.image) + 0.2


def test_list_short_list_and_dict_are_one_request(api: Any) -> None:
    calls = [
        oms(True, "Automatic", "night", 1.0, 0.0, ""),
        oms(True, "Automatic", "night"),
        oms({"prompt": "night"}),
        oms(True, {"prompt": "night"}),
        oms({"enabled": True, "module": MODEL.name, "prompt": "night", "guidance_scale": 1, "eta": 0}),
    ]
    results = [api.txt2img(**QUICK, **call) for call in calls]
    texts = [infotext(result) for result in results]
    assert len(set(texts[:-1])) == 1
    assert texts[0].replace(", OMS model choice: Automatic", "") == texts[-1]
    assert len({result.image.tobytes() for result in results}) == 1
    assert results[0].parameters["alwayson_scripts"] == calls[0]["alwayson_scripts"]


def test_off_and_not_mentioned_are_the_same(api: Any) -> None:
    plain = api.txt2img(**QUICK)
    for call in (oms(False), oms(), oms({"enabled": False, "prompt": "night"})):
        assert infotext(api.txt2img(**QUICK, **call)) == infotext(plain)


def test_every_picture_of_a_batch_is_there(api: Any) -> None:
    result = api.txt2img(**QUICK, **oms(True), batch_size=2)
    assert len(result.images) >= 2
    assert result.info["all_seeds"] == [1, 2]
    assert all("OMS: True" in text for text in result.info["infotexts"])


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((True, "Automatic", "", 99), "OMS guidance scale (guidance_scale): 99 is not allowed, only a number from 0"),
        (("yes",), "OMS (enabled): 'yes' is not allowed, only true or false"),
        (({"eta": 2},), "OMS eta (eta): 2 is not allowed, only a number from 0 to 1"),
        (({"cfg": 2},), "there is no setting 'cfg'. Allowed are enabled, module"),
        ((True, "no such module"), "there is no OMS model named 'no such module'"),
    ],
)
def test_a_bad_value_is_an_error_that_says_what_is_wrong(api: Any, args: tuple, words: str) -> None:
    with pytest.raises(RuntimeError) as error:
        api.txt2img(**QUICK, **oms(*args))
    status, body = error.value.args
    assert status == 500
    assert words in json.loads(body)["errors"]
    assert words in str(error.value).replace("\\", "")  # what a program shows that just prints the exception


def test_the_lists_that_the_client_asks_for(api: Any) -> None:
    assert "one more step" in api.get_scripts()["txt2img"]
    assert "one more step" not in api.get_scripts()["img2img"]
    assert {"Euler", "Euler a", "DDIM", "UniPC", "LCM"} <= set(api.util_get_sampler_names())
    assert "karras" in api.util_get_scheduler_names()
    assert api.util_get_current_model() in api.util_get_model_names()
    assert [lora["name"] for lora in api.get_loras()]
    assert "oms_models_dir" in api.get_cmd_flags()
    assert api.get_progress()["state"]["job_count"] == 0
    api.util_wait_for_ready(check_interval=0.1)


def test_every_sampler_that_the_client_lists_takes_the_step(api: Any) -> None:
    for sampler in api.util_get_sampler_names():
        text = infotext(api.txt2img(**{**QUICK, "steps": 3}, sampler_name=sampler, **oms(True)))
        assert f"Sampler: {sampler}" in text
        assert "OMS: True" in text, text


def test_options_are_set_and_read_back(api: Any) -> None:
    before = api.get_options()["sgm_noise_multiplier"]
    api.set_options({"sgm_noise_multiplier": not before})
    assert api.get_options()["sgm_noise_multiplier"] is not before
    api.set_options({"sgm_noise_multiplier": before})
    api.util_set_model(api.util_get_current_model())
    assert api.util_get_current_model() in api.util_get_model_names()


def test_png_info_gives_the_infotext_and_the_settings_in_it(api: Any) -> None:
    made = api.txt2img(**QUICK, **oms({"prompt": 'night, "stars": many', "eta": 0.5}))
    read = api.png_info(made.image)
    assert read.info == infotext(made)
    assert read.parameters["OMS"] == "True"
    assert read.parameters["OMS prompt"] == 'night, "stars": many'
    assert read.parameters["OMS eta"] == "0.5"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_example(api: Any, example: Path) -> None:
    request = json.loads(example.read_text(encoding="utf-8"))
    result = api.txt2img(**{"width": 256, "height": 256, **request})
    assert "OMS: True" in infotext(result)
    assert brightness(result.image) < 0.15


def test_there_is_an_example_of_each_way_to_call() -> None:
    assert [example.name for example in EXAMPLES] == ["dict.json", "list.json", "short-list.json"]
