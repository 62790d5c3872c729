"""The list of settings: what is allowed in, what is refused and how, and the way through infotext and back."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from settings_helpers import UNSAID

from lib_oms.errors import SettingError
from lib_oms.settings import SETTINGS, FilledIn, OMSSettings, from_infotext

FIRST = ["enabled", "module", "prompt", "guidance_scale", "eta", "negative_prompt"]
"""The settings of version 0.2."""
NAMES = [
    *FIRST,
    *("source", "color", "picture", "brush", "prompt_weight", "strength", "detail", "quiet", "guidance_rescale"),
    *("brightness", "saturation", "style"),
]
SETTING = {setting.name: setting for setting in SETTINGS}


def test_order_is_the_positional_api_and_never_changes() -> None:
    assert [setting.name for setting in SETTINGS] == NAMES


def test_labels_are_unique_and_every_default_is_allowed() -> None:
    assert len({setting.label for setting in SETTINGS}) == len({setting.infotext for setting in SETTINGS}) == len(NAMES)
    for setting in SETTINGS:
        assert setting.check(setting.default) == setting.default
        assert setting.help


def test_what_nobody_says_is_the_authors_step_and_nothing_else() -> None:
    assert OMSSettings().as_dict() == {
        "enabled": False,
        "module": "Automatic",
        "prompt": "",
        "guidance_scale": 1.0,
        "eta": 0.0,
        "negative_prompt": "",
        **UNSAID,
    }


@pytest.mark.parametrize("args", [[True, "m", "night", 1.5, 0.5, "day"], [{"prompt": "night"}], [True], []])
def test_requests_of_version_0_2_mean_what_they_meant(args: list) -> None:
    """By position and by name; and likewise where a host has filled the list from the page's controls."""
    meant = OMSSettings.from_args(args)
    assert {name: getattr(meant, name) for name in UNSAID} == UNSAID
    filled = [*args, *[setting.filled_in for setting in SETTINGS[len(args) :]]]
    assert OMSSettings.from_args(filled) == meant


def test_what_the_page_says_counts_though_a_host_fills_in_the_same() -> None:
    shown = [setting.default for setting in SETTINGS]
    assert OMSSettings.from_args([True, *shown[1:]]).color == SETTING["color"].default
    assert OMSSettings.from_args([True, *shown[1:6], "color", "#336699", *shown[8:]]).quiet == SETTING["quiet"].default


def test_a_source_brings_what_suits_it_where_nothing_else_is_said() -> None:
    filled = [setting.filled_in for setting in SETTINGS[1:]]
    assert OMSSettings.from_args([{"source": "color", "color": "#336699"}, *filled]).quiet == 6
    assert OMSSettings.from_args([{"source": "color", "color": "#336699", "quiet": 1}, *filled]).quiet == 1
    assert OMSSettings(source="none").quiet == 0


def test_the_page_begins_with_a_quiet_that_suits_prompts_and_a_request_without_it_means_none() -> None:
    assert SETTING["quiet"].default == 1
    assert from_infotext(SETTING["quiet"], {"OMS": "True", "OMS model": "m"}) == 0
    assert OMSSettings.from_args([{"prompt": "night"}, *[s.filled_in for s in SETTINGS[1:]]]).quiet == 0
    told = OMSSettings.from_args([True, *[s.default for s in SETTINGS[1:]]]).to_infotext("m")
    assert told["OMS quiet"] == "1"


def test_what_a_host_makes_of_an_infotext_is_not_what_it_fills_in() -> None:
    for setting in SETTINGS:
        if isinstance(setting.filled_in, FilledIn):
            assert not isinstance(type(setting.filled_in)(setting.default), FilledIn)


def test_what_a_host_fills_in_is_written_as_what_it_is() -> None:
    """The host puts it into config files and onto the page."""
    filled = [setting.filled_in for setting in SETTINGS]
    assert json.loads(json.dumps(filled)) == filled == [setting.default for setting in SETTINGS]


def test_only_a_source_that_is_not_the_prompt_goes_without_an_oms_model() -> None:
    assert OMSSettings().uses_prompt
    assert not OMSSettings(source="none").uses_prompt
    assert OMSSettings(source="color", color="#000000", prompt_weight=0.5).uses_prompt


def test_full_list_short_list_and_empty_list() -> None:
    full = OMSSettings.from_args([True, "m", "night", 2, 0.5, "day"])
    assert full == OMSSettings(True, "m", "night", 2.0, 0.5, "day")
    assert isinstance(full.guidance_scale, float)
    assert OMSSettings.from_args([True, "m"]) == OMSSettings(True, "m")
    assert OMSSettings.from_args([]) == OMSSettings()


def test_dict_in_the_list_wins_over_what_the_host_fills_in() -> None:
    filled = [{"prompt": "night", "enabled": True}, "Automatic", "", 1.5, 0.0, ""]
    assert OMSSettings.from_args(filled) == OMSSettings(True, prompt="night", guidance_scale=1.5)
    assert OMSSettings.from_args([True, {"eta": 1}]) == OMSSettings(True, eta=1.0)


def test_dict_asks_for_the_step_unless_it_says_no() -> None:
    assert OMSSettings.from_args([{"prompt": "night"}]).enabled
    assert OMSSettings.asked_for([{"prompt": "night"}, "Automatic"])
    assert not OMSSettings.asked_for([{"prompt": "night", "enabled": False}])
    assert not OMSSettings.asked_for([False, {"prompt": "night"}])
    assert not OMSSettings.asked_for([])


def test_a_request_without_the_step_is_not_looked_at_further() -> None:
    assert not OMSSettings.asked_for([False, None, None, 99, "x"])


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["yes"], ["enabled", "'yes'", "true or false"]),
        ([None], ["enabled", "None"]),
        ([1], ["enabled", "1"]),
        ([True, None], ["OMS model", "module", "None", "a text"]),
        ([True, 7], ["module", "7"]),
        ([True, "m", ["night"]], ["prompt", "a text"]),
        ([True, "m", "", 99], ["OMS guidance scale", "guidance_scale", "99", "from 0 to 10"]),
        ([True, "m", "", -0.1], ["guidance_scale", "-0.1"]),
        ([True, "m", "", "2"], ["guidance_scale", "'2'"]),
        ([True, "m", "", True], ["guidance_scale", "True"]),
        ([True, "m", "", math.nan], ["guidance_scale", "nan"]),
        ([True, "m", "", math.inf], ["guidance_scale", "inf"]),
        ([True, "m", "", 10**400], ["guidance_scale"]),
        ([True, "m", "", None], ["guidance_scale", "None"]),
        ([True, "m", "", 1, 1.01], ["eta", "1.01", "from 0 to 1"]),
        ([True, "m", "", 1, 0, None], ["negative_prompt", "None"]),
        ([{"scale": 2}], ["'scale'", *NAMES]),
        ([{"guidance_scale": "2"}], ["guidance_scale", "'2'"]),
        ([{7: 2}], ["7", *NAMES]),
        ([{}, {}], ["two dicts"]),
        ([True, "m", "", 1, 0, "", 7], ["OMS source", "7", "one of prompt, color"]),
        ([True, "m", "", 1, 0, "", *[""] * 13], ["19", *NAMES]),
        ([{"source": "colour"}], ["source", "'colour'", "one of prompt, color", "Did you mean 'color'?"]),
        ([{"source": "Prompt"}], ["source", "'Prompt'", "Did you mean 'prompt'?"]),
        ([{"source": "color"}], ["source", "OMS color (color) is empty", "#336699"]),
        ([{"source": "picture", "picture": " "}], ["source", "OMS picture (picture) is empty", "base64"]),
        ([{"source": "brush"}], ["source", "OMS brush (brush) is empty"]),
        ([{"source": "style"}], ["source", "OMS style (style) is empty", "name"]),
        ([{"color": "red"}], ["color", "'red'", "#336699"]),
        ([{"color": "#36699"}], ["color", "'#36699'"]),
        ([{"color": "#336699 "}], ["color", "'#336699 '"]),
        ([{"color": 0x336699}], ["color", "3368601"]),
        ([{"picture": "A" * 48_000_001}], ["picture", "48000001 letters", "at most 48000000"]),
        ([{"quiet": 2.5}], ["quiet", "2.5", "a whole number from 0 to 16"]),
        ([{"quiet": -1}], ["quiet", "-1"]),
        ([{"quiet": True}], ["quiet", "True"]),
        ([{"quiet": math.inf}], ["quiet", "inf"]),
        ([{"quiet": math.nan}], ["quiet", "nan"]),
        ([{"detail": 0}], ["detail", "0", "from 1 to 16"]),
        ([{"strength": 2.1}], ["strength", "2.1", "from 0 to 2"]),
        ([{"brightness": -1.1}], ["brightness", "-1.1", "from -1 to 1"]),
        ([True, "a\ud800b"], ["OMS model (module)", "letter 2", "U+D800"]),
        ([True, "m", "\udfff"], ["OMS prompt (prompt)", "letter 1", "U+DFFF"]),
        ([True, "m", "", 1, 0, "ab\ud83c"], ["negative_prompt", "letter 3", "U+D83C"]),
        (["\ud800"], ["enabled", "true or false"]),
        ([{"\ud800": 2}], NAMES),
        ([{"Prompt": "x"}], ["Did you mean 'prompt'?"]),
    ],
)
def test_refused_with_name_value_and_what_is_allowed(args: list, words: list[str]) -> None:
    with pytest.raises(SettingError) as error:
        OMSSettings.from_args(args)
    for word in words:
        assert word in str(error.value)
    assert "One More Step" not in str(error.value), "whoever shows it says whose message it is"
    str(error.value).encode()


def test_zero_has_no_sign() -> None:
    settings = OMSSettings.from_args([True, "m", "", -0.0, -0.0])
    told = settings.to_infotext("m")
    assert (told["OMS guidance scale"], told["OMS eta"]) == ("0.0", "0.0")
    assert str(from_infotext(SETTING["eta"], {"OMS": "True", "OMS eta": "-0.0"})) == "0.0"


def test_refusal_does_not_repeat_a_long_value() -> None:
    with pytest.raises(SettingError) as error:
        OMSSettings(guidance_scale="9" * 10_000)  # type: ignore[arg-type]
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("value", ["yes", None, 1, 0.0])
def test_asked_for_refuses_what_is_neither_true_nor_false(value: object) -> None:
    with pytest.raises(SettingError, match="true or false"):
        OMSSettings.asked_for([value])


def test_infotext_of_a_picture_without_the_step_is_empty() -> None:
    assert OMSSettings().to_infotext("m [0123456789]") == {}


def test_infotext_names_the_module_that_was_used_and_every_number() -> None:
    assert OMSSettings(True, prompt="night").to_infotext("m [0123456789]") == {
        "OMS": "True",
        "OMS model": "m [0123456789]",
        "OMS prompt": "night",
        "OMS guidance scale": "1.0",
        "OMS eta": "0.0",
        "OMS model choice": "Automatic",
    }
    assert "OMS model choice" not in OMSSettings(True, "m").to_infotext("m [0123456789]")


def test_infotext_names_what_is_otherwise_than_it_was_and_has_a_part() -> None:
    told = OMSSettings(True, source="color", color="#336699", picture="abc", strength=0.5).to_infotext(None)
    assert told == {
        "OMS": "True",
        "OMS guidance scale": "1.0",
        "OMS eta": "0.0",
        "OMS source": "color",
        "OMS color": "#336699",
        "OMS strength": "0.5",
        "OMS quiet": "6",
    }


numbers = {s.name: st.floats(s.minimum, s.maximum) for s in SETTINGS if s.type is float}
whole = {s.name: st.integers(int(s.minimum), int(s.maximum)) for s in SETTINGS if s.type is int}
some_settings = st.builds(
    OMSSettings,
    enabled=st.just(True),
    module=st.just("m"),
    source=st.sampled_from(list(SETTING["source"].choices)),
    color=st.from_regex("#[0-9a-f]{6}", fullmatch=True),
    picture=st.just("aGk="),
    brush=st.just("aGkh"),
    style=st.just("dusk, by hand"),
    **numbers,
    **whole,
)


@given(some_settings)
def test_infotext_survives_as_json_and_reads_back_exactly(settings: OMSSettings) -> None:
    params = json.loads(json.dumps(settings.to_infotext("m")))
    read = {s.name: from_infotext(s, params) for s in SETTINGS}
    has_a_part = {s.name: getattr(settings, s.name) if s.acts(settings.source) else s.before for s in SETTINGS}
    assert read == has_a_part


def test_picture_made_without_the_step_turns_it_off_and_leaves_the_rest_alone() -> None:
    read = {name: from_infotext(SETTING[name], {"Steps": "20"}) for name in NAMES}
    assert read.pop("enabled") is False
    assert set(read.values()) == {None}


def test_what_infotext_does_not_mention_is_the_default() -> None:
    params = {"OMS": "True", "OMS model": "m [0123456789]"}
    read = {name: from_infotext(SETTING[name], params) for name in NAMES}
    assert read == {**OMSSettings(True).as_dict(), "module": "m [0123456789]"}


@pytest.mark.parametrize(
    ("label", "text"),
    [
        *[("OMS guidance scale", "much"), ("OMS eta", "7"), ("OMS", "perhaps"), ("OMS source", "wish")],
        *[("OMS color", "blue"), ("OMS quiet", "1.5"), ("OMS quiet", "inf"), ("OMS detail", "much")],
    ],
)
def test_infotext_with_impossible_values_is_refused(label: str, text: str) -> None:
    params = {"OMS": "True", label: text}
    setting = next(s for s in SETTINGS if s.infotext == label)
    with pytest.raises(SettingError, match=f"^{label}( |:)"):
        from_infotext(setting, params)


def test_no_slider_begins_beyond_its_end() -> None:
    for setting in SETTINGS:
        if setting.type in (int, float):
            assert setting.minimum <= setting.default <= min(setting.slider, setting.maximum)
