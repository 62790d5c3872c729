"""The miniature WebUI keeps the host contract: what was measured in running hosts, tried through real HTTP."""

import base64
import io
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import requests
import torch
from PIL import Image

pytest.importorskip("gradio")
from demo import server

ROOT = Path(__file__).resolve().parents[2]
PROBE = ROOT / "tests" / "demo" / "demo_probe"
MODEL = Path(os.environ.get("OMS_DEMO_MODEL", ROOT / "models" / "demo"))
SMALL = {"prompt": "a red circle", "seed": 5, "steps": 2, "width": 64, "height": 64, "sampler_name": "Euler"}
CONTROLS = ["enabled", "how", "fail_in", "number", "note", "trap"]
ORDER_START = ["setup", "before_process", "process"]
ORDER_BATCH = [
    "before_process_batch",
    "after_extra_networks_activate",
    "process_batch",
    "process_before_every_sampling",
    "post_sample",
    "postprocess_batch",
    "postprocess_batch_list",
]


class Host:
    """A running miniature WebUI with the probe, and short ways to ask it."""

    def __init__(self, running: server.Server, style: str, data: Path) -> None:
        self.server, self.style, self.data = running, style, data
        self.url = running.url
        self.ui_runs = dict(self.probe.ui_runs)
        """how often the probe's ui() ran till the host was up, for each tab; listing scripts runs it again"""

    @property
    def probe(self) -> ModuleType:
        return sys.modules["modules.script_loading"].loaded_scripts[str(PROBE / "scripts" / "contract_probe.py")]

    def get(self, path: str) -> Any:
        return requests.get(self.url + path, timeout=60).json()

    def post(self, path: str, body: dict) -> requests.Response:
        return requests.post(self.url + path, json=body, timeout=120)

    def answer(self, **changes: Any) -> dict:
        response = self.post("/sdapi/v1/txt2img", {**SMALL, **changes})
        assert response.status_code == 200, response.text
        return response.json()

    def pictures(self, **changes: Any) -> np.ndarray:
        """[B, H, W, 3] as integers."""
        decoded = [Image.open(io.BytesIO(base64.b64decode(b))) for b in self.answer(**changes)["images"]]
        return np.stack([np.asarray(image) for image in decoded]).astype(int)

    def infotext(self, **changes: Any) -> str:
        return json.loads(self.answer(**changes)["info"])["infotexts"][0]

    def seen(self, hook: str) -> list[dict]:
        return [facts for name, facts in self.probe.calls if name == hook]


def told(**values: Any) -> dict:
    """alwayson_scripts with the probe's arguments up to the last one given."""
    defaults = {"enabled": False, "how": "nothing", "fail_in": "", "number": 2.5, "note": "", "trap": False}
    return {"contract probe": {"args": [values.get(name, defaults[name]) for name in CONTROLS]}}


def options(data: Path, *more: str) -> list[str]:
    return ["--port", "0", "--model", str(MODEL), "--extension", str(PROBE), "--data-dir", str(data), *more]


@pytest.fixture(scope="module", params=["a1111", "forge"])
def any_host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    data = tmp_path_factory.mktemp("data")
    with server.start(options(data, "--host-style", request.param)) as running:
        yield Host(running, request.param, data)


@pytest.fixture
def host(any_host: Host) -> Host:
    any_host.probe.calls.clear()
    return any_host


@pytest.fixture
def option(host: Host) -> Iterator[Any]:
    """Sets options for one test."""
    opts = sys.modules["modules.shared"].opts
    before = dict(opts.data)
    yield lambda **values: opts.data.update(values)
    opts.data = before


# ---- loading --------------------------------------------------------------------------------------------------------


def test_a_script_is_loaded_under_its_bare_file_name_with_its_folder_on_sys_path_only_meanwhile(host: Host) -> None:
    probe = host.probe
    assert probe.LOADED_AS == "contract_probe.py"
    assert not probe.LOADED_IN_SYS_MODULES
    assert "contract_probe.py" not in sys.modules
    assert str(PROBE) == probe.LOADED_FROM
    assert probe.WORD == "found"
    assert str(PROBE) not in sys.path


def test_ui_runs_three_times_for_each_tab(host: Host) -> None:
    assert host.ui_runs == {"txt2img": 3, "img2img": 3}


def test_preload_adds_an_argument_and_app_started_a_route_and_ui_settings_an_option(host: Host) -> None:
    assert host.get("/sdapi/v1/cmd-flags")["probe_flag"] == "unset"
    assert host.get("/probe/hello") == {"word": "found"}
    assert host.get("/sdapi/v1/options")["probe_option"] == 7


def test_scripts_are_listed_with_their_arguments(host: Host) -> None:
    assert host.get("/sdapi/v1/scripts") == {
        "txt2img": ["x/y/z plot", "contract probe", "chosen probe"],
        "img2img": ["x/y/z plot", "contract probe", "chosen probe"],
    }
    info = next(s for s in host.get("/sdapi/v1/script-info") if s["name"] == "contract probe" and not s["is_img2img"])
    assert info["is_alwayson"]
    assert [a["label"] for a in info["args"]][1:3] == ["Probe action", "Probe failure"]
    number = info["args"][3]
    assert (number["value"], number["minimum"], number["maximum"], number["step"]) == (2.5, 0, 10, 0.5)
    assert info["args"][1]["choices"][0] == "nothing"


# ---- hooks ----------------------------------------------------------------------------------------------------------


def test_hooks_run_in_the_measured_order(host: Host) -> None:
    host.answer(batch_size=2, n_iter=2)
    pictures = ["postprocess_image"] * 2
    assert [name for name, _ in host.probe.calls] == [
        *ORDER_START,
        *ORDER_BATCH,
        *pictures,
        *ORDER_BATCH,
        *pictures,
        "postprocess",
    ]


def test_what_the_sampling_hook_is_given(host: Host) -> None:
    host.answer(batch_size=2, n_iter=2, width=72, height=136, negative_prompt="x")
    first, second = host.seen("process_before_every_sampling")
    assert first["same_tensor"]
    assert first["noise"].shape == (2, 4, 17, 9)
    assert first["noise"].dtype == torch.float32
    assert not first["grad"]
    assert first["inference"] == (host.style == "forge")
    assert (first["seeds"], second["seeds"]) == ([5, 6], [7, 8])
    assert first["c"] == first["uc"]
    assert first["c"][:2] == (2, 77)
    assert first["has_modified_noise"] == (host.style == "forge")
    noise = [torch.randn(4, 17, 9, generator=torch.Generator().manual_seed(s)) for s in (5, 6)]
    assert torch.equal(first["noise"], torch.stack(noise))


def test_the_sampler_is_there_in_the_sampling_hook_but_none_or_stale_before(host: Host) -> None:
    host.answer(n_iter=2)
    before = [facts["sampler"] for facts in host.seen("process_batch")]
    during = [facts["sampler"] for facts in host.seen("process_before_every_sampling")]
    assert before[0] is None
    assert before[1] is during[0]
    assert during[0] is not during[1]


@pytest.mark.parametrize("hook", [*ORDER_START, *ORDER_BATCH, "postprocess_image", "postprocess"])
def test_an_exception_in_any_hook_is_swallowed(host: Host, hook: str, capfd: pytest.CaptureFixture) -> None:
    plain = host.pictures()
    assert np.array_equal(host.pictures(alwayson_scripts=told(fail_in=hook)), plain)
    log = capfd.readouterr().err
    assert f"Error running {hook}" in log
    assert f"ZeroDivisionError: probe fails in {hook}" in log


def test_which_ways_of_replacing_the_noise_work(host: Host) -> None:
    plain = host.pictures()
    changed = {
        how: not np.array_equal(host.pictures(alwayson_scripts=told(how=how)), plain)
        for how in ("nothing", "in place", "modified_noise", "rebind")
    }
    assert changed == {"nothing": False, "in place": True, "modified_noise": host.style == "forge", "rebind": False}
    in_place, modified = (host.pictures(alwayson_scripts=told(how=how)) for how in ("in place", "modified_noise"))
    assert np.array_equal(in_place, modified) == (host.style == "forge")
    after = [facts["modified_noise"] for facts in host.seen("post_sample")]
    if host.style == "forge":
        assert after == [None] * len(after)  # cleared after use


def test_an_exception_outside_of_hooks_is_http_500_with_its_message(host: Host) -> None:
    response = host.post("/sdapi/v1/txt2img", {**SMALL, "alwayson_scripts": told(how="fail in sample")})
    assert response.status_code == 500
    assert response.json() == {"error": "RuntimeError", "detail": "", "body": "", "errors": "the probe says no"}
    assert len(host.pictures()) == 1  # and the host goes on


# ---- arguments ------------------------------------------------------------------------------------------------------


def test_arguments_are_filled_from_ui_and_surplus_is_dropped_and_nothing_is_checked(host: Host) -> None:
    host.answer()
    host.answer(alwayson_scripts={"CONTRACT probe": {"args": ["yes", None]}})
    host.answer(alwayson_scripts={"Contract Probe": {"args": [False, {"a": 1}, "", 99, [], "x", "surplus"]}})
    host.answer(alwayson_scripts={"Contract Probe": {}})
    defaults = [False, "nothing", "", 2.5, "", False]
    assert [facts["args"] for facts in host.seen("setup")] == [
        defaults,
        ["yes", None, *defaults[2:]],
        [False, {"a": 1}, "", 99, [], "x"],
        defaults,
    ]


def test_arguments_as_a_dict_are_a_key_error_before_any_script(host: Host) -> None:
    body = {**SMALL, "alwayson_scripts": {"Contract Probe": {"args": {"enabled": True}}}}
    response = host.post("/sdapi/v1/txt2img", body)
    assert (response.status_code, response.json()["error"]) == (500, "KeyError")
    assert not host.probe.calls


def test_an_unknown_script_is_refused(host: Host) -> None:
    response = host.post("/sdapi/v1/txt2img", {**SMALL, "alwayson_scripts": {"Nobody": {"args": []}}})
    assert response.status_code == 422
    assert response.json()["detail"] == "Script 'Nobody' not found"
    response = host.post("/sdapi/v1/txt2img", {**SMALL, "alwayson_scripts": {"Chosen Probe": {"args": []}}})
    assert response.status_code == 422


def test_a_script_of_the_dropdown_makes_the_pictures_itself(host: Host) -> None:
    assert host.infotext(script_name="chosen probe", script_args=[4]).splitlines()[1].startswith("Steps: 4, ")


@pytest.mark.parametrize("sampler", ["Euler", "DDIM"])
def test_hires_fix_enlarges_the_first_pass_picture(host: Host, sampler: str) -> None:
    fields = {"sampler_name": sampler, "steps": 3, "enable_hr": True, "denoising_strength": 0.7}
    infotext = host.infotext(**fields, hr_scale=1.5)
    assert "Denoising strength: 0.7" in infotext
    assert "Hires upscale: 1.5" in infotext
    assert len(host.seen("process_before_every_sampling")) == (3 if host.style == "forge" else 2)
    assert len(host.seen("before_hr")) == 1
    (picture,) = host.pictures(**fields, hr_scale=1.5)
    assert picture.shape[:2] == (96, 96)


# ---- infotext -------------------------------------------------------------------------------------------------------

AWKWARD = 'comma, colon: "quotes" and\na newline'


def test_infotext_reaches_info_and_png_and_params_txt_only_up_to_sampling(host: Host) -> None:
    answer = host.answer(
        prompt="first line\nsecond",
        negative_prompt="not this",
        alwayson_scripts=told(enabled=True, note=AWKWARD),
        batch_size=2,
    )
    info = json.loads(answer["info"])
    texts = info["infotexts"]
    lines = texts[1].splitlines()
    assert lines[:3] == ["first line", "second", "Negative prompt: not this"]
    begin = "Steps: 2, Sampler: Euler, Schedule type: Automatic, CFG scale: 7.0, Seed: 6, Size: 64x64, "
    assert lines[3].startswith(begin)
    assert "Probe: True" in lines[3]
    assert "Probe each: picture 1" in lines[3]
    assert "Probe index: at 1" in lines[3]
    assert "Probe sampling: seen" in lines[3]
    assert "Probe fails" not in lines[3]
    assert f"Probe note: {json.dumps(AWKWARD)}" in lines[3]
    png = Image.open(io.BytesIO(base64.b64decode(answer["images"][1])))
    assert png.info["parameters"] == texts[1]
    assert "probe comment" not in json.dumps(answer)
    assert info["extra_generation_params"]["Probe index"] is None
    params = (host.data / "params.txt").read_text(encoding="utf8")
    assert "Probe: True" in params
    assert "Probe sampling" not in params


def test_infotext_is_parsed_back(host: Host) -> None:
    answer = host.answer(
        prompt="one, two: (three:1.2)", negative_prompt="not\nthis", alwayson_scripts=told(enabled=True, note=AWKWARD)
    )
    parsed = host.post("/sdapi/v1/png-info", {"image": answer["images"][0]}).json()["parameters"]
    assert parsed["Prompt"] == "one, two: (three:1.2)"
    assert parsed["Negative prompt"] == "not\nthis"
    assert parsed["Probe note"] == AWKWARD
    assert (parsed["Size-1"], parsed["Size-2"], parsed["Seed"]) == ("64", "64", "5")
    assert parsed["Emphasis"] == "Original"


def test_the_infotext_of_a_request_fills_what_it_leaves_out_and_bool_of_false_is_true(host: Host) -> None:
    text = host.infotext(seed=77, alwayson_scripts=told(enabled=True, number=4.5, note=AWKWARD, trap=False))
    assert "Probe trap: False" in text
    host.probe.calls.clear()
    body = {"infotext": text.replace("Probe: True", "Probe: False"), "steps": 1}
    answer = host.post("/sdapi/v1/txt2img", body)
    assert answer.status_code == 200
    assert host.seen("setup")[0]["args"] == [False, "nothing", "", 4.5, AWKWARD, True]  # the last: bool("False")
    again = json.loads(answer.json()["info"])
    assert (again["seed"], again["prompt"], again["width"], again["steps"]) == (77, "a red circle", 64, 1)


# ---- noise and seeds ------------------------------------------------------------------------------------------------


def test_a_picture_is_the_same_alone_and_in_a_batch(host: Host) -> None:
    for sampler in ("Euler a", "DPM++ 2M"):
        batch = host.pictures(batch_size=3, sampler_name=sampler, steps=4)
        counted = host.pictures(n_iter=3, sampler_name=sampler, steps=4)
        alone = np.concatenate([host.pictures(seed=5 + i, sampler_name=sampler, steps=4) for i in range(3)])
        assert np.array_equal(counted, alone)
        assert np.abs(batch - alone).max() <= 1


def test_subseeds_and_seed_resize_change_the_noise_as_asked(host: Host) -> None:
    for changes in (
        {},
        {"subseed": 9, "subseed_strength": 0.0},
        {"subseed": 9, "subseed_strength": 1.0},
        {"seed": 9},
        {"seed_resize_from_w": 32, "seed_resize_from_h": 48},
    ):
        host.answer(**changes)
    plain, none, whole, other, resized = (f["noise"][0] for f in host.seen("process_before_every_sampling"))
    assert torch.equal(plain, none)
    assert torch.allclose(whole, other, atol=1e-5)
    small = torch.randn(4, 6, 4, generator=torch.Generator().manual_seed(5))
    assert torch.equal(resized[:, 1:7, 2:6], small)
    assert torch.equal(resized[:, 0], plain[:, 0])


# ---- samplers -------------------------------------------------------------------------------------------------------


@pytest.fixture
def levels(host: Host) -> Iterator[list]:
    """(x, level) of every call of the denoiser."""
    callbacks = sys.modules["modules.script_callbacks"]
    seen: list = []

    def notice(params: Any) -> None:
        seen.append((params.x[: len(params.x) // 2].clone(), float(params.sigma[0])))

    callbacks.on_cfg_denoiser(notice)
    yield seen
    callbacks.remove_callbacks_for_function(notice)


@pytest.mark.parametrize("sgm", [False, True])
@pytest.mark.parametrize("sampler", ["DPM++ 2M", "Euler a", "Euler", "Heun", "LCM"])
def test_first_latent_of_noise_level_samplers(host: Host, option: Any, levels: list, sampler: str, sgm: bool) -> None:
    option(sgm_noise_multiplier=sgm)
    text = host.infotext(sampler_name=sampler)
    (x, sigma), facts = levels[0], host.seen("process_before_every_sampling")[0]
    assert facts["has_sigmas"]
    assert not facts["has_timesteps"]
    assert sigma == pytest.approx(14.6146, abs=1e-3)
    assert torch.allclose(x, facts["noise"] * ((1 + sigma**2) ** 0.5 if sgm else sigma), rtol=1e-5)
    assert ("SGM noise multiplier: True" in text) == sgm


@pytest.mark.parametrize(
    ("sampler", "steps", "first", "calls"),
    [
        ("DDIM", 4, 751, 3),
        ("DDIM", 20, 951, 19),
        ("DDIM", 3, 999, 3),
        ("PLMS", 4, 751, 4),
        ("UniPC", 4, 999, 4),
        ("UniPC", 3, 999, 4),
    ],
)
def test_first_step_of_timestep_samplers(
    host: Host, option: Any, levels: list, sampler: str, steps: int, first: int, calls: int
) -> None:
    option(sgm_noise_multiplier=True)  # ignored
    host.answer(sampler_name=sampler, steps=steps)
    facts = host.seen("process_before_every_sampling")[0]
    assert not facts["has_sigmas"]
    assert facts["has_timesteps"]
    assert levels[0][1] == first
    assert len(levels) == calls
    assert torch.equal(levels[0][0], facts["noise"])


def test_ddim_with_one_step_calls_no_model(host: Host, levels: list) -> None:
    host.answer(sampler_name="DDIM", steps=1)
    assert levels == []


def test_get_sigmas_writes_to_infotext_and_schedules_start_where_they_do(host: Host, option: Any) -> None:
    host.answer()
    p = host.seen("process_before_every_sampling")[0]["processing"]
    samplers = sys.modules["modules.sd_samplers"]
    first = {}
    for scheduler in sys.modules["modules.sd_schedulers"].schedulers:
        p.extra_generation_params, p.scheduler = {}, scheduler.label
        sampler = samplers.create_sampler("Euler", p.sd_model)
        sigmas = sampler.get_sigmas(p, 4)
        assert len(sigmas) == 5
        first[scheduler.label] = float(sigmas[0])
        assert p.extra_generation_params == (
            {} if scheduler.label == "Automatic" else {"Schedule type": scheduler.label}
        )
    assert first.pop("DDIM") == pytest.approx(4.12, abs=0.01)
    assert list(first.values()) == pytest.approx([14.6146] * len(first), abs=1e-3)
    option(sigma_max=9.0, rho=5.0, always_discard_next_to_last_sigma=True)
    p.extra_generation_params, p.scheduler = {}, "Karras"
    sigmas = samplers.create_sampler("Euler", p.sd_model).get_sigmas(p, 4)
    assert len(sigmas) == 5
    assert float(sigmas[0]) == pytest.approx(9)
    assert p.extra_generation_params == {
        "Discard penultimate sigma": True,
        "Schedule type": "Karras",
        "Schedule max sigma": 9.0,
        "Schedule rho": 5.0,
    }


def _epsilon(x: torch.Tensor, t: float) -> torch.Tensor:
    """A predicted noise that bends with x and t, in the place of a UNet."""
    return torch.tanh(0.9 * x + float(t) / 2000)


@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp_2m"])
def test_noise_level_samplers_agree_with_diffusers(host: Host, name: str) -> None:
    import diffusers

    impl = sys.modules["modules.sd_samplers_impl"]
    cls = {
        "euler": diffusers.EulerDiscreteScheduler,
        "heun": diffusers.HeunDiscreteScheduler,
        "dpmpp_2m": diffusers.DPMSolverMultistepScheduler,
    }[name]
    known = {"final_sigmas_type": "zero"} if name == "dpmpp_2m" else {}
    scheduler = cls(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", use_karras_sigmas=True, **known)
    scheduler.set_timesteps(8)
    sigmas = scheduler.sigmas[[0, *range(1, len(scheduler.sigmas), 2)]] if name == "heun" else scheduler.sigmas
    x = torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(3)) * sigmas[0]

    def denoised(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return x - sigma * _epsilon(x / (1 + sigma**2) ** 0.5, 0)

    ours = getattr(impl, name)(denoised, x, sigmas, lambda: None, lambda i, d: None)
    theirs = x / (1 + sigmas[0] ** 2) ** 0.5 if name == "dpmpp_2m" else x
    scheduler.set_begin_index(0)
    for t in scheduler.timesteps:
        theirs = scheduler.step(_epsilon(scheduler.scale_model_input(theirs, t), 0), t, theirs).prev_sample
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_euler_ancestral_agrees_with_diffusers(host: Host) -> None:
    from diffusers import EulerAncestralDiscreteScheduler

    impl = sys.modules["modules.sd_samplers_impl"]
    scheduler = EulerAncestralDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    scheduler.set_timesteps(8)
    x = torch.randn(1, 4, 5, 6, generator=torch.Generator().manual_seed(3)) * scheduler.sigmas[0]
    ours_noise, theirs_noise = (torch.Generator().manual_seed(4) for _ in range(2))

    def denoised(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return x - sigma * _epsilon(x / (1 + sigma**2) ** 0.5, 0)

    ours = impl.euler_ancestral(
        denoised, x, scheduler.sigmas, lambda: torch.randn(x.shape, generator=ours_noise), lambda i, d: None
    )
    theirs = x
    for t in scheduler.timesteps:
        e = _epsilon(scheduler.scale_model_input(theirs, t), 0)
        theirs = scheduler.step(e, t, theirs, generator=theirs_noise).prev_sample
    assert torch.allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("name", ["ddim", "plms"])
def test_timestep_samplers_agree_with_diffusers(host: Host, name: str) -> None:
    import diffusers

    impl = sys.modules["modules.sd_samplers_impl"]
    cls = {"ddim": diffusers.DDIMScheduler, "plms": diffusers.PNDMScheduler}[name]
    known = {"clip_sample": False} if name == "ddim" else {"skip_prk_steps": True}
    scheduler = cls(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        set_alpha_to_one=False,
        **known,
    )
    scheduler.set_timesteps(10)
    x = torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(3))
    timesteps = torch.arange(0, 1000, 100) + 1
    ours = getattr(impl, name)(
        lambda x, t: _epsilon(x, t), x, timesteps, scheduler.alphas_cumprod, lambda: None, lambda i, d: None
    )
    theirs = x
    for t in [t for t in scheduler.timesteps if t > 1]:  # the host's last timestep is a goal only
        theirs = scheduler.step(_epsilon(theirs, t), t, theirs).prev_sample
    assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("sampler", ["DPM++ 2M", "Euler a", "Euler", "Heun", "LCM", "DDIM", "PLMS", "UniPC"])
def test_every_sampler_makes_a_picture(host: Host, sampler: str) -> None:
    picture = host.pictures(sampler_name=sampler, steps=4)
    assert picture.shape == (1, 64, 64, 3)
    assert picture.std() > 1


def test_old_names_and_unknown_names_of_samplers(host: Host) -> None:
    assert "Sampler: Euler, Schedule type: Karras" in host.infotext(sampler_name="Euler Karras")
    assert "Sampler: DPM++ 2M" in host.infotext(sampler_name="no such sampler")


# ---- checkpoints, LoRA, options -------------------------------------------------------------------------------------


def test_checkpoints_are_chosen_by_option_and_by_override(host: Host, option: Any) -> None:
    titles = [model["title"] for model in host.get("/sdapi/v1/sd-models")]
    assert [title.split(" ")[0] for title in titles] == ["embedded", "embedded-second"]
    option(sd_model_checkpoint=titles[0])  # an option that opts.data lacks would not be set back
    first = host.pictures()
    second = host.pictures(override_settings={"sd_model_checkpoint": "embedded-second"})
    assert not np.array_equal(first, second)
    assert np.array_equal(host.pictures(), first)
    assert "Model: embedded-second" in host.infotext(override_settings={"sd_model_checkpoint": titles[1]})
    response = host.post("/sdapi/v1/options", {"sd_model_checkpoint": "nothing of this name"})
    assert (response.status_code, response.json()["error"]) == (500, "RuntimeError")


def test_override_settings_that_the_config_lacks_are_not_set_back(host: Host, option: Any) -> None:
    opts = sys.modules["modules.shared"].opts
    option()
    opts.data.pop("eta_ddim", None)
    host.answer(override_settings={"eta_ddim": 0.25, "probe_option": 8})
    assert opts.eta_ddim == 0.25
    assert opts.probe_option == 7


def test_a_lora_is_merged_and_taken_out_again_to_the_bit(host: Host) -> None:
    name = host.get("/sdapi/v1/loras")[0]["name"]
    plain = host.pictures()
    half = host.pictures(prompt=f"a red circle<lora:{name}:0.5>")
    full = host.pictures(prompt=f"a red circle<lora:{name}:1>")
    assert not np.array_equal(plain, full)
    assert not np.array_equal(half, full)
    assert np.array_equal(host.pictures(), plain)
    assert host.seen("process_before_every_sampling")[1]["prompts"] == ["a red circle"]
    assert f"<lora:{name}:0.5>" in host.infotext(prompt=f"a red circle<lora:{name}:0.5>")
    assert np.array_equal(host.pictures(prompt="a red circle<lora:../../secret:1>"), plain)


def test_long_prompts_and_weights_and_breaks_work(host: Host) -> None:
    host.answer(prompt="circle " * 100, negative_prompt="(red:1.5) BREAK blue, [x:y:0.5] AND z")
    facts = host.seen("process_before_every_sampling")[0]
    assert facts["c"][1] == 154
    assert facts["uc"][1] == 154


# ---- progress and the page ------------------------------------------------------------------------------------------


def test_progress_is_told_and_a_generation_can_be_interrupted(host: Host) -> None:
    assert host.get("/sdapi/v1/progress")["progress"] == 0
    answers: list[dict] = []
    worker = threading.Thread(target=lambda: answers.append(host.answer(steps=2000, width=256, height=256)))
    worker.start()
    deadline = time.time() + 60
    while not (seen := host.get("/sdapi/v1/progress"))["state"]["sampling_step"] > 4:
        assert time.time() < deadline
        time.sleep(0.05)
    assert 0 < seen["progress"] < 1
    assert seen["state"]["sampling_steps"] == 2000
    picture = host.get("/sdapi/v1/progress")["current_image"]
    assert Image.open(io.BytesIO(base64.b64decode(picture))).size == (256, 256)
    assert host.post("/sdapi/v1/interrupt", {}).status_code == 200
    worker.join(timeout=60)
    assert len(answers[0]["images"]) == 1


def test_the_page_loads_its_scripts_and_nothing_from_the_internet(host: Host) -> None:
    response = requests.get(host.url + "/", timeout=60)
    assert response.status_code == 200
    assert "default-src 'self'" in response.headers["Content-Security-Policy"]
    head = response.text.split("</head>")[0]
    for tag in head.split("<")[1:]:
        if tag.split(" ")[0] in ("script", "link"):
            assert "//" not in tag.split(">")[0], tag
    assert "demo_probe/probe.js" in head
    assert requests.get(host.url + "/page/demo_probe/probe.js", timeout=60).text.startswith("window.contractProbe")
    for escape in ("/page/../server.py", "/page/demo_probe/../scripts/contract_probe.py", "/page/%2e%2e/server.py"):
        assert requests.get(host.url + escape, timeout=60).status_code == 404


def test_defaults_of_the_page_are_written_to_ui_config_and_read_from_it(host: Host, tmp_path: Path) -> None:
    written = json.loads((host.data / "ui-config.json").read_text(encoding="utf8"))
    assert written["txt2img/Width/value"] == 256
    key = "customscript/contract_probe.py/txt2img/Probe number/value"
    assert written[key] == 2.5
    ui, shared = (sys.modules[f"modules.{name}"] for name in ("ui", "shared"))
    changed = tmp_path / "ui-config.json"
    changed.write_text(json.dumps({**written, "txt2img/Width/value": 128, key: 8.5}), encoding="utf8")
    before = shared.cmd_opts.ui_config_file
    shared.cmd_opts.ui_config_file = str(changed)
    try:
        config = ui.create_ui().get_config_file()
    finally:
        shared.cmd_opts.ui_config_file = before
    values = {c["props"].get("label"): c["props"].get("value") for c in config["components"]}
    assert values["Width"] == 128
    assert values["Probe number"] == 8.5
    host.answer()
    assert host.seen("setup")[0]["args"][3] == 2.5  # the API's defaults are those of ui(), as in the host


def test_a_taken_port_gives_way_to_the_next_free_one() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        listener = server._listen(port)
        assert port < listener.getsockname()[1] < port + 100
        listener.close()


def test_a_second_host_in_one_process_is_refused(host: Host) -> None:
    with pytest.raises(RuntimeError, match="close it first"):
        server.start(["--port", "0"])


def test_a_missing_model_is_said_plainly(any_host: Host, tmp_path: Path) -> None:
    sd_models, cmd_opts = sys.modules["modules.sd_models"], sys.modules["modules.shared"].cmd_opts
    before = cmd_opts.model
    cmd_opts.model = str(tmp_path)
    try:
        with pytest.raises(FileNotFoundError, match=r"No checkpoint in .*--model FOLDER"):
            sd_models.list_models()
    finally:
        cmd_opts.model = before
        sd_models.list_models()
