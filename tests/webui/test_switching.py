"""Automatic follows the checkpoint, however it is changed: settings, API override, X/Y/Z plot, the page's dropdown."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from browser_helpers import DemoProcess, WebUIPage, chromium, host_style
from checkpoint_helpers import write_unet
from extension_helpers import RequestFailed, WebUI
from host_models import a1111_model
from module_helpers import tiny_psi
from safetensors.torch import load_file, save_file
from untrained_helpers import place_untrained
from xyz_helpers import cells, plot

from lib_oms.text import TEXT_ENCODERS

pytest.importorskip("gradio")

FIRST, SECOND = "embedded", "embedded-second"
OPTION = "sd_model_checkpoint"
QUICK = {"sampler_name": "Euler", "steps": 1}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints: the demo's, and one that the host takes for an SDXL. Beside it lies a module for each."""
    folder = tmp_path_factory.mktemp("models") / "plain"
    place_untrained(folder)
    (weights,) = (folder / "unet_second").glob("*.safetensors")
    save_file(load_file(weights), weights, {"format": "pt", "demo.family": "sdxl"})
    for part in ("oms_module", "text_encoder", "tokenizer"):
        shutil.copytree(folder / part, folder.parent / "wide" / part)
    (weights,) = (folder.parent / "wide" / "oms_module").glob("*.safetensors")
    save_file(load_file(weights), weights, {"oms.latents": "sdxl", "oms.text_encoder": "openclip"})
    return folder


@pytest.fixture(scope="module")
def webui(start_webui: Callable[..., WebUI], model: Path) -> WebUI:
    return start_webui(host_style(), model=model)


@pytest.fixture(autouse=True)
def _first_checkpoint(request: pytest.FixtureRequest) -> None:
    if "webui" in request.fixturenames:
        webui = request.getfixturevalue("webui")
        webui.options(sd_model_checkpoint=FIRST)
        webui.txt2img(**QUICK)  # loads it: what an earlier request's override_settings loaded is still there


def used(webui: WebUI, **fields: object) -> str:
    infotext = webui.txt2img(True, "Automatic", "night", **QUICK, **fields).infotext
    return infotext.partition("OMS model: ")[2].partition(" [")[0]


def test_by_the_settings(webui: WebUI) -> None:
    assert used(webui) == "plain"
    webui.options(sd_model_checkpoint=SECOND)
    assert used(webui) == "wide"
    webui.options(sd_model_checkpoint=FIRST)
    assert used(webui) == "plain"


def test_by_an_api_override_and_back(webui: WebUI) -> None:
    assert used(webui, override_settings={"sd_model_checkpoint": SECOND}) == "wide"
    assert used(webui) == "plain"


def test_in_a_plot(webui: WebUI) -> None:
    made = plot(webui, ("Checkpoint name", f"{FIRST}, {SECOND}, {FIRST}"), oms=(True, "Automatic", "night"))
    assert [text.partition("OMS model: ")[2].partition(" [")[0] for text in cells(made)] == ["plain", "wide", "plain"]
    assert made.pixels[1] == made.pixels[3] != made.pixels[2]


def test_a_chosen_module_does_not_switch_but_is_refused_before_sampling(webui: WebUI) -> None:
    before = webui._count()
    with pytest.raises(RequestFailed, match=r"'plain' is for latents of 'oms-demo', .* loaded checkpoint is wide\."):
        webui.txt2img(True, "plain", "night", **QUICK, override_settings={"sd_model_checkpoint": SECOND})
    assert webui._count() == before
    assert used(webui) == "plain", "the checkpoint is set back"


def test_a_plot_of_modules_is_refused_where_one_does_not_fit(webui: WebUI, capfd: pytest.CaptureFixture[str]) -> None:
    before = webui._count()
    capfd.readouterr()
    with pytest.raises(RequestFailed, match=r"'wide' is for latents of SDXL, .* for the loaded checkpoint are .*plain"):
        plot(webui, ("OMS model", "plain, automatic, wide"))
    assert webui._count() == before, "before the first cell"
    assert len(capfd.readouterr().out.splitlines()) == 1
    webui.options(oms_on_failure="continue without it")
    try:
        made = cells(plot(webui, ("OMS model", "plain, wide")))
    finally:
        webui.options(oms_on_failure="stop the request")
    assert "OMS model: plain [" in made[0]
    assert "OMS skipped: \"it failed: the OMS model 'wide' is for latents of SDXL" in made[1]


def test_a_plot_of_modules_and_checkpoints_is_made_as_far_as_they_fit(
    webui: WebUI, capfd: pytest.CaptureFixture[str]
) -> None:
    made = plot(webui, ("OMS model", "wide"), ("Checkpoint name", f"{SECOND}, {FIRST}"))
    assert "OMS model: wide [" in cells(made)[0]
    assert cells(made)[1] == "", "a cell that stayed black"
    assert "One More Step: the OMS model 'wide' is for latents of SDXL" in capfd.readouterr().err


def test_no_cell_is_made_with_a_module_that_does_not_fit(webui: WebUI) -> None:
    before = webui._count()
    assert plot(webui, ("Steps", "1, 2"), oms=(True, "wide")).images == []
    assert webui._count() == before


def test_nothing_for_the_checkpoint_says_where_to_get_it(webui: WebUI, model: Path, tmp_path: Path) -> None:
    (model.parent / "wide").rename(tmp_path / "away")
    try:
        with pytest.raises(RequestFailed, match=r"no usable OMS model .*Press Download .* for latents of SDXL into"):
            used(webui, override_settings={"sd_model_checkpoint": SECOND})
    finally:
        (tmp_path / "away").rename(model.parent / "wide")
    assert used(webui, override_settings={"sd_model_checkpoint": SECOND}) == "wide", "seen without a restart"


@pytest.mark.parametrize("kind", ["clip", "mixclip"])
def test_a_module_that_reads_the_loaded_models_text_encoder_is_ready_while_it_is_loaded(
    webui: WebUI, kind: str, clip_l: tuple, pair: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lib_oms.library.listing import listing
    from lib_oms.webui import host, library_list, sources

    family = TEXT_ENCODERS[kind].family
    tiny_psi(TEXT_ENCODERS[kind].width).save_pretrained(tmp_path / "m" / "mine" / "oms_module")
    monkeypatch.setattr(host, "module_folders", lambda: [tmp_path / "m"])

    def line() -> tuple[str, str]:
        (found,) = (line for line in listing(sources.places()) if line.name == "mine")
        return found.state, found.why

    def download() -> bool:
        return f"text-encoder-{kind}" in [offer.name for offer in library_list.look().offers]

    assert line() == ("needs text encoder", f"it borrows that of an {family} checkpoint as soon as one is loaded")
    assert "as soon as one is loaded" in library_list.here(library_list.look())
    assert not download()
    model = a1111_model(clip_l if kind == "clip" else pair)
    model.is_sdxl = kind == "mixclip"
    monkeypatch.setattr(host, "loaded_model", lambda: model)
    assert line() == ("ready", "the loaded model")
    if kind == "clip":
        model.is_sd1, model.is_sd2 = False, True  # its latents fit, its text encoder does not
    else:
        del model.conditioner  # an SDXL of a host that keeps its text encoders elsewhere
    assert line()[0] == "needs text encoder"
    assert f"python -m lib_oms download text-encoder-{kind}" in line()[1]
    assert download()


def test_a_host_that_loads_a_checkpoint_only_for_its_first_picture(
    webui: WebUI, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forge: what was chosen is told by its file until it is loaded."""
    from modules import sd_models

    from lib_oms.webui import host, module_note, offer

    folders = [model.parent]
    monkeypatch.setattr(host, "module_folders", lambda: folders)
    xl = sd_models.CheckpointInfo("xl", str(write_unet(tmp_path / "xl.safetensors", 2048)), "0" * 64)
    monkeypatch.setattr(sd_models.model_data, "forge_loading_parameters", {"checkpoint_info": xl}, raising=False)
    assert host.latents_now() == "sdxl"
    assert offer.automatic().name == "wide"
    assert "Automatic is now wide, for the checkpoint xl (SDXL)." in module_note.as_html("Automatic")
    monkeypatch.setattr(host, "loaded_model", lambda: object())  # what Forge has instead of a model until then
    assert "Automatic is now wide" in module_note.as_html("Automatic")
    (tmp_path / "xl.safetensors").write_bytes(b"PK")  # as of a .ckpt, nothing is known of it beforehand
    assert "the OMS model for the checkpoint xl, as soon as that is loaded" in module_note.as_html("Automatic")
    sd_models.model_data.forge_loading_parameters = {}
    assert host.latents_now() is None
    monkeypatch.setattr(sd_models, "get_closet_checkpoint_match", lambda name: None)
    assert "of which none is loaded yet" in module_note.as_html("Automatic")


def test_who_lacks_a_module_is_shown_the_button(
    webui: WebUI, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lib_oms.webui import host, library_list

    def shown() -> bool:
        return library_list.look().missing is not None

    monkeypatch.setattr(host, "module_folders", lambda: [model.parent])
    assert not shown()
    webui.options(sd_model_checkpoint=SECOND)
    assert not shown()
    (model.parent / "wide").rename(tmp_path / "away")
    try:
        assert shown(), "there is one, but not for the loaded checkpoint"
    finally:
        (tmp_path / "away").rename(model.parent / "wide")
    monkeypatch.setattr(host, "module_folders", lambda: [tmp_path])
    assert shown()


def test_on_the_page(browser: str, model: Path, tmp_path: Path) -> None:
    with DemoProcess(tmp_path / "demo", "--model", str(model), "--oms-models-dir", str(model.parent)) as demo:
        with chromium(tmp_path / "profile", browser) as context:
            ui = WebUIPage(context, demo.url)
            ui.open_accordion()
            ui.set_number("txt2img_steps", 1)
            for checkpoint, module in ((SECOND, "wide"), (FIRST + " [", "plain")):
                ui.choose("setting_sd_model_checkpoint", checkpoint)
                while checkpoint not in requests.get(f"{demo.url}/sdapi/v1/options", timeout=60).json()[OPTION]:
                    ui.page.wait_for_timeout(100)
                ui.generate()
                assert f"OMS model: {module} [" in ui.infotext
