"""Training psi: `python -m lib_oms train`, or `train(TrainingSettings(...))`.

The objective (arXiv 2311.15744, section 3; at SNR 0 the v-target is -x_0):

    minimize || psi(e, C) - (-x_0) ||^2,   e ~ N(0, I),   C dropped to '' for some samples

with x_0 in scaled latent space. Neither the base diffusion model nor a noise schedule takes part.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from lib_oms import __version__
from lib_oms.errors import OMSError, SettingError
from lib_oms.psi import ModuleFile, OMSUNet, OMSUNetConfig
from lib_oms.text import TextEncoder, encoder_width, load_text_encoder
from lib_oms.training import sharded
from lib_oms.training.buckets import bucket_sizes
from lib_oms.training.data import BucketedData, Encoders, TrainingData, Workers, encode_examples, read_vae_config
from lib_oms.training.dataset import hash_file, read_image_folder
from lib_oms.training.draws import Draw, ahead, draws
from lib_oms.training.network import architecture, make_psi, refuse_other_width, starting_point
from lib_oms.training.optional import library
from lib_oms.training.settings import TrainingSettings
from lib_oms.training.shards import find_shards
from lib_oms.training.state import BOARD, Run, learning_rate, moving_average
from lib_oms.training.streams import StreamedData

Data = TrainingData | BucketedData | StreamedData
PACKAGES = ("torch", "diffusers", "accelerate")  # their versions stand in the module's file
TEXT_FOLDER = re.compile(r"(oms_)?(text_encoder|tokenizer)(_2)?")


def train(settings: TrainingSettings, data: Data | None = None, config: OMSUNetConfig | None = None) -> Path:
    """Trains psi, or continues a training that was interrupted, and returns the folder of the finished module.

    The module is written to `<output>/oms_module`; checkpoints, log and cache lie in `<output>/training`.

    Args:
        data: latents and text that are encoded already; None takes the pictures of `settings.data`.
        config: psi's architecture; None takes `settings.size` with the width of the text. Where the training starts
            from an OMS model, that one's holds.

    Raises:
        SettingError: a setting that is not allowed, or that differs from those of the checkpoint to continue from.
        OMSError: pictures, captions, VAE, text encoder or a checkpoint that cannot be used; a loss that is not finite.
    """
    settings.validate()
    if settings.tensorboard:
        library(BOARD, "--tensorboard needs")  # before hours of encoding
    accelerator = _make_accelerator(settings)
    sharded.check(settings, accelerator.num_processes)
    share = _share_of_batch(settings, accelerator.num_processes)[accelerator.process_index]
    work = Path(settings.output) / "training"
    start = starting_point(settings)
    if data is None:
        data = _load(settings, accelerator, start, work / "cache")
    refuse_other_width(settings, data.text_width)
    if start is not None:
        config, data.hashes["start"] = start.config, hash_file(start.weights)
    identity = _identity(settings, config, data)
    config = architecture(settings, start, data.latent_shape[0], data.text_width, config)
    if not isinstance(data, StreamedData) and len(data) == 0:
        raise OMSError("There is nothing to train on: no examples.")

    psi = make_psi(settings, start, config, accelerator.device)
    ema = None
    if settings.ema_decay > 0 and (accelerator.is_main_process or settings.shard):
        ema = moving_average(psi, settings.ema_decay)
    if settings.shard:
        sharded.shard(psi, accelerator.device)
        if ema is not None:
            sharded.shard(cast(OMSUNet, ema.module), accelerator.device)
    optimizer = torch.optim.AdamW(psi.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    # What is sharded needs no wrapping, for its blocks talk to one another by themselves.
    wrapped, stepper = (psi, optimizer) if settings.shard else accelerator.prepare(psi, optimizer)
    run = Run(settings, psi, optimizer, ema, accelerator, work, identity)
    run.continue_or_begin()
    if isinstance(data, StreamedData):
        data.positions, run.positions_at = run.positions, data.positions_at
    accelerator.print(
        f"psi of {sum(p.numel() for p in psi.parameters()) / 1e6:.1f} M parameters, {data.description}, "
        f"{settings.batch_size} a step, {accelerator.num_processes} process(es) on {accelerator.device.type}"
    )

    parts = ahead(drawn(settings, data, share, run.step))
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
                    with accelerator.autocast() if settings.shard else contextlib.nullcontext():
                        v = wrapped(noise, text)
                    part_loss = F.mse_loss(v.float(), -x_0) / settings.accumulate
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


def drawn(settings: TrainingSettings, data: Data, share: Sequence[slice], first_step: int) -> Iterator[Draw]:
    """What this process trains on, from a step on: in every step the parts `share` of the batch."""
    if isinstance(data, StreamedData):
        return data.draws(share, first_step)
    return draws(settings, data, share, first_step)


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


def _load(settings: TrainingSettings, accelerator: Any, start: ModuleFile | None, cache: Path) -> Data:
    """What `settings.data` names: streamed shards, or pictures, encoded now as far as the cache lacks them."""
    if not settings.data:
        raise SettingError("data is not given: folder of pictures with captions.")
    shards = find_shards(settings.data, settings.image_column, settings.caption_column)
    if shards is not None:
        return StreamedData(shards, _encoders(settings, start), settings, accelerator.device)
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
    sizes = bucket_sizes(settings.resolution) if settings.buckets else ()
    encoders = _encoders(settings, start)
    return encode_examples(examples, encoders, settings.resolution, cache, workers, settings.encode_batch, sizes)


def _encoders(settings: TrainingSettings, start: ModuleFile | None) -> Encoders:
    """The folders of VAE and text encoder that the settings name, if they fit the OMS model to start from."""
    vae = Path(settings.vae or Path(settings.model) / "vae")
    text = Path(settings.text or settings.model)
    for name, path in (("vae", vae), ("text", text)):
        if not getattr(settings, name) and not settings.model:
            raise SettingError(f"neither model nor {name} is given: one of them must say where the {name} encoder is.")
        if not path.is_dir():
            raise SettingError(f"{name}: the folder {path} does not exist.")
    width = encoder_width(text, settings.text_kind)
    refuse_other_width(settings, width)
    architecture(settings, start, read_vae_config(vae).get("latent_channels", 4), width)  # before hours of encoding
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


def _identity(settings: TrainingSettings, config: OMSUNetConfig | None, data: Data) -> dict[str, Any]:
    """What decides the result of a training: a checkpoint is continued only with the same."""
    decisive = {item.name: getattr(settings, item.name) for item in dataclasses.fields(settings)
                if not item.metadata.get("free_on_resume")}  # fmt: skip
    if config is not None:
        decisive["size"] = json.loads(json.dumps(config.to_dict()))
    return {**decisive, **{f"content of {name}": value for name, value in data.hashes.items()}}


def _facts(settings: TrainingSettings, data: Data, accelerator: Any) -> dict[str, str]:
    """What the module's file says about its making. No paths: they mean nothing elsewhere and tell too much."""
    facts = {
        "oms.latents": settings.latents,
        "oms.text_encoder": settings.text_kind,
        "training.examples": data.description.removesuffix(" examples"),
        "training.processes": str(accelerator.num_processes),
        "training.latent_size": "x".join(str(side) for side in data.latent_shape[1:]),
        "training.versions": f"lib_oms {__version__}, " + ", ".join(f"{name} {version(name)}" for name in PACKAGES),
    }
    for name in ("steps", "seed", "lr", "schedule", "warmup", "weight_decay", "batch_size", "caption_dropout",
                 "ema_decay", "precision"):  # fmt: skip
        facts[f"training.{name}"] = str(getattr(settings, name))
    facts.update({f"training.{name}_sha256": value for name, value in data.hashes.items()})
    return facts
