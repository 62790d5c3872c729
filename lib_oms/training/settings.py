"""The settings of a training: one list, read by the command line, by validation and by whoever calls `train`."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from lib_oms.errors import SettingError
from lib_oms.text import KINDS

SIZES = ("tiny", "base", "large")


def _option(default: Any, help: str, **rules: Any) -> Any:
    """A field of the settings: default, help and rules (low, high, choices, free_on_resume) stand here alone."""
    return dataclasses.field(default=default, metadata={"help": help, **rules})


@dataclass
class TrainingSettings:
    """Everything a training is told. Fields are the command line's options; help and bounds stand in the metadata.

    `from_` is --from, a word that Python keeps for itself; here it is a folder or a file.
    """

    output: str = _option("", "folder to write the OMS model, its checkpoints and the cache to", free_on_resume=True)
    latents: str = _option("", "latent space the OMS model is for: sd (SD1.x, SD2.x), sdxl, or a name of your own")
    data: str = _option("", "pictures with captions: a folder; WebDataset's .tar files ('shards-{000..099}.tar', or a "
                        "folder of them); a Hugging Face dataset on disk, .parquet files, or hf:NAME, streamed from "
                        "the hub", free_on_resume=True)  # fmt: skip
    model: str = _option("", "folder with vae/, text_encoder/ and tokenizer/ in diffusers layout", free_on_resume=True)
    vae: str = _option("", "VAE folder, where it is not --model's vae/", free_on_resume=True)
    text: str = _option("", "folder with text_encoder/ and tokenizer/ (mixclip: and those ending in _2), "
                        "where it is not --model", free_on_resume=True)  # fmt: skip
    text_kind: str = _option("openclip", "what reads the captions: OpenCLIP ViT-H, SD1.x's own CLIP-L (clip), or "
                             "SDXL's pair (mixclip)", choices=KINDS)  # fmt: skip
    caption_column: str = _option(
        "text", "column of the metadata file or the dataset that holds the caption", free_on_resume=True
    )
    image_column: str = _option("image", "column of a Hugging Face dataset that holds the picture", free_on_resume=True)
    shuffle_buffer: int = _option(1000, "pictures of shards that are held and shuffled at a time", low=1)
    streams: int = _option(1, "parts that shards are dealt out to; a process reads only those it needs, so best a "
                           "multiple of the number of processes", low=1)  # fmt: skip
    size: str = _option("base", "size of psi", choices=SIZES)
    from_: str = _option("", "OMS model to go on from: a folder, a .safetensors file, or a name that "
                         "`python -m lib_oms models` lists; psi has its size", free_on_resume=True)  # fmt: skip
    resolution: int = _option(512, "pictures are resized and center-cropped to this many pixels a side", low=8)
    buckets: bool = _option(False, "to one of several sizes of about this area instead, in multiples of 64, whichever "
                            "is most like the picture's shape; a batch has one size")  # fmt: skip
    steps: int = _option(10000, "optimizer steps", low=1)
    batch_size: int = _option(64, "examples per optimizer step, over all processes and accumulation steps", low=1)
    accumulate: int = _option(1, "parts that a process cuts its share of a batch into", low=1, free_on_resume=True)
    lr: float = _option(1e-4, "peak learning rate of AdamW", low=0.0)
    schedule: str = _option("cosine", "learning rate after the warmup", choices=("constant", "cosine"))
    warmup: int = _option(500, "steps of linear warmup", low=0)
    weight_decay: float = _option(0.01, "AdamW's weight decay", low=0.0)
    clip: float = _option(1.0, "gradient norm is clipped to this; 0: not at all", low=0.0)
    caption_dropout: float = _option(0.1, "share of examples that are shown with an empty caption", low=0.0, high=1.0)
    ema_decay: float = _option(0.9999, "decay of the weights' moving average, which is what is saved; 0: none",
                               low=0.0, high=1.0)  # fmt: skip
    seed: int = _option(0, "seed of weights, order, noise and dropout", low=0)
    precision: str = _option("no", "mixed precision", choices=("no", "fp16", "bf16"))
    cpu: bool = _option(False, "train on the CPU even where there is an accelerator", free_on_resume=True)
    channels_last: bool | None = _option(None, "memory layout, twice as fast on CPUs (default: on the CPU only)",
                                         free_on_resume=True)  # fmt: skip
    gradient_checkpointing: bool = _option(False, "less memory, a fifth more time", free_on_resume=True)
    shard: bool = _option(False, "several processes share out weights, gradients, optimizer and average, instead of "
                          "each having all (torch's FSDP)", free_on_resume=True)  # fmt: skip
    save_every: int = _option(1000, "steps from one checkpoint to the next", low=1, free_on_resume=True)
    keep: int = _option(2, "checkpoints to keep", low=1, free_on_resume=True)
    log_every: int = _option(50, "steps from one line of log.jsonl to the next", low=1, free_on_resume=True)
    tensorboard: bool = _option(False, "write loss, learning rate and speed for TensorBoard, too, to "
                                "OUTPUT/training/tensorboard", free_on_resume=True)  # fmt: skip
    threads: int = _option(4, "threads that load pictures", low=1, free_on_resume=True)
    encode_batch: int = _option(8, "pictures the VAE encodes at once", low=1, free_on_resume=True)
    restart: bool = _option(False, "throw the output folder's checkpoints away and begin anew", free_on_resume=True)

    def validate(self) -> None:
        """Raises SettingError for a value of the wrong type or out of its bounds, naming it and what is allowed."""
        for item in dataclasses.fields(self):
            name, value, rules = item.name, getattr(self, item.name), item.metadata
            kind = value_type(item)
            fits = isinstance(value, (int, float) if kind is float else kind) or value is item.default
            if kind is not bool and isinstance(value, bool):
                fits = False
            if not fits or (kind is float and not math.isfinite(value)):
                raise SettingError(f"{name} is {value!r}: {kind.__name__} expected.")
            if "choices" in rules and value not in rules["choices"]:
                raise SettingError(f"{name} is {value!r}: allowed are {', '.join(rules['choices'])}.")
            low, high = rules.get("low", -math.inf), rules.get("high", math.inf)
            if kind in (int, float) and not low <= value <= high:
                bounds = f"at least {low}" if high == math.inf else f"{low} to {high}"
                raise SettingError(f"{name} is {value!r}: allowed is {bounds}.")
        for name in ("output", "latents"):
            if not getattr(self, name):
                raise SettingError(f"{name} is not given: {self.__dataclass_fields__[name].metadata['help']}.")


def value_type(item: dataclasses.Field) -> type:
    """The type of a setting's value; a setting whose default is None is a choice of yes, no and what fits."""
    return bool if item.default is None else type(item.default)
