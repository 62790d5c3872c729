"""What a picture costs, in counts that are alike on every machine: forwards, arithmetic, readings of the text, files.

Seconds are in docs/performance.md; these tests are what keeps them.
"""

from __future__ import annotations

import gc
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from extension_helpers import WebUI
from live_bytes import live_bytes
from module_helpers import Forwards
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from lib_oms.module import OMSModule
from lib_oms.psi import OMSUNet, OMSUNetConfig

pytest.importorskip("gradio")

MODULE = "untrained"
WAITS = ("_local_scalar_dense", "nonzero", "index", "index_put_", "is_nonzero")
"""What makes Python wait for a GPU: a number or a place is read from it, or brought there in a list."""


# psi itself, at the published size; nothing is computed on "meta"


def published(side: int, batch: int = 1) -> tuple[OMSUNet, torch.Tensor, torch.Tensor]:
    with torch.device("meta"):
        return OMSUNet(OMSUNetConfig.base()).eval(), torch.zeros(batch, 4, side, side), torch.zeros(batch, 77, 1024)


@pytest.mark.parametrize(("side", "tera"), [(64, 0.158), (128, 0.719)])
@torch.no_grad()
def test_arithmetic_of_one_forward(side: int, tera: float) -> None:
    psi, noise, text = published(side)
    with FlopCounterMode(display=False) as counter:
        psi(noise, text)
    assert counter.get_total_flops() / 1e12 == pytest.approx(tera, rel=0.01)


class Operations(TorchDispatchMode):
    """The names of torch's operations, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        self.names.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


@torch.no_grad()
def test_operations_of_one_forward() -> None:
    """A GPU waits for each to be started. diffusers' own blocks start more, such as divisions by 1."""
    psi, noise, text = published(64)
    with Operations() as ours:
        psi(noise, text)
    with Operations() as theirs:
        psi.train()(noise, text)
    layers, seen = Counter(type(layer).__name__ for layer in psi.modules()), Counter(ours.names)
    assert seen["convolution"] == layers["Conv2d"]
    assert seen["native_group_norm"] == layers["GroupNorm"]
    assert seen["native_layer_norm"] == layers["LayerNorm"]
    assert seen["div"] == seen["dropout"] == seen["native_dropout"] == 0
    assert len(ours.names) < len(theirs.names)


# A whole picture in the miniature WebUI


class Costs:
    """What pictures cost since the last `taken`."""

    def __init__(self, module: OMSModule, folder: str) -> None:
        self._folder = folder
        self._psi, self._text = Forwards(module.psi), Forwards(module.text_encoder.towers[0].model)
        self._flop, self._opened = 0, 0
        self.operations: list[str] = []

    def watch(self, run: Callable[..., Any]) -> Callable[..., Any]:
        """The hook's own `_run`, counted in the thread in which the host calls it."""

        def watched(*args: Any) -> Any:
            with FlopCounterMode(display=False) as flop, Operations() as operations:
                made = run(*args)
            self._flop += flop.get_total_flops()
            self.operations += operations.names
            return made

        return watched

    def audit(self, event: str, args: tuple) -> None:
        if event == "open" and isinstance(args[0], (str, bytes)) and os.fsdecode(args[0]).startswith(self._folder):
            self._opened += 1

    def taken(self) -> dict[str, Any]:
        """Forwards of psi and of the text encoder by batch size, the step's FLOP, how often it waits for the device,
        and how often a file of the module is opened.
        """
        waits = sum(name in WAITS for name in self.operations)
        found = {"psi": [*self._psi], "text": [*self._text], "flop": self._flop, "waits": waits, "files": self._opened}
        self._psi.clear()
        self._text.clear()
        self._flop, self._opened = 0, 0
        self.operations = []
        return found

    def close(self) -> None:
        self._psi.remove()
        self._text.remove()


AUDITED: list[Costs] = []


@pytest.fixture(scope="module", autouse=True)
def audits() -> None:
    """An audit hook cannot be taken off again: it is one for all tests."""
    sys.addaudithook(lambda event, args: [costs.audit(event, args) for costs in AUDITED] and None)


@pytest.fixture
def costs(webui: WebUI, monkeypatch: pytest.MonkeyPatch) -> Iterator[Costs]:
    """Counts from the second picture on; the first loads the module."""
    from lib_oms.webui import hook
    from lib_oms.webui.loaded import LOADED

    webui.options(oms_memory_policy="keep in RAM")
    LOADED.clear()
    picture(webui)
    (((path, *_), held),) = LOADED._modules.items()
    costs = Costs(held.module, os.fspath(path))
    monkeypatch.setattr(hook, "_run", costs.watch(hook._run))
    AUDITED.append(costs)
    yield costs
    AUDITED.clear()
    costs.close()


def picture(webui: WebUI, prompt: str = "night", scale: float = 1.0, **fields: Any) -> None:
    webui.txt2img(True, MODULE, prompt, scale, sampler_name="Euler", **fields)


def forward(batch: int) -> int:
    """FLOP of one forward of the module that is loaded, as the pictures here need it."""
    from lib_oms.webui.loaded import LOADED

    (held,) = LOADED._modules.values()
    psi = held.module.psi
    text = torch.zeros(batch, 77, psi.config.cross_attention_dim)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        psi(torch.zeros(batch, 4, SIDE, SIDE), text)
    return counter.get_total_flops()


SIDE = 64 // 8
FILES = 0  # what its header said is remembered until the file changes


def test_a_picture_whose_prompt_is_known(webui: WebUI, costs: Costs) -> None:
    picture(webui, seed=8)
    first_wait = next(i for i, name in enumerate(costs.operations) if name in WAITS)
    assert "convolution" not in costs.operations[first_wait:], "waited for the device while psi was still to start"
    # It waits three times, to see that its numbers are finite.
    assert costs.taken() == {"psi": [1], "text": [], "flop": forward(1), "waits": 3, "files": FILES}


def test_guidance_is_one_forward_of_two(webui: WebUI, costs: Costs) -> None:
    picture(webui, scale=1.5)
    assert costs.taken()["text"] == [1], "the negative prompt, once"
    picture(webui, scale=1.5, seed=8)
    assert costs.taken() == {"psi": [2], "text": [], "flop": forward(2), "waits": 4, "files": FILES}


def test_a_batch_is_so_many_pictures_and_no_more_files(webui: WebUI, costs: Costs) -> None:
    picture(webui, batch_size=3)
    assert costs.taken() == {"psi": [1] * 3, "text": [], "flop": 3 * forward(1), "waits": 9, "files": FILES}


def test_a_new_prompt_is_read_once(webui: WebUI, costs: Costs) -> None:
    picture(webui, "day", batch_size=2)
    assert costs.taken()["text"] == [1]
    picture(webui, "night", batch_size=2)
    picture(webui, "day", batch_size=2)
    assert costs.taken()["text"] == []


def test_a_picture_without_the_step_costs_nothing(webui: WebUI, costs: Costs) -> None:
    picture(webui)
    costs.taken()
    webui.txt2img(sampler_name="Euler")
    assert costs.taken() == {"psi": [], "text": [], "flop": 0, "waits": 0, "files": 0}


def test_no_picture_leaves_bytes_behind(webui: WebUI, costs: Costs) -> None:
    """What the host itself holds in circles is the collector's; tests/webui/test_memory.py goes without one."""
    left = []
    for seed in range(3):
        picture(webui, seed=seed)
        gc.collect()
        left.append(live_bytes())
    assert left[1] == left[2]
