"""Training psi: `python -m lib_oms train`, or `train(TrainingSettings(...))`.

The objective (arXiv 2311.15744, section 3; at SNR 0 the v-target is -x_0):

    minimize || psi(e, C) - (-x_0) ||^2,   e ~ N(0, I),   C dropped to '' for some samples

with x_0 in scaled latent space. Neither the base diffusion model nor a noise schedule takes part.

Every random draw is a function of (seed, step) alone and is made for the whole batch before it is shared out. So a
continued run needs no generator's state, and the number of processes and of accumulation steps changes the result by
rounding only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from lib_oms import __version__
from lib_oms.devices import channels_last
from lib_oms.errors import OMSError, SettingError
from lib_oms.files import LATENTS_NAMES
from lib_oms.psi import OMSUNet, OMSUNetConfig
from lib_oms.text import TEXT_ENCODERS, TextEncoder, encoder_width, load_text_encoder
from lib_oms.training.data import Encoders, TrainingData, Workers, encode_examples
from lib_oms.training.dataset import read_image_folder
from lib_oms.training.settings import TrainingSettings
from lib_oms.training.state import Run, learning_rate

Draw = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # noise, text, x_0
PACKAGES = ("torch", "diffusers", "accelerate")  # their versions stand in the module's file
TEXT_FOLDER = re.compile(r"(oms_)?(text_encoder|tokenizer)(_2)?")


def train(settings: TrainingSettings, data: TrainingData | None = None, config: OMSUNetConfig | None = None) -> Path:
    """Trains psi, or continues a training that was interrupted, and returns the folder of the finished module.

    The module is written to `<output>/oms_module`; checkpoints, log and cache lie in `<output>/training`.

    Args:
        data: latents and text that are encoded already; None encodes the pictures of `settings.data`.
        config: psi's architecture; None takes `settings.size` with the width of the text.

    Raises:
        SettingError: a setting that is not allowed, or that differs from those of the checkpoint to continue from.
        OMSError: pictures, captions, VAE, text encoder or a checkpoint that cannot be used; a loss that is not finite.
    """
    settings.validate()
    accelerator = _make_accelerator(settings)
    share = _share_of_batch(settings, accelerator.num_processes)[accelerator.process_index]
    work = Path(settings.output) / "training"
    if data is not None:
        _refuse_other_width(settings, data.text.shape[-1])
    else:
        data = _encode(settings, accelerator, work / "cache")
    _, channels, *_ = data.latents.shape
    identity = _identity(settings, config, data)
    if config is None:
        config = getattr(OMSUNetConfig, settings.size)(cross_attention_dim=data.text.shape[-1])
        config = dataclasses.replace(config, in_channels=channels, out_channels=channels)
    _check_fit(config, channels, data.text.shape[-1], len(data))

    psi = _make_psi(settings, config, accelerator.device)
    optimizer = torch.optim.AdamW(psi.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    wrapped, stepper = accelerator.prepare(psi, optimizer)
    run = Run(settings, psi, optimizer, accelerator, work, identity)
    run.continue_or_begin()
    accelerator.print(
        f"psi of {sum(p.numel() for p in psi.parameters()) / 1e6:.1f} M parameters, {len(data)} examples, "
        f"{settings.batch_size} a step, {accelerator.num_processes} process(es) on {accelerator.device.type}"
    )

    parts = ahead(draws(settings, data, share, run.step))
    bar = tqdm(
        total=settings.steps,
        initial=run.step,
        desc="training psi",
        unit="step",
        disable=not accelerator.is_main_process,
    )
    with bar, contextlib.closing(parts):
        while run.step < settings.steps:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(settings, run.step)
            loss = torch.zeros((), device=accelerator.device)
            for left in reversed(range(settings.accumulate)):
                noise, text, x_0 = (tensor.to(accelerator.device) for tensor in next(parts))
                with accelerator.no_sync(wrapped) if left else contextlib.nullcontext():
                    part_loss = F.mse_loss(wrapped(noise, text).float(), -x_0) / settings.accumulate
                    accelerator.backward(part_loss)
                loss += part_loss.detach()
            if settings.clip > 0:
                accelerator.clip_grad_norm_(psi.parameters(), settings.clip)
            stepper.step()
            stepper.zero_grad(set_to_none=True)
            run.after_step(float(accelerator.reduce(loss, "mean")), bar, skipped=accelerator.optimizer_step_was_skipped)
    run.checkpoint()  # also when the last step was no multiple of save_every
    module = run.finish(_facts(settings, data, accelerator))
    accelerator.print(f"{module} was written after {run.step} steps.")
    accelerator.wait_for_everyone()
    return module


def draws(settings: TrainingSettings, data: TrainingData, share: Sequence[slice], first_step: int) -> Iterator[Draw]:
    """What one process trains on from `first_step` on: in every step the parts `share` of the batch."""
    batch = settings.batch_size
    order = Order(settings.seed, len(data))
    for step in range(first_step, settings.steps):
        index = order.examples(step * batch, batch)
        generator = torch.Generator().manual_seed(_seed(settings.seed, "step", step))
        drop = torch.rand(batch, generator=generator) < settings.caption_dropout
        noise = torch.randn((batch, *data.latents.shape[1:]), generator=generator)
        for part in share:
            x_0, text = data.batch(index[part], drop[part])
            yield noise[part], text, x_0


def ahead(items: Iterator[Draw]) -> Generator[Draw, None, None]:
    """The same items, each fetched in a thread while the one before it is worked on."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item


class Order:
    """Which examples a step sees: every epoch another permutation, drawn from (seed, epoch)."""

    def __init__(self, seed: int, count: int):
        self.seed, self.count = seed, count
        self._permutations: dict[int, torch.Tensor] = {}

    def examples(self, first: int, count: int) -> torch.Tensor:
        """The examples at the positions first .. first + count - 1 of the endless sequence of epochs."""
        positions = range(first, first + count)
        epochs = range(positions[0] // self.count, positions[-1] // self.count + 1)
        self._permutations = {epoch: self._permutation(epoch) for epoch in epochs}
        return torch.stack([self._permutations[at // self.count][at % self.count] for at in positions])

    def _permutation(self, epoch: int) -> torch.Tensor:
        if epoch in self._permutations:
            return self._permutations[epoch]
        return torch.randperm(self.count, generator=torch.Generator().manual_seed(_seed(self.seed, "epoch", epoch)))


def _make_accelerator(settings: TrainingSettings) -> Any:
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs

    # Encoding a large folder takes longer than the ten minutes after which a waiting process gives up by default.
    patience = InitProcessGroupKwargs(timeout=timedelta(hours=24))
    try:
        accelerator = Accelerator(cpu=settings.cpu, mixed_precision=settings.precision, kwargs_handlers=[patience])
    except ValueError as error:  # precision that the device lacks
        raise SettingError(f"precision {settings.precision}: {error}") from error
    if settings.precision == "fp16" and accelerator.device.type == "cpu":
        # Some releases of accelerate take it and then train in float32 without a word.
        raise SettingError("precision fp16: needs a GPU; on a CPU use --precision no or bf16.")
    return accelerator


def _encode(settings: TrainingSettings, accelerator: Any, cache: Path) -> TrainingData:
    """Latents and text of the pictures in `settings.data`, from the cache as far as it has them."""
    if not settings.data:
        raise SettingError("data is not given: folder of pictures with captions.")
    examples = read_image_folder(settings.data, settings.caption_column)
    show = accelerator.is_local_main_process
    workers = Workers(
        accelerator.device,
        accelerator.process_index,
        accelerator.num_processes,
        accelerator.wait_for_everyone,
        settings.threads,
        functools.partial(tqdm, disable=not show),
    )
    return encode_examples(
        examples, _encoders(settings), settings.resolution, cache, workers, batch_size=settings.encode_batch
    )


def _encoders(settings: TrainingSettings) -> Encoders:
    """The folders of VAE and text encoder that the settings name."""
    vae = Path(settings.vae or Path(settings.model) / "vae")
    text = Path(settings.text or settings.model)
    for name, path in (("vae", vae), ("text", text)):
        if not getattr(settings, name) and not settings.model:
            raise SettingError(f"neither model nor {name} is given: one of them must say where the {name} encoder is.")
        if not path.is_dir():
            raise SettingError(f"{name}: the folder {path} does not exist.")
    _refuse_other_width(settings, encoder_width(text, settings.text_kind))
    parts = [folder for folder in sorted(text.iterdir()) if TEXT_FOLDER.fullmatch(folder.name)]
    return Encoders(vae, functools.partial(_load_text, text, settings.text_kind), parts, settings.text_kind)


def _load_text(folder: Path, kind: str, device: torch.device) -> Callable[[Sequence[str]], torch.Tensor]:
    encoder = load_text_encoder(folder, kind).to(device)
    return functools.partial(encode_captions, encoder)


@torch.no_grad()
def encode_captions(encoder: TextEncoder, captions: Sequence[str]) -> torch.Tensor:
    """Captions [B] to [B, 77, D], letter by letter: brackets and <> in a caption are no prompt syntax.

    What does not fit into 75 tokens is left out, as in the published modules' training.
    """
    chunks = [[tower.cut(caption) for caption in captions] for tower in encoder.towers]
    states = [tower.hidden(part) for tower, part in zip(encoder.towers, chunks, strict=True)]
    return torch.cat(states, dim=-1)


def _make_psi(settings: TrainingSettings, config: OMSUNetConfig, device: torch.device) -> OMSUNet:
    """psi before its first step; its weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_seed(settings.seed, "weights"))
        psi = OMSUNet(config)
    psi.train().to(device)
    if settings.channels_last or (settings.channels_last is None and device.type == "cpu"):
        channels_last(psi)
    if settings.gradient_checkpointing:
        _checkpoint_gradients(psi)
    return psi


def _refuse_other_width(settings: TrainingSettings, width: int) -> None:
    """A module for the latents that everybody has must read the text that everybody has for it."""
    expected = TEXT_ENCODERS[settings.text_kind].width
    if settings.latents in LATENTS_NAMES and width != expected:
        raise SettingError(
            f"latents {settings.latents} with text_kind {settings.text_kind} needs text of width {expected}, but this "
            f"text encoder gives {width}: name the right folder with --text or the right --text-kind, or give the "
            "latents a name of your own"
        )


def _check_fit(config: OMSUNetConfig, channels: int, width: int, count: int) -> None:
    if config.in_channels != channels:
        raise SettingError(f"psi takes latents of {config.in_channels} channels, but these have {channels}.")
    if config.cross_attention_dim != width:
        raise SettingError(
            f"psi takes text of width {config.cross_attention_dim}, but this text encoder gives {width}: "
            "use the text encoder that psi was made for, or a config of that width."
        )
    if count == 0:
        raise OMSError("There is nothing to train on: no examples.")


def _share_of_batch(settings: TrainingSettings, processes: int) -> list[list[slice]]:
    """Per process the slices of a batch that it works on, one for each accumulation step."""
    parts = processes * settings.accumulate
    if settings.batch_size % parts:
        raise SettingError(
            f"batch_size {settings.batch_size} cannot be shared out evenly: it must be a multiple of {parts} "
            f"({processes} processes times {settings.accumulate} accumulation steps)."
        )
    size = settings.batch_size // parts
    slices = [slice(number * size, (number + 1) * size) for number in range(parts)]
    return [slices[rank * settings.accumulate : (rank + 1) * settings.accumulate] for rank in range(processes)]


def _identity(settings: TrainingSettings, config: OMSUNetConfig | None, data: TrainingData) -> dict[str, Any]:
    """What decides the result of a training: a checkpoint is continued only with the same."""
    decisive = {item.name: getattr(settings, item.name) for item in dataclasses.fields(settings)
                if not item.metadata.get("free_on_resume")}  # fmt: skip
    if config is not None:
        decisive["size"] = json.loads(json.dumps(config.to_dict()))
    return {**decisive, **{f"content of {name}": value for name, value in data.hashes.items()}}


def _facts(settings: TrainingSettings, data: TrainingData, accelerator: Any) -> dict[str, str]:
    """What the module's file says about its making. No paths: they mean nothing elsewhere and tell too much."""
    facts = {
        "oms.latents": settings.latents,
        "oms.text_encoder": settings.text_kind,
        "training.examples": str(len(data)),
        "training.processes": str(accelerator.num_processes),
        "training.latent_size": "x".join(str(side) for side in data.latents.shape[2:]),
        "training.versions": f"lib_oms {__version__}, " + ", ".join(f"{name} {version(name)}" for name in PACKAGES),
    }
    for name in ("steps", "seed", "lr", "schedule", "warmup", "weight_decay", "batch_size", "caption_dropout",
                 "ema_decay", "precision"):  # fmt: skip
        facts[f"training.{name}"] = str(getattr(settings, name))
    facts.update({f"training.{name}_sha256": value for name, value in data.hashes.items()})
    return facts


def _checkpoint_gradients(psi: torch.nn.Module) -> None:
    """Has diffusers' blocks recompute their activations in the backward pass instead of keeping them."""
    from torch.utils.checkpoint import checkpoint as recompute

    switches = {
        "gradient_checkpointing": True,
        # diffusers from 0.32 on asks the block for the function; before, it calls torch's itself.
        "_gradient_checkpointing_func": functools.partial(recompute, use_reentrant=False),
    }
    for block in psi.modules():
        if hasattr(block, "gradient_checkpointing"):
            for name, value in switches.items():
                setattr(block, name, value)


def _seed(seed: int, purpose: str, number: int = 0) -> int:
    """A generator's seed (63 bits) for a purpose, unrelated to those of other purposes, steps and seeds."""
    return int.from_bytes(hashlib.sha256(f"{seed} {purpose} {number}".encode()).digest()[:8], "big") >> 1
