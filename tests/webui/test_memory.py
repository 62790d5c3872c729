"""Memory that is let go: at once and all of it, without waiting for Python's collector, which is off here.

"meta" plays a device with memory of its own, as in tests/webui/test_manners.py.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from extension_helpers import RequestFailed, WebUI
from live_bytes import live_bytes
from manager_helpers import MANAGERS, ForgeManager
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from untrained_helpers import place_untrained

from lib_oms.psi import OMSUNet, OMSUNetConfig, predict_v

pytest.importorskip("gradio")

META, CPU = torch.device("meta"), torch.device("cpu")
POLICIES = ("keep on the device", "keep in RAM", "drop after use")
MODULES = ("first", "second", "third")
HOSTS = ("plain", *MANAGERS)


@pytest.fixture(scope="module")
def webui(start_webui: Callable[..., WebUI], tmp_path_factory: pytest.TempPathFactory) -> WebUI:
    folder = tmp_path_factory.mktemp("memory")
    for seed, name in enumerate(MODULES):
        place_untrained(folder / "models" / name, seed)
    return start_webui("forge", folder=folder, model=folder / "models" / MODULES[0])


@pytest.fixture(params=HOSTS)
def memory(webui: WebUI, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Any:
    """lib_oms.webui.memory in a host without a manager, or with one of Forge's or Forge Neo's shape."""
    from lib_oms.webui import memory
    from lib_oms.webui.loaded import LOADED

    LOADED.clear()
    manager = MANAGERS[request.param]() if request.param in MANAGERS else None
    monkeypatch.setattr(memory, "manager", manager)
    monkeypatch.setattr(memory, "ModelPatcher", manager and manager.patcher)
    yield memory
    LOADED.clear()


@pytest.fixture
def no_collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    gc.collect()
    gc.disable()
    gc.freeze()  # what is there already need not be looked through, half a million objects: not now, and not later
    monkeypatch.setattr(gc, "collect", lambda *args: 0)  # hosts call it, but not all of them and not always
    yield
    gc.enable()


def module_bytes() -> int:
    """Of one module in memory: psi and its text encoder, in float32."""
    from lib_oms.webui.loaded import LOADED

    (module, *_) = (held.module for held in LOADED._modules.values())
    return sum(p.nbytes for network in (module.psi, module.text_encoder) for p in network.parameters())


@pytest.mark.parametrize("policy", POLICIES)
def test_three_modules_in_turn_hold_no_more_than_two(
    webui: WebUI, memory: Any, options: Any, no_collector: None, policy: str
) -> None:
    options("oms_memory_policy", "keep in RAM")
    webui.txt2img(True, MODULES[0], "night", 1.5, sampler_name="Euler")
    one = module_bytes()
    from lib_oms.webui.loaded import LOADED

    LOADED.clear()
    options("oms_memory_policy", policy)
    webui.txt2img(sampler_name="Euler")
    before = live_bytes()
    seen = []
    for i in range(7):
        webui.txt2img(True, MODULES[i % 3], "night", 1.5, sampler_name="Euler")
        seen.append(round((live_bytes() - before) / one, 1))
    kept = [0.0] * 7 if policy == "drop after use" else [1.0] + [2.0] * 6
    assert seen == pytest.approx(kept, abs=0.25), "modules in memory after each picture"


class Weighty(nn.Module):
    """A network with a small layer first and a large one; it can come back from "meta", and counts what it moves."""

    def __init__(self) -> None:
        super().__init__()
        self.small, self.large = nn.Linear(2, 2), nn.Linear(100, 100)
        self.register_buffer("positions", torch.arange(5))
        self.moved = 0

    def _apply(self, fn: Any, recurse: bool = True) -> Weighty:
        self.moved += sum(tensor.numel() for tensor in self.parameters())
        try:
            return super()._apply(fn, recurse)
        except NotImplementedError:  # "Cannot copy out of meta tensor"
            return self.to_empty(device=CPU)

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in (*self.parameters(), *self.buffers()))

    @property
    def at(self) -> set[str]:
        return {tensor.device.type for tensor in (*self.parameters(), *self.buffers())}

    @property
    def memory(self) -> list[int]:
        """Where in RAM its tensors are."""
        return [tensor.data_ptr() for tensor in (*self.parameters(), *self.buffers())]


def copied(network: nn.Module) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in network.state_dict().values()]


def same(network: nn.Module, expected: list[torch.Tensor]) -> bool:
    return all(map(torch.equal, network.state_dict().values(), expected))


@pytest.mark.parametrize("policy", ["keep in RAM", "drop after use"])
def test_weights_stay_in_ram_and_a_copy_computes(memory: Any, options: Any, no_collector: None, policy: str) -> None:
    """Nothing is carried back: what it cost on a GPU is in docs/performance.md."""
    options("oms_memory_policy", policy)
    network = Weighty()
    weights, where, own = copied(network), network.memory, list(network.parameters())
    for _ in range(2):
        before = live_bytes()
        with memory.on_device(network, META):
            assert network.at == {"meta"}
            assert live_bytes() - before <= network.bytes, "one copy, on the device; RAM holds what it held"
        assert network.memory == where
        assert same(network, weights)
        assert all(now is then for now, then in zip(network.parameters(), own, strict=True))
        assert live_bytes() == before


@pytest.mark.parametrize("policy", POLICIES)
def test_where_the_cpu_computes_nothing_is_copied(memory: Any, options: Any, policy: str) -> None:
    options("oms_memory_policy", policy)
    network = Weighty()
    where, before = network.memory, live_bytes()
    with memory.on_device(network, CPU):
        assert network.memory == where
        assert live_bytes() == before
    assert network.memory == where


def test_what_a_host_does_to_the_copy_is_not_done_to_the_weights(memory: Any, options: Any) -> None:
    """Forge stores weights in fp8 on the device where a person asks for it; the next picture asks again."""
    options("oms_memory_policy", "keep in RAM")
    network = Weighty()
    weights = copied(network)
    with memory.on_device(network, META):
        network.to(torch.bfloat16)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert same(network, weights)


def test_what_stayed_on_the_device_is_carried_once_the_setting_is_another(memory: Any, options: Any) -> None:
    options("oms_memory_policy", "keep on the device")
    network = Weighty()
    with memory.on_device(network, META):
        pass
    assert network.at == {"meta"}
    options("oms_memory_policy", "keep in RAM")
    with memory.on_device(network, META):
        pass
    assert network.at == {"cpu"}


def test_weights_that_were_made_in_inference_mode_are_lent_too(memory: Any, options: Any) -> None:
    options("oms_memory_policy", "keep in RAM")
    with torch.inference_mode():
        network = Weighty()
        weights, where = copied(network), network.memory
        with memory.on_device(network, META):
            assert network.at == {"meta"}
    assert network.memory == where
    assert same(network, weights)


def test_forgotten_network_is_gone_at_once_with_its_patcher(memory: Any, options: Any, no_collector: None) -> None:
    options("oms_memory_policy", "keep on the device")
    network = Weighty()
    with memory.on_device(network, META):
        assert network.at == {"meta"}
    network.moved = 0
    memory.forget(network)
    assert network.moved == 0, "what is dropped need not be carried to RAM before"
    assert network.bytes == 0, "whoever still holds it holds nothing"
    if memory.manager is not None:
        assert memory.manager.current_loaded_models == []
    gone = weakref.ref(network)
    del network
    assert gone() is None


def test_stray_references_hold_nothing(memory: Any, no_collector: None) -> None:
    """A list of the host's, an exception's frames, a weight that somebody took out."""
    network = Weighty()
    stray = [network, network.large.weight, *network.children()]
    network.itself = [network]
    memory.forget(network)
    assert stray[1].nbytes == 0
    assert sum(parameter.nbytes for parameter in stray[0].parameters()) == 0


def test_weights_that_a_host_made_in_inference_mode_go_too(memory: Any, no_collector: None) -> None:
    with torch.inference_mode():
        network = Weighty()
    memory.forget(network)
    assert network.bytes == 0


def test_memory_that_is_pinned_is_unpinned_before_it_goes(memory: Any, options: Any) -> None:
    if memory.manager is None or not hasattr(memory.manager.patcher, "pin"):
        pytest.skip("Forge Neo's alone")
    options("oms_memory_policy", "keep on the device")
    network = Weighty()
    with memory.on_device(network, META):
        memory.manager.current_loaded_models[0].model.pin()
    memory.forget(network)
    assert network.bytes == 0


def test_patcher_lives_as_long_as_its_network_is_wanted(memory: Any, options: Any, no_collector: None) -> None:
    if memory.manager is None:
        pytest.skip("without a manager there is no patcher")
    options("oms_memory_policy", "keep on the device")
    network = Weighty()
    with memory.on_device(network, META):
        pass
    gc.enable()
    (loaded,) = memory.manager.current_loaded_models
    assert loaded.model is not None, "the manager may hold it weakly"
    memory.forget(network)


class FullDevice(ForgeManager):
    """Has room for one layer, and leaves it where it is."""

    def load_models_gpu(self, models: list[Any], memory_required: int = 0) -> None:
        models[0].model.network.large.to(META)
        raise RuntimeError("no room for more")


def test_load_that_fails_half_way_leaves_nothing_on_the_device(webui: WebUI, monkeypatch: pytest.MonkeyPatch) -> None:
    from lib_oms.webui import memory

    monkeypatch.setattr(memory, "manager", FullDevice())
    monkeypatch.setattr(memory, "ModelPatcher", FullDevice.patcher)
    network = Weighty()
    weights, where = copied(network), network.memory
    with pytest.raises(RuntimeError, match="no room"), memory.on_device(network, META):
        pass
    assert network.at == {"cpu"}
    assert network.memory == where
    assert same(network, weights), "the next attempt starts from the same weights"


def test_failure_lets_go_of_the_work_in_hand(
    webui: WebUI, memory: Any, options: Any, no_collector: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """psi runs out of memory in its last layer: what it had worked out is not kept by the error, however often."""
    options("oms_memory_policy", "drop after use")
    monkeypatch.setattr(OMSUNet, "forward", _fails_late)
    webui.txt2img(sampler_name="Euler")
    before = live_bytes()
    for _ in range(3):
        with pytest.raises(RequestFailed, match="too little free memory"):
            webui.txt2img(True, MODULES[0], "night", sampler_name="Euler")
    assert live_bytes() - before < 1_000_000


def _fails_late(psi: OMSUNet, latents: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    work_in_hand = torch.zeros(10_000_000)
    raise torch.cuda.OutOfMemoryError(f"out of memory beside {work_in_hand.numel()} numbers")


# What psi's forward takes


class Peak(TorchDispatchMode):
    """The most bytes that results of torch's operations held at once."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._known = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
        self._now, self.bytes = 0, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self._known:
                storage = tensor.untyped_storage()
                self._known.add(storage._cdata)
                self._now += storage.nbytes()
                self.bytes = max(self.bytes, self._now)
                weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        return made

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._now -= size


HALF_AS_WIDE = OMSUNetConfig._published(1024, (96, 160, 320), (3, 5, 10), (1, 1, 1))


@pytest.mark.parametrize("scale", [1.0, 1.5])
@pytest.mark.parametrize(
    ("fused", "size", "config", "dtype"),
    [
        (True, 32, HALF_AS_WIDE, torch.float32),
        (False, 32, HALF_AS_WIDE, torch.float32),
        (False, 128, OMSUNetConfig.base(), torch.float32),  # on "meta", where nothing is computed
        (False, 128, OMSUNetConfig.base(), torch.float16),
    ],
)
def test_psi_takes_what_the_manager_is_asked_for(
    webui: WebUI,
    monkeypatch: pytest.MonkeyPatch,
    fused: bool,
    size: int,
    config: OMSUNetConfig,
    dtype: torch.dtype,
    scale: float,
) -> None:
    from modules import devices

    from lib_oms.webui import memory

    monkeypatch.setattr(devices, "dtype", dtype)
    with torch.device("meta"):
        psi = OMSUNet(config).to(dtype)
    device = META if size == 128 else CPU
    if device == CPU:
        psi = psi.to_empty(device=device)
    noise = torch.zeros(1, 4, size, size, device=device)
    text = torch.zeros(1, 77, 1024, dtype=dtype, device=device)
    backend = SDPBackend.FLASH_ATTENTION if fused else SDPBackend.MATH
    with torch.no_grad(), sdpa_kernel(backend):
        assert memory.fused_attention(device, dtype, 32) == fused
        asked = memory.working_memory(noise, config, device, guided=scale != 1.0)
        with Peak(psi) as peak:
            predict_v(psi, noise, text, text, scale)
    assert peak.bytes <= asked <= 5 * peak.bytes, f"{peak.bytes / 2**20:.0f} MB taken, {asked / 2**20:.0f} MB asked for"


def test_manager_is_asked_for_what_psi_takes(
    webui: WebUI, memory: Any, options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if memory.manager is None:
        pytest.skip("without a manager nobody is asked")
    monkeypatch.setattr(memory, "fused_attention", lambda *args: True)
    webui.txt2img(True, MODULES[0], "night", 1.5, sampler_name="Euler")
    fused = memory.manager.asked
    monkeypatch.setattr(memory, "fused_attention", lambda *args: False)
    webui.txt2img(True, MODULES[0], "night", 1.5, sampler_name="Euler")
    assert memory.manager.asked > fused > 0
