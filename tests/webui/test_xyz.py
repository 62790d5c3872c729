"""The axes in the X/Y/Z plot of a running WebUI: what each cell gets, what is refused, and nothing left over."""

from collections.abc import Callable

import pytest
import torch
from browser_helpers import host_style
from extension_helpers import RequestFailed, WebUI
from untrained_helpers import place_untrained
from xyz_helpers import axis_labels, cells, plot, quick

from lib_oms.settings import SETTINGS

pytest.importorskip("gradio")

NAME = "untrained"
SWITCH, MODEL, PROMPT, REPLACE, SCALE, ETA, NEGATIVE, SOURCE, COLOR, *_ = AXES = [
    "One More Step",
    "OMS model",
    "OMS prompt",
    "OMS prompt S/R",
    "OMS guidance scale",
    "OMS eta",
    "OMS negative prompt",
    "OMS source",
    "OMS color",
    "OMS picture",
    "OMS brush",
    "OMS prompt weight",
    "OMS strength",
    "OMS detail",
    "OMS quiet",
    "OMS guidance rescale",
    "OMS brightness",
    "OMS saturation",
    "OMS style",
]
QUIET = "OMS quiet"


@pytest.fixture(scope="module")
def webui(start_webui: Callable[..., WebUI], tmp_path_factory: pytest.TempPathFactory) -> WebUI:
    folder = place_untrained(tmp_path_factory.mktemp("models") / NAME)
    (folder.parent / "truncated.safetensors").write_bytes(b"\x00" * 20)
    return start_webui(host_style(), model=folder)


def test_every_setting_is_an_axis_of_txt2img_and_of_no_other_tab(webui: WebUI) -> None:
    assert [label for label in axis_labels(webui) if label in AXES] == AXES
    others = {setting.infotext for setting in SETTINGS if setting.name != "enabled"}
    assert {"One More Step"} | others == set(AXES) - {REPLACE}
    assert not set(axis_labels(webui, img2img=True)) & set(AXES)


def test_axes_stand_there_once_however_often_the_page_is_made(webui: WebUI) -> None:
    from lib_oms.webui import xyz

    (host_plot,) = xyz._plots()
    before = [option.label for option in host_plot.axis_options]
    xyz.register()
    assert [option.label for option in host_plot.axis_options] == before
    assert len(set(before)) == len(before)


def test_a_plot_of_another_make_does_not_stop_the_extension(webui: WebUI, capfd: pytest.CaptureFixture[str]) -> None:
    from lib_oms.webui import xyz

    (host_plot,) = xyz._plots()
    kept = host_plot.axis_options
    host_plot.axis_options = ("no", "options")
    try:
        xyz.register()
    finally:
        host_plot.axis_options = kept
    assert "could not add its axes" in capfd.readouterr().err


def test_cells_are_what_requests_with_these_values_are(webui: WebUI) -> None:
    made = plot(webui, (SCALE, "1, 2.5"), (PROMPT, '"night, stars", day'), oms=(True, NAME, "unused"))
    wanted = [(scale, prompt) for prompt in ("night, stars", "day") for scale in (1.0, 2.5)]
    for infotext, pixels, (scale, prompt) in zip(cells(made), made.pixels[1:], wanted, strict=True):
        single = webui.txt2img(True, NAME, prompt, scale, **quick({}))
        assert infotext == single.infotext
        assert pixels == single.pixels[0]
    assert 'X Type: OMS guidance scale, X Values: "1, 2.5", Y Type: OMS prompt' in made.infotext


def test_sources_and_whole_numbers_are_axes_like_any(webui: WebUI) -> None:
    made = plot(webui, (SOURCE, ["color", "none"]), (QUIET, "1-5 (+4)"), oms=({"color": "#336699"},))
    wanted = [
        {"source": source, "color": "#336699", "quiet": quiet} for quiet in (1, 5) for source in ("color", "none")
    ]
    for infotext, pixels, asked in zip(cells(made), made.pixels[1:], wanted, strict=True):
        single = webui.txt2img(asked, **quick({}))
        assert infotext == single.infotext
        assert pixels == single.pixels[0]
    colors = plot(webui, (COLOR, "#112233, #ddeeff"), oms=({"source": "color", "color": "#000000"},))
    assert ["#112233" in text for text in cells(colors)] == [True, False]


def test_an_axis_asks_for_the_step_and_the_switch_has_the_last_word(webui: WebUI) -> None:
    plain = webui.txt2img(**quick({}))
    asked = plot(webui, (ETA, "0, 0.5"))
    assert ["OMS: True" in text for text in cells(asked)] == [True, True]
    switched = plot(webui, (SWITCH, "True, false, TRUE"), (ETA, "0.5"))
    assert ["OMS: True" in text for text in cells(switched)] == [True, False, True]
    assert cells(switched)[1] == plain.infotext
    assert switched.pixels[2] == plain.pixels[0]
    assert switched.pixels[1] == switched.pixels[3] == asked.pixels[2]
    off = plot(webui, ("CFG Scale", "1, 3"), oms=(False, "no such module"))
    assert not any("OMS" in text for text in cells(off))


def test_nothing_is_left_over_for_the_next_generation(webui: WebUI) -> None:
    before = webui.txt2img(True, NAME, "night", **quick({}))
    plain = webui.txt2img(**quick({}))
    plot(webui, (PROMPT, "day"), (SCALE, "3"), (NEGATIVE, "x"), oms=(True, NAME, "night"))
    with pytest.raises(RequestFailed):
        plot(webui, (ETA, "7"), (SCALE, "3"), oms=(True, NAME, "night"))
    assert webui.txt2img(**quick({})).images == plain.images
    assert webui.txt2img(True, NAME, "night", **quick({})).images == before.images


def test_leftovers_of_a_cell_do_not_reach_the_next_cells_infotext(webui: WebUI) -> None:
    """The host's cells share one dict of infotext."""
    made = plot(webui, (SWITCH, ["True", "False"]), ("Sampler", ["Euler"]))
    assert "OMS" in cells(made)[0]
    assert "OMS" not in cells(made)[1]
    skipped = plot(webui, ("Steps", "1, 2"), oms=(True, NAME), sampler_name="DDIM")
    assert "OMS skipped" in cells(skipped)[0]
    assert "OMS skipped" not in cells(skipped)[1]
    assert "OMS: True" in cells(skipped)[1]


def test_search_and_replace(webui: WebUI) -> None:
    made = plot(webui, (REPLACE, "night, day, 3"), oms=(True, NAME, "a night, night sky"))
    prompts = ["a night, night sky", "a day, day sky", "a 3, 3 sky"]
    singles = [webui.txt2img(True, NAME, prompt, **quick({})) for prompt in prompts]
    assert cells(made) == [single.infotext for single in singles]
    assert torch.equal(made.seen[1].x, singles[1].seen[0].x)


@pytest.mark.parametrize("first", [REPLACE, PROMPT])
def test_search_and_replace_in_the_prompts_of_another_axis(webui: WebUI, first: str) -> None:
    axes = [(REPLACE, "night, day"), (PROMPT, "night sky, black night")]
    if first == PROMPT:
        axes.reverse()
    made = plot(webui, *axes, oms=(True, NAME, "night"))
    prompts = {text.split("OMS prompt: ")[1].split(",")[0] for text in cells(made)}
    assert prompts == {"night sky", "day sky", "black night", "black day"}


def test_two_replacements(webui: WebUI) -> None:
    made = plot(webui, (REPLACE, "night, day"), (REPLACE, "sky, sea"), oms=(True, NAME, "night sky"))
    assert [text.split("OMS prompt: ")[1].split(",")[0] for text in cells(made)] == [
        "night sky", "day sky", "night sea", "day sea"
    ]  # fmt: skip


def test_model_axis_offers_what_can_be_used(webui: WebUI) -> None:
    from lib_oms.webui import xyz

    (host_plot,) = xyz._plots()
    (option,) = [option for option in host_plot.axis_options if option.label == MODEL]
    offered = option.choices()
    assert offered[0] == "Automatic"
    assert NAME in offered
    assert "truncated" not in offered
    assert option.cost > 0  # else it would be loaded anew for every cell
    made = plot(webui, (MODEL, [NAME]), (SCALE, "1, 2"))
    assert all(f"OMS model: {NAME} [" in text for text in cells(made))


def test_ranges_do_not_show_how_floats_are_added(webui: WebUI) -> None:
    made = plot(webui, (ETA, "0-0.3 (+0.1)"), oms=(True, NAME))
    assert [text.split("OMS eta: ")[1].split(",")[0] for text in cells(made)] == ["0.0", "0.1", "0.2", "0.3"]


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ([(SCALE, "1, 11")], ["OMS guidance scale", "11", "from 0 to 10"]),
        ([("CFG Scale", "1"), (ETA, "-0.5")], ["OMS eta", "-0.5", "from 0 to 1"]),
        ([(ETA, "nan")], ["OMS eta", "nan"]),
        ([(QUIET, "1, 17")], ["OMS quiet", "17", "a whole number from 0 to 16"]),
        ([(SOURCE, "color, colour")], ["'colour'", "Did you mean 'color'?"]),
        ([(COLOR, "#000000, red")], ["'red'", "#336699"]),
        ([(SCALE, "much")], ["much"]),
        ([(SCALE, "")], ["OMS guidance scale", "no values"]),
        ([(SWITCH, "True, perhaps")], ["OMS (enabled)", "'perhaps'", "true or false"]),
        ([(MODEL, "Automatic, lost")], ["no OMS model named 'lost'", "Automatic", NAME]),
        ([(MODEL, ["truncated"])], ["truncated", "cannot be used"]),
        ([(MODEL, "../models/demo")], ["no OMS model named"]),
        ([(REPLACE, "dusk, dawn")], ["OMS prompt S/R", "'dusk'", "'night'"]),
        ([(REPLACE, '"", dawn')], ["OMS prompt S/R", "empty"]),
        ([(REPLACE, "night, day"), (PROMPT, "noon")], ["'night'", "'noon'"]),
    ],
)
def test_wrong_values_are_refused_before_the_first_picture(webui: WebUI, axes: list, words: list[str]) -> None:
    with pytest.raises(RequestFailed) as error:
        plot(webui, *axes, oms=(True, NAME, "night"))
    for word in words:
        assert word in str(error.value)


def test_replacing_in_no_prompt_at_all_says_so(webui: WebUI) -> None:
    with pytest.raises(RequestFailed, match="which is empty"):
        plot(webui, (REPLACE, "night, day"), oms=(True, NAME))
