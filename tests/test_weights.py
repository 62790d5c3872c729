"""Weights that are lent to a device, without a host. "meta" plays a device where there is no GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from module_helpers import tiny_module
from torch import nn

from lib_oms.weights import Lent

DEVICES = [torch.device("meta"), *([torch.device("cuda", 0)] if torch.cuda.is_available() else [])]


def tensors(network: nn.Module) -> list[torch.Tensor]:
    return [*network.parameters(), *network.buffers()]


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("part", ["psi", "text_encoder"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_there_and_back(tmp_path: Path, device: torch.device, part: str, dtype: torch.dtype) -> None:
    """Buffers that no file holds, as CLIP's positions are, too."""
    network = getattr(tiny_module(tmp_path), part).to(dtype)
    own, where = tensors(network), [tensor.data_ptr() for tensor in tensors(network)]
    contents = [tensor.clone() for tensor in own]
    weights = Lent(network)
    network.to(device)
    assert {tensor.device for tensor in tensors(network)} == {device}
    weights.put_back()
    weights.put_back()  # a second time is as good
    assert [tensor.data_ptr() for tensor in tensors(network)] == where
    assert all(map(torch.equal, tensors(network), contents))
    assert all(now is then for now, then in zip(tensors(network), own, strict=True))


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_one_weight_in_two_places_stays_one(device: torch.device) -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    network[1].weight = network[0].weight
    weights = Lent(network)
    network.to(device)
    weights.put_back()
    assert network[0].weight is network[1].weight
    assert network[0].weight.device.type == "cpu"


def test_what_was_on_a_device_stays_there() -> None:
    network = nn.Sequential(nn.Linear(3, 3, device="meta"), nn.Linear(3, 3))
    weights = Lent(network)
    network.to("meta")
    weights.put_back()
    assert [layer.weight.device.type for layer in network] == ["meta", "cpu"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch sees")
def test_of_the_copies_nothing_is_left_on_the_gpu() -> None:
    network = nn.Linear(1000, 1000)
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        weights = Lent(network)
        network.to("cuda")
        x = torch.ones(1, 1000)
        assert torch.equal(network(x.cuda()).cpu().isfinite(), torch.ones(1, 1000, dtype=torch.bool))
        weights.put_back()
        assert torch.cuda.memory_allocated() - before <= 2**23, "cuBLAS keeps its workspace"
    assert torch.allclose(network(x), network.cuda()(x.cuda()).cpu(), atol=1e-4)
