"""Devices that this machine lacks: what is asked of them on the way to v is what they can do, in every torch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from module_helpers import tiny_module
from pretend_device import PretendDevice

# An Apple's GPU and DirectML have no autocast in the torch of some hosts, which raises where it is only to be left.
KINDS = ["cuda", "mps", "privateuseone"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_module_answers_there_as_on_the_cpu(tmp_path: Path, kind: str) -> None:
    module = tiny_module(tmp_path)
    noise = torch.randn(2, 4, 8, 8)
    asked = ["a (bright:1.2) night", "day"], ["fog"], 1.5
    expected = module.predict_v(noise, *asked)
    with PretendDevice(kind):
        module.to(kind)
        there = module.device, module.text_encoder.device
        answer = module.predict_v(noise, *asked)
        module.to("cpu")
    assert there == (torch.device(kind, 0),) * 2
    torch.testing.assert_close(answer, expected, rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_noise_may_come_from_there(tmp_path: Path, kind: str) -> None:
    """As hosts call the hook: what comes back is where the noise is."""
    module = tiny_module(tmp_path)
    noise = torch.randn(1, 4, 8, 8)
    expected, _ = module.predict_v(noise, ["night"])
    with PretendDevice(kind):
        module.to(kind)
        answer, _ = module.predict_v(noise.to(kind), ["night"])
        assert answer.device == torch.device(kind, 0)
        torch.testing.assert_close(answer.cpu(), expected, rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_known_prompt_is_remembered_from_there(tmp_path: Path, kind: str) -> None:
    """Hosts ask for "cuda" and mean the current one; what was moved there says "cuda:0"."""
    encoder = tiny_module(tmp_path).text_encoder
    with PretendDevice(kind):
        (encoded,) = encoder.to(kind).encode_each(["night"])
        encoder.to("cpu")
        known = encoder.remembered(["night"], torch.device(kind))
        assert known is not None
        torch.testing.assert_close(known[0], encoded.cpu(), rtol=0, atol=0)
        assert encoder.remembered(["night"], torch.device(kind, 0)) is not None
    assert encoder.remembered(["night"], torch.device("cpu")) is None  # other devices round otherwise
