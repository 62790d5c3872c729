"""How the extension behaves as a guest in the host: device memory, text encoders it borrows, failures.

The parts are called inside a running miniature WebUI, whose `modules` they import. "meta" plays a device with memory of
its own: tensors really leave the CPU for it.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from extension_helpers import RequestFailed, WebUI
from manager_helpers import MANAGERS, ForgeManager
from module_helpers import tiny_encoder
from pretend_device import PretendDevice
from torch import nn

from lib_oms.settings import OMSSettings

pytest.importorskip("gradio")

MODULE = "untrained"
META, CPU = torch.device("meta"), torch.device("cpu")
POLICIES = ("keep on the device", "keep in RAM", "drop after use")


# Device memory


class Guest(nn.Linear):
    """A network that can come back from "meta"; its numbers do not matter here."""

    def __init__(self) -> None:
        super().__init__(2, 2)

    def _apply(self, fn: Any, recurse: bool = True) -> Guest:
        try:
            return super()._apply(fn, recurse)
        except NotImplementedError:  # "Cannot copy out of meta tensor"
            return self.to_empty(device=CPU)

    @property
    def at(self) -> torch.device:
        return self.weight.device


@pytest.mark.parametrize("policy", POLICIES)
def test_plain_host(memory: Any, options: Any, policy: str) -> None:
    options("oms_memory_policy", policy)
    guest = Guest()
    with memory.on_device(guest, META):
        assert guest.at == META
    assert guest.at == (META if policy == "keep on the device" else CPU)


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_a_prompt_that_is_known_brings_no_text_encoder_to_the_device(
    memory: Any, options: Any, tmp_path: Path, kind: str
) -> None:
    from lib_oms.step import FirstStep
    from lib_oms.webui import hook
    from lib_oms.webui.request import Request

    options("oms_memory_policy", "keep in RAM")
    encoder = tiny_encoder(tmp_path)
    first_step, noise = FirstStep(1.0, True, 1.0), torch.zeros(1, 4, 8, 8)
    asked = Request(OMSSettings(prompt="night"), ["a"], [1], [], 0.0, noise, first_step)
    with PretendDevice(kind) as device:
        first = hook._encoded(asked, encoder, torch.device(kind))
        came = device.moved
        again = hook._encoded(asked, encoder, torch.device(kind))
        assert came > 0
        assert device.moved == came
        torch.testing.assert_close(again["night"].cpu(), first["night"].cpu(), rtol=0, atol=0)


def test_unknown_policy_is_keep_in_ram(memory: Any, options: Any) -> None:
    options("oms_memory_policy", "something of the future")
    assert memory.memory_policy() == "keep in RAM"


@pytest.mark.parametrize("policy", POLICIES)
def test_host_that_saves_memory_has_its_own_part_sent_away_first_and_gets_the_device_back(
    memory: Any, options: Any, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    options("oms_memory_policy", policy)
    guest, where = Guest(), []
    monkeypatch.setattr(memory.lowvram, "is_enabled", lambda model: True)
    monkeypatch.setattr(memory.lowvram, "send_everything_to_cpu", lambda: where.append(guest.at))
    with memory.on_device(guest, META):
        assert where == [CPU]
        assert guest.at == META
    assert guest.at == CPU


def test_failure_leaves_nothing_on_the_device(memory: Any, options: Any) -> None:
    options("oms_memory_policy", "keep on the device")
    guest = Guest()
    with pytest.raises(RuntimeError, match="out of memory"), memory.on_device(guest, META):
        raise RuntimeError("out of memory")
    assert guest.at == CPU


@pytest.fixture(params=MANAGERS)
def managed(memory: Any, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> ForgeManager:
    manager = MANAGERS[request.param]()
    monkeypatch.setattr(memory, "manager", manager)
    monkeypatch.setattr(memory, "ModelPatcher", manager.patcher)
    monkeypatch.setattr(manager.patcher, "made", 0)
    return manager


@pytest.mark.parametrize("policy", POLICIES)
def test_managed_host_has_one_patcher_and_evicts_it(
    memory: Any, managed: ForgeManager, options: Any, policy: str
) -> None:
    options("oms_memory_policy", policy)
    guest = Guest()
    for _ in range(3):
        with memory.on_device(guest, META):
            assert [loaded.model.model.network for loaded in managed.current_loaded_models] == [guest]
            assert guest.at == META
        stays = policy == "keep on the device"
        assert len(managed.current_loaded_models) == int(stays)
        assert guest.at == (META if stays else CPU)
    assert managed.patcher.made == 1
    # The sampler's own load evicts a guest that was left there.
    samplers = managed.patcher(Guest(), META, CPU)
    managed.load_models_gpu([samplers])
    assert guest.at == CPU


def held(cache: Any) -> list[Any]:
    """The modules in memory."""
    return [held.module for held in cache._modules.values()]


@pytest.mark.parametrize("policy", POLICIES)
def test_same_pictures_under_every_policy_and_only_drop_forgets(
    webui: WebUI, options: Any, capfd: pytest.CaptureFixture[str], policy: str
) -> None:
    from lib_oms.webui.loaded import LOADED

    LOADED.clear()
    expected = webui.txt2img(True, MODULE, "night", 1.5, sampler_name="Euler").pixels
    LOADED.clear()
    capfd.readouterr()
    options("oms_memory_policy", policy)
    for _ in range(2):
        assert webui.txt2img(True, MODULE, "night", 1.5, sampler_name="Euler").pixels == expected
    dropped = policy == "drop after use"
    assert capfd.readouterr().out.count("Loading OMS model") == (2 if dropped else 1)
    assert (not held(LOADED)) == dropped


def test_dropped_module_is_really_gone(webui: WebUI, options: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from lib_oms.module import OMSModule
    from lib_oms.webui.loaded import LOADED

    loaded = []

    def watched(*args: Any, **kwargs: Any) -> OMSModule:
        module = load(*args, **kwargs)
        loaded.extend(weakref.ref(part) for part in (module.psi, module.text_encoder))
        return module

    load = OMSModule.from_pretrained
    monkeypatch.setattr(OMSModule, "from_pretrained", watched)
    LOADED.clear()
    options("oms_memory_policy", "drop after use")
    webui.txt2img(True, MODULE, "night", sampler_name="Euler")
    gc.collect()
    assert len(loaded) == 2
    assert [part() for part in loaded] == [None, None]


def test_known_prompts_leave_the_text_encoder_where_it_is(webui: WebUI, monkeypatch: pytest.MonkeyPatch) -> None:
    from lib_oms.webui import memory

    moved = []
    on_device = memory.on_device

    def watched(network: nn.Module, *args: Any, **kwargs: Any) -> Any:
        moved.append(type(network))
        return on_device(network, *args, **kwargs)

    monkeypatch.setattr(memory, "on_device", watched)
    for _ in range(2):
        webui.txt2img(True, MODULE, "a prompt that was never there before", 1.5, sampler_name="Euler")
    assert [kind.__name__ for kind in moved] == ["OpenCLIPEncoder", "OMSUNet", "OMSUNet"]


# Failures


class OutOfMemory:
    """psi's forward when the device is full."""

    def __call__(self, *args: Any) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.fixture
def full_device(webui: WebUI) -> Iterator[None]:
    from lib_oms.webui.loaded import LOADED

    LOADED.clear()
    webui.txt2img(True, MODULE, sampler_name="Euler")
    (module,) = held(LOADED)
    hook = module.psi.register_forward_pre_hook(OutOfMemory())
    yield
    hook.remove()


def test_out_of_memory_says_what_to_do(webui: WebUI, full_device: None) -> None:
    with pytest.raises(RequestFailed, match=r"too little free memory.*smaller one.*Tried to allocate") as failed:
        webui.txt2img(True, MODULE, "night", sampler_name="Euler")
    # Forge Neo takes these words for an error of its own sampling, and then synchronizes a GPU that need not be there.
    assert "out of memory" not in str(failed.value).lower()
    assert webui.txt2img(sampler_name="Euler").seen


def test_no_message_has_the_words_by_which_a_host_knows_its_own_errors(webui: WebUI) -> None:
    with pytest.raises(RequestFailed, match="there is no OMS model named") as failed:
        webui.txt2img(True, "Out of Memory", sampler_name="Euler")
    assert "out of memory" not in str(failed.value).lower()


def test_out_of_memory_without_it_if_a_person_wants_that(webui: WebUI, options: Any, full_device: None) -> None:
    options("oms_on_failure", "continue without it")
    plain = webui.txt2img(sampler_name="Euler")
    made = webui.txt2img(True, MODULE, "night", sampler_name="Euler")
    assert made.pixels == plain.pixels
    assert 'OMS skipped: "it failed: there is too little free memory' in made.infotext
    assert "OMS: True" not in made.infotext


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ((True, "no such module"), "there is no OMS model named"),
        ((True, "Automatic", "", 99), "OMS guidance scale (guidance_scale): 99 is not allowed"),
        (("yes",), "true or false"),
    ],
)
def test_what_else_fails_goes_without_it_if_a_person_wants_that(
    webui: WebUI, options: Any, capfd: pytest.CaptureFixture[str], args: tuple, reason: str
) -> None:
    options("oms_on_failure", "continue without it")
    plain = webui.txt2img(sampler_name="Euler")
    made = webui.txt2img(*args, sampler_name="Euler")
    assert made.pixels == plain.pixels
    assert "OMS skipped: " in made.infotext
    assert reason in made.infotext
    assert "OMS: True" not in made.infotext
    assert reason in capfd.readouterr().out
    options("oms_on_failure", "stop")
    with pytest.raises(RequestFailed):
        webui.txt2img(*args, sampler_name="Euler")


# The page


def test_the_accordion_is_made_where_the_host_can_write_no_picture_for_it(
    webui: WebUI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forge Neo's folder for temporary pictures is missing at its first start; its own of this name fails then."""
    import gradio as gr

    from lib_oms.webui import ui

    def save_pil_to_cache(*args: Any, **kwargs: Any) -> str:
        raise FileNotFoundError("tmp/tmp1zh_ai8c.png")

    monkeypatch.setattr(gr.processing_utils, "save_pil_to_cache", save_pil_to_cache, raising=False)
    with gr.Blocks():
        ui.build()
