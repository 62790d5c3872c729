"""How the embedded model's parts are trained: cut and continued, to the clock, on captions that are partly astray."""

import pytest
import torch
from torch import nn

from lib_oms.embedded.denoiser import ASTRAY, CAPTIONS_LEFT_OUT, Examples, Text, denoising_loss
from lib_oms.embedded.loop import Plan, Training, rate_factor


def network() -> nn.Module:
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(6, 8), nn.SiLU(), nn.Linear(8, 1))


def loss_of(under_training: nn.Module, *, cut_at: int = -1):
    def loss(step: int) -> torch.Tensor:
        if step == cut_at:
            raise KeyboardInterrupt
        x = torch.randn(16, 6, generator=torch.Generator().manual_seed(step))
        return (under_training(x) - x.sum(dim=1, keepdim=True)).square().mean()

    return loss


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_a_training_that_was_cut_ends_where_an_uncut_one_does(tmp_path, decay):
    plan = Plan(steps=30, rate=1e-2, batch=16, decay=decay)
    whole, cut = network(), network()
    Training("whole", whole, plan, tmp_path / "whole").run(loss_of(whole))
    with pytest.raises(KeyboardInterrupt):
        Training("cut", cut, plan, tmp_path / "cut", save_minutes=0).run(loss_of(cut, cut_at=17))
    going_on = network()
    again = Training("cut", going_on, plan, tmp_path / "cut")
    again.run(loss_of(going_on))
    assert again.step == 30
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, going_on.state_dict()[name]), name
    assert not going_on.training


def test_a_training_that_had_ended_is_not_run_again(tmp_path):
    plan = Plan(steps=3, rate=1e-2, batch=16)
    first, second = network(), network()
    Training("first", first, plan, tmp_path).run(loss_of(first))
    Training("second", second, plan, tmp_path).run(loss_of(second, cut_at=3))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_the_clock_ends_a_training(tmp_path):
    under_training = network()
    training = Training("short", under_training, Plan(10**9, 1e-2, 16, minutes=0.01), tmp_path)
    training.run(loss_of(under_training))
    assert 0 < training.step < 10**9


def test_the_rate_warms_up_falls_and_stays_above_nothing():
    assert rate_factor(0, 0.0) < 0.05
    assert rate_factor(60, 0.0) == pytest.approx(1.0)
    falling = [rate_factor(60, done / 10) for done in range(11)]
    assert falling == sorted(falling, reverse=True)
    assert falling[-1] > 0


class Listener(nn.Module):
    """Notes which captions a denoiser is told: here a caption is one number."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[float] = []

    def forward(self, x: torch.Tensor, timestep: torch.Tensor, *, encoder_hidden_states: torch.Tensor, **_: object):
        self.heard += encoder_hidden_states[:, 0, 0].tolist()
        return (x,)


def test_a_quarter_of_captions_is_astray_and_a_tenth_is_left_out():
    own, other, empty = 0.0, 1.0, 2.0
    text = Text(torch.tensor([own, other, empty]).half()[:, None, None].expand(-1, 77, 1))
    pictures = 4
    examples = Examples(
        torch.zeros(pictures, 4, 8, 8).half(), text, torch.zeros(pictures).long(), torch.ones(pictures).long()
    )
    listener = Listener()
    loss = denoising_loss(listener, examples, seed=1, batch=50)
    for step in range(40):
        loss(step)
    share = {caption: listener.heard.count(caption) / len(listener.heard) for caption in (own, other, empty)}
    assert share[empty] == pytest.approx(CAPTIONS_LEFT_OUT, abs=0.02)
    assert share[other] == pytest.approx(ASTRAY * (1 - CAPTIONS_LEFT_OUT), abs=0.03)
    before = list(listener.heard[:50])
    listener.heard.clear()
    loss(0)
    assert listener.heard == before, "a step draws the same when it is made again"
