"""The extension on a GPU, in the half precision that hosts compute in there: run where torch sees one, else skipped.

Inside a running miniature WebUI, whose own model stays on the CPU: what is on the GPU is ours alone. With OMS_WEBUI_DIR
naming a Forge, its own memory manager does the moving, too.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import pytest
import torch
from extension_helpers import WebUI
from real_host_helpers import folder as named_webui

pytest.importorskip("gradio")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch sees")

POLICIES = ("keep on the device", "keep in RAM", "drop after use")


@pytest.fixture(params=["plain", "forge"])
def gpu(webui: WebUI, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the GPU the host's device when called, in a host without a memory manager and in one with Forge's."""
    from modules import devices

    from lib_oms.webui import memory
    from lib_oms.webui.loaded import LOADED

    if request.param == "forge":
        home = named_webui()
        if home is None or not (home / "backend/memory_management.py").is_file():
            pytest.skip("OMS_WEBUI_DIR names no Forge")
        monkeypatch.setattr(sys, "argv", sys.argv[:1])  # it reads the command line when it is imported
        monkeypatch.syspath_prepend(str(home / "packages_3rdparty"))
        monkeypatch.syspath_prepend(str(home))
        monkeypatch.setattr(memory, "manager", importlib.import_module("backend.memory_management"))
        patcher = importlib.import_module("backend.patcher.base").ModelPatcher
        monkeypatch.setattr(memory, "ModelPatcher", patcher)
    else:
        monkeypatch.setattr(memory, "manager", None)

    def use(dtype: torch.dtype = torch.float16) -> None:
        monkeypatch.setattr(devices, "device", torch.device("cuda"))
        monkeypatch.setattr(devices, "dtype", dtype)

    LOADED.clear()
    yield use
    LOADED.clear()


def started(webui: WebUI, **fields: Any) -> torch.Tensor:
    """What reached the denoiser first."""
    settings = {"enabled": True, "prompt": "black background", **fields.pop("oms", {})}
    return torch.cat([seen.x for seen in webui.txt2img(settings, **fields).seen])


@pytest.mark.parametrize(("dtype", "most"), [(torch.float16, 2e-4), (torch.bfloat16, 2e-3)], ids=["fp16", "bf16"])
@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_first_latent_is_that_of_single_precision(
    webui: WebUI, gpu: Any, dtype: torch.dtype, most: float, scale: float
) -> None:
    oms = {"guidance_scale": scale}
    expected = started(webui, oms=oms)
    gpu(dtype)
    found = started(webui, oms=oms)
    error = (found - expected).norm() / expected.norm()
    assert 0 < error < most


def test_alone_and_third_in_a_batch_are_the_same_bits(webui: WebUI, gpu: Any) -> None:
    gpu()
    oms = {"guidance_scale": 1.5, "eta": 0.5}
    batch = started(webui, seed=7, batch_size=3, oms=oms)
    alone = started(webui, seed=9, oms=oms)
    assert torch.equal(batch[2:], alone)


@pytest.mark.parametrize("policy", POLICIES)
def test_memory_of_the_gpu(webui: WebUI, gpu: Any, policy: str) -> None:
    """To the byte: nothing of ours is left but what the policy says, and it does not grow."""
    gpu()
    started(webui)  # cuBLAS takes its workspace once
    webui.options(oms_memory_policy="drop after use")
    started(webui)
    before = torch.cuda.memory_allocated()
    webui.options(oms_memory_policy=policy)
    left = []
    for seed in range(4):
        started(webui, seed=seed)
        left.append(torch.cuda.memory_allocated() - before)
    assert len(set(left)) == 1, left
    if policy == "keep on the device":
        from lib_oms.webui.loaded import LOADED

        (held,) = LOADED._modules.values()
        parts = [*held.module.psi.state_dict().values(), *held.module.text_encoder.state_dict().values()]
        assert all(part.is_cuda for part in parts)
        assert sum(part.nbytes for part in parts) <= left[0]
    else:
        assert left[0] == 0
    webui.options(oms_memory_policy="keep in RAM")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_stay_in_ram_and_nothing_is_carried_back(webui: WebUI, gpu: Any, dtype: torch.dtype) -> None:
    from lib_oms.webui.loaded import LOADED

    gpu(dtype)
    webui.options(oms_memory_policy="keep on the device")
    expected = started(webui, seed=8)
    LOADED.clear()
    webui.options(oms_memory_policy="keep in RAM")
    started(webui)
    (held,) = LOADED._modules.values()
    parts = [*held.module.psi.parameters(), *held.module.text_encoder.parameters()]
    where, weights = [part.data_ptr() for part in parts], [part.clone() for part in parts]
    held.module.text_encoder.forget()
    assert torch.equal(started(webui, seed=8), expected)
    assert [part.data_ptr() for part in parts] == where
    assert all(map(torch.equal, parts, weights))


def test_from_one_policy_to_another_and_back(webui: WebUI, gpu: Any) -> None:
    """What stayed on the GPU is carried to RAM once, and then is lent."""
    gpu()
    webui.options(oms_memory_policy="keep in RAM")
    expected = started(webui)
    before = torch.cuda.memory_allocated()
    for policy in ("keep on the device", "keep in RAM", "keep on the device", "drop after use", "keep in RAM"):
        webui.options(oms_memory_policy=policy)
        assert torch.equal(started(webui), expected), policy
    assert torch.cuda.memory_allocated() == before


def test_psi_computes_what_diffusers_blocks_compute(webui: WebUI, gpu: Any) -> None:
    from lib_oms.webui.loaded import LOADED

    gpu()
    webui.options(oms_memory_policy="keep on the device")
    started(webui)
    (held,) = LOADED._modules.values()
    psi = held.module.psi
    noise = torch.randn(1, 4, 13, 16, device="cuda")
    text = torch.randn(1, 77, psi.config.cross_attention_dim, device="cuda")
    with torch.no_grad():
        ours = psi(noise, text)
        try:
            assert torch.equal(psi.train()(noise, text), ours)
        finally:
            psi.eval()
    webui.options(oms_memory_policy="keep in RAM")


def test_a_repeated_prompt_leaves_the_text_encoder_in_ram(webui: WebUI, gpu: Any, monkeypatch: Any) -> None:
    from lib_oms.webui.loaded import LOADED

    gpu()
    webui.options(oms_memory_policy="keep in RAM")
    started(webui)
    (held,) = LOADED._modules.values()
    module = held.module
    moved = []
    apply = module.text_encoder._apply
    monkeypatch.setattr(module.text_encoder, "_apply", lambda *args: moved.append(args) or apply(*args))
    again = started(webui, seed=8)
    assert not moved
    module.text_encoder.forget()
    assert torch.equal(started(webui, seed=8), again)
    assert moved


def test_a_full_gpu_is_told_and_leaves_nothing_there(webui: WebUI, gpu: Any) -> None:
    from extension_helpers import RequestFailed

    gpu()
    started(webui)
    before = torch.cuda.memory_allocated()
    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**16) / total)
    try:
        with pytest.raises(RequestFailed, match="too little free memory"):
            started(webui, width=2048, height=2048, state="one call is enough")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert torch.cuda.memory_allocated() == before
    started(webui)
