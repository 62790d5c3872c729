"""The loop that trains every part of the embedded model: rate, moving average, time limit, and where it was cut."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from lib_oms.training import checkpoint

Loss = Callable[[int], torch.Tensor]
"""The loss of a step, by the step's number: all that is drawn for it depends on that number and on the seed alone."""


@dataclass
class Plan:
    """How long a network is trained, and how fast it learns."""

    steps: int
    rate: float
    batch: int
    decay: float = 0.0
    """Of the moving average that is kept instead of the last weights; 0: none."""
    minutes: float = math.inf
    """The clock ends the training, and slows it down before, where it is ahead of the steps."""


@dataclass
class Training:
    """A network under training, continued from `folder` if one was cut there.

    Args:
        network: trained in place; `finish` gives it the averaged weights.
        watch: called every `watch_every` steps with the averaged network.
    """

    title: str
    network: torch.nn.Module
    plan: Plan
    folder: Path
    watch: Callable[[int, torch.nn.Module], object] | None = None
    watch_every: int = 500
    save_minutes: float = 5.0
    step: int = 0

    def run(self, loss_of: Loss) -> None:
        """Trains to the end and leaves the averaged weights in the network, which is in eval mode then."""
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        device = parameters[0].device
        optimizer = torch.optim.AdamW(
            parameters, lr=self.plan.rate, weight_decay=1e-3, betas=(0.9, 0.99), fused=device.type == "cuda"
        )
        average = AveragedModel(self.network, multi_avg_fn=self._take_in) if self.plan.decay else None
        spent = self._continue(optimizer, average)
        began = saved = time.monotonic()
        losses: list[torch.Tensor] = []
        with tqdm(total=self.plan.steps, initial=self.step, desc=self.title, mininterval=5) as bar:
            while (done := self._done(spent + time.monotonic() - began)) < 1:
                for group in optimizer.param_groups:
                    group["lr"] = self.plan.rate * rate_factor(self.step, done)
                loss = loss_of(self.step)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                if average is not None:
                    average.update_parameters(self.network)
                self.step += 1
                losses.append(loss.detach())
                bar.update()
                if self.step % 100 == 0:  # asked for seldom: a GPU would be waited for
                    bar.set_postfix(loss=f"{torch.stack(losses).mean().item():.4f}", refresh=False)
                    losses.clear()
                if self.watch is not None and self.step % max(1, self.watch_every) == 0:
                    self.watch(self.step, average.module if average is not None else self.network)
                if time.monotonic() - saved > 60 * self.save_minutes:
                    saved = time.monotonic()
                    self._save(spent + saved - began, optimizer, average)
        self._save(spent + time.monotonic() - began, optimizer, average)
        if average is not None:
            self.network.load_state_dict(average.module.state_dict())
        self.network.eval()

    def _done(self, seconds: float) -> float:
        return max(self.step / self.plan.steps, seconds / 60 / self.plan.minutes)

    def _take_in(self, kept: Any, new: Any, _: torch.Tensor | int) -> None:
        """Little of the average stays at first, for early weights are soon outdated.

        The steps are counted here: to ask for torch's own count would wait for all that a GPU has queued.
        """
        torch._foreach_lerp_(kept, new, 1 - min(self.plan.decay, 1 - (1 + self.step) ** -0.8))

    def _tensors(self, optimizer: torch.optim.Optimizer, average: AveragedModel | None) -> dict[str, torch.Tensor]:
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        for name, parameter in self.network.named_parameters():
            if parameter.requires_grad:
                tensors.update({f"optimizer.{name}.{key}": value for key, value in optimizer.state[parameter].items()})
        if average is not None:
            tensors.update({f"average.{name}": tensor for name, tensor in average.state_dict().items()})
        return tensors

    def _save(self, seconds: float, optimizer: torch.optim.Optimizer, average: AveragedModel | None) -> None:
        if (self.folder / f"step-{self.step:08d}").exists():  # a training that had ended already
            return
        tensors = self._tensors(optimizer, average)
        state = {"step": self.step, "seconds": seconds}
        checkpoint.save_checkpoint(self.folder, self.step, tensors, state, keep=1)

    def _continue(self, optimizer: torch.optim.Optimizer, average: AveragedModel | None) -> float:
        """Takes up the state in the folder, if one is there; returns the seconds that were spent on it."""
        self.network.train()
        found = checkpoint.list_checkpoints(self.folder)
        if not found:
            return 0.0
        for parameter in (p for p in self.network.parameters() if p.requires_grad):
            where = parameter.device if parameter.device.type == "cuda" else "cpu"
            optimizer.state[parameter] = {
                "step": torch.zeros((), device=where),
                "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            }
        checkpoint.load_tensors_into(found[-1], self._tensors(optimizer, average))
        state = checkpoint.load_state(found[-1])
        self.step = state["step"]
        return state["seconds"]


def rate_factor(step: int, done: float, *, warmup: int = 50, floor: float = 0.02) -> float:
    """The learning rate's factor: a short warm-up, then half a cosine over what is `done` (0 to 1) of the training."""
    if step < warmup:
        return (step + 1) / warmup
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))
