"""The state of a training: weights, moving average, optimizer, step; how it is saved, continued and finished."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.swa_utils import AveragedModel
from tqdm.auto import tqdm

from lib_oms.devices import contiguous
from lib_oms.errors import OMSError, SettingError
from lib_oms.psi import OMSUNet
from lib_oms.training import checkpoint
from lib_oms.training.optional import library
from lib_oms.training.settings import TrainingSettings
from lib_oms.training.sharded import whole

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

BOARD = "torch.utils.tensorboard"
MODULE_FOLDER = "oms_module"  # as the published repositories call it


def learning_rate(settings: TrainingSettings, step: int) -> float:
    """The learning rate of a step (from 0): linear warmup, then constant or a half cosine down to zero."""
    if step < settings.warmup:
        return settings.lr * (step + 1) / settings.warmup
    if settings.schedule == "constant":
        return settings.lr
    done = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return settings.lr * 0.5 * (1.0 + math.cos(math.pi * done))


def moving_average(module: torch.nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of a module's weights.

    The decay begins low and rises to the one asked for, as that of diffusers' EMAModel, which cannot be imported beside
    the transformers that AUTOMATIC1111 pins: with the n-th weights after the first it is at most (2 + n) / (11 + n).
    """

    def take_in(kept: Sequence[torch.Tensor], new: Sequence[torch.Tensor], count: torch.Tensor | int) -> None:
        weight = 1 - min(decay, (2 + int(count)) / (11 + int(count)))
        for average, parameter in zip(kept, new, strict=True):
            average.lerp_(parameter, weight)

    return AveragedModel(module, multi_avg_fn=take_in)


class Run:
    """A training under way, from its newest checkpoint to the finished module. Every process has one; one writes."""

    def __init__(
        self,
        settings: TrainingSettings,
        psi: OMSUNet,
        optimizer: torch.optim.Optimizer,
        ema: AveragedModel | None,
        accelerator: Any,
        work: Path,
        identity: dict[str, Any],
    ):
        self.settings, self.psi, self.optimizer, self.accelerator = settings, psi, optimizer, accelerator
        self.identity = identity
        self.folder, self.log = work / "checkpoints", work / "log.jsonl"
        self.step = 0
        self.losses: list[float] = []  # since the last line of the log
        self.loss = math.nan  # their mean, at the last line of the log
        self.board: SummaryWriter | None = None  # TensorBoard's writer, of the process that writes
        self.positions: dict[str, Any] = {}  # where data that is streamed goes on, by stream
        self.positions_at: Callable[[int], dict[str, Any]] | None = None  # the same at a later step, of this process
        self.ema = ema

    def continue_or_begin(self) -> None:
        """Takes up the newest checkpoint, if there is one and it belongs to these settings."""
        self._continue_or_begin()
        if self.settings.tensorboard and self.accelerator.is_main_process:
            # It hides what a run that was killed had written beyond its last checkpoint.
            folder = str(self.log.parent / "tensorboard")
            self.board = library(BOARD, "--tensorboard needs").SummaryWriter(folder, purge_step=self.step + 1)

    def _continue_or_begin(self) -> None:
        if self.accelerator.is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
            checkpoint.remove_unfinished(self.folder)
            if self.settings.restart:
                for path in checkpoint.list_checkpoints(self.folder):
                    checkpoint.remove(path)
        self.accelerator.wait_for_everyone()
        found = checkpoint.list_checkpoints(self.folder)
        if not found:
            self._write_log([])
            return
        state = checkpoint.load_state(found[-1])
        self._refuse_other_settings(found[-1], state)
        self._make_optimizer_state()
        checkpoint.load_tensors_into(found[-1], self._tensors())
        self.step, self.losses, self.loss = state["step"], state["losses"], state["loss"]
        self.positions = state.get("positions", {})
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        if self.log.is_file():
            self._write_log([line for line in self._read_log() if line["step"] <= self.step])
        self.accelerator.print(f"continuing from {found[-1]}")

    def after_step(self, loss: float, bar: tqdm, *, skipped: bool) -> None:
        """Counts a step: moving average, progress, log, checkpoint.

        `skipped`: fp16's gradients overflowed, and the weights are what they were.
        """
        self.step += 1
        if not math.isfinite(loss):
            raise self._diverged()
        if self.ema is not None and not skipped:
            self.ema.update_parameters(self.psi)
        self.losses.append(loss)
        bar.update()
        speed = (bar.format_dict["rate"] or 0.0) * self.settings.batch_size
        bar.set_postfix_str(f"loss {sum(self.losses) / len(self.losses):.4f}, {speed:.1f} images/s", refresh=False)
        if self.step % self.settings.log_every == 0:
            self.loss = sum(self.losses) / len(self.losses)
            self.losses = []
            rate = learning_rate(self.settings, self.step - 1)
            line = {"step": self.step, "loss": self.loss, "lr": rate, "images_per_second": round(speed, 1)}
            self._write_log([line], mode="a")
            if self.board is not None:
                for name in ("loss", "lr", "images_per_second"):
                    self.board.add_scalar(name, line[name], self.step)
                self.board.flush()
        if self.step % self.settings.save_every == 0:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Saves the step that was just finished, unless it stands on disk already."""
        # Both of which all processes take part in.
        positions, tensors = self._positions(), whole(self._tensors(), keep=self.accelerator.is_main_process)
        if not self.accelerator.is_main_process or (self.folder / f"step-{self.step:08d}").exists():
            return
        if not all(bool(torch.isfinite(tensor).all()) for name, tensor in tensors.items() if name.startswith("psi.")):
            raise self._diverged()
        scaler = self.accelerator.scaler
        state = {
            "step": self.step,
            "settings": self.identity,
            "losses": self.losses,
            "loss": self.loss,
            "scaler": scaler.state_dict() if scaler is not None else None,
            "positions": positions,
        }
        checkpoint.save_checkpoint(self.folder, self.step, tensors, state, self.settings.keep)

    def finish(self, facts: dict[str, str]) -> Path:
        """Writes the module: the moving average where there is one."""
        module = Path(self.settings.output) / MODULE_FOLDER
        if self.board is not None:
            self.board.close()
        tensors = (self.psi if self.ema is None else self.ema.module).state_dict()
        if self.settings.shard:
            tensors = whole(tensors, keep=self.accelerator.is_main_process)
        if self.accelerator.is_main_process:
            psi = OMSUNet(self.psi.config) if self.settings.shard else self.psi
            psi.load_state_dict(tensors)
            contiguous(psi).eval()
            loss = sum(self.losses) / len(self.losses) if math.isnan(self.loss) else self.loss
            psi.save_pretrained(module, metadata={**facts, "training.loss": f"{loss:.6g}"})
        return module

    def _positions(self) -> dict[str, Any]:
        """Where the streams of all processes go on."""
        from accelerate.utils import gather_object

        if self.positions_at is None:
            return {}
        everyones = gather_object([self.positions_at(self.step)])
        return {stream: position for own in everyones for stream, position in own.items()}

    def _diverged(self) -> OMSError:
        return OMSError(
            f"Loss or weights are no longer finite at step {self.step}: begin anew (--restart) with a lower --lr, a "
            "longer --warmup, or with --precision no or bf16."
        )

    def _tensors(self) -> dict[str, torch.Tensor]:
        """Everything that a checkpoint holds in tensors, by name; the tensors themselves, not copies."""
        tensors: dict[str, torch.Tensor] = {}
        for name, parameter in self.psi.named_parameters():
            tensors[f"psi.{name}"] = parameter
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"optimizer.{name}.{key}"] = value
        if self.ema is not None:
            tensors.update({f"ema.{name}": value for name, value in self.ema.state_dict().items()})
        return tensors

    def _make_optimizer_state(self) -> None:
        """AdamW's state as its first step makes it, to be filled from a checkpoint."""
        for parameter in self.psi.parameters():
            self.optimizer.state[parameter] = {
                "step": torch.zeros(()),
                "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            }

    def _refuse_other_settings(self, path: Path, state: dict[str, Any]) -> None:
        before, now = state.get("settings", {}), self.identity
        # A training of an earlier version did what a setting that is new since does by default.
        before = {**{i.name: i.default for i in dataclasses.fields(self.settings) if i.name in now}, **before}
        if now.get("schedule") == "constant" and now["steps"] >= state["step"]:
            before = {**before, "steps": now["steps"]}  # a constant rate does not ask how many steps there will be
        differing = [
            f"{name} was {before.get(name)!r} and is {now.get(name)!r}"
            for name in sorted({*before, *now})
            if before.get(name) != now.get(name)
        ]
        if differing:
            raise SettingError(
                f"The training in {path.parent.parent.parent} was begun with other settings: {'; '.join(differing)}. "
                "Give the same ones to continue it, another --output, or --restart to throw it away."
            )

    def _read_log(self) -> Iterator[dict[str, Any]]:
        """The lines of the log, less one that was being written when the machine went off."""
        for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError):
                yield json.loads(line)

    def _write_log(self, lines: list[dict[str, Any]], mode: str = "w") -> None:
        if self.accelerator.is_main_process:
            with open(self.log, mode, encoding="utf-8") as file:
                file.writelines(json.dumps(line) + "\n" for line in lines)
