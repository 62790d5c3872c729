"""The text encoders that psi understands: OpenCLIP ViT-H as SD2.1 uses it, CLIP ViT-L as SD1.x uses it ("clip"), and
SDXL's pair ("mixclip").

`encode` takes WebUI prompts (see prompt.py) and returns [B, 77 * k, D]. Long prompts are cut as the WebUI does
it: chunks of 75 tokens, at a comma where one lies within the last 20, each between its own begin and end token. All
prompts of one call get the same k, the shorter ones filled up with empty chunks. Attention weights multiply the hidden
states, whose mean per chunk and encoder is then restored (the WebUI's "Original" emphasis).

Where this differs from the WebUI on purpose:
- tokenization is that of transformers, as in psi's training, and of its fast tokenizers, which are the same in every
  version. (ViT-H's pad token is "!", hence a "!" in a prompt becomes the pad token, as in diffusers.)
- the mean is not restored where the weights turn its sign round, or where it is so near zero that the quotient of the
  means would be rounding noise.
- a prompt's encoding does not depend on the others of its batch: the mean is taken per prompt, and each prompt goes
  through the network by itself.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from lib_oms.devices import without_autocast
from lib_oms.errors import ModuleFileError, OMSError
from lib_oms.text.files import has_vocabulary, load_model, load_tokenizer, model_width, weights_name
from lib_oms.text.prompt import parse_prompt
from lib_oms.text.published import TEXT_ENCODERS
from lib_oms.text.tower import POSITIONS, TextTower, Tower

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CACHED_CHUNKS = 128  # 40 MB of ViT-H, 30 MB of clip, 81 MB of mixclip, in float32
_CHUNKS_AT_ONCE = 8  # bounds the memory that a very long prompt takes


class TextEncoder(nn.Module):
    """Prompts to the embeddings psi was trained on; a repeated prompt is taken from a cache.

    The cache is least recently used and bounded in chunks (a prompt under 75 tokens is one). It lives in RAM: on a GPU
    the memory is the sampler's. Its keys are prompt, dtype and the device's type, as `cuda` and `cuda:0` are one;
    weights that are changed in place need `forget()`.

    Args:
        towers: one or more CLIP text models; their hidden states are concatenated.
        cached_chunks: how many chunks are kept; 0 keeps none.
    """

    def __init__(self, towers: Sequence[TextTower], cached_chunks: int = CACHED_CHUNKS) -> None:
        super().__init__()
        # A ModuleList, whose types say nothing of what kind its modules are.
        self.towers = cast("Sequence[TextTower]", nn.ModuleList(towers))
        self._cache: OrderedDict[tuple[str, torch.dtype, str], Tensor] = OrderedDict()
        self._cached_chunks = cached_chunks
        self._lock = threading.RLock()  # the WebUI's page and API call from several threads

    @property
    def width(self) -> int:
        """D, the width of the embeddings."""
        return sum(tower.width for tower in self.towers)

    @property
    def dtype(self) -> torch.dtype:
        return self.towers[0].dtype

    @property
    def device(self) -> torch.device:
        return self.towers[0].device

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings of `prompts`: [B, 77 * k, D] in the encoder's dtype, on its device; k is the same for all.

        Raises:
            OMSError: no prompt, or one that is not text.
        """
        each = self.encode_each(prompts)
        longest = max(len(states) for states in each)
        if any(len(states) < longest for states in each):
            (empty,) = self.encode_each([""])
            each = [torch.cat([states, *([empty] * ((longest - len(states)) // POSITIONS))]) for states in each]
        return torch.stack(each)

    def encode_each(self, prompts: Sequence[str]) -> list[Tensor]:
        """As `encode`, but every prompt with its own k: B tensors of [77 * k, D], none filled up.

        Raises:
            OMSError: no prompt, or one that is not text.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        if not prompts:
            raise OMSError("no prompt to encode; give at least one, '' for the empty prompt")
        for prompt in prompts:
            if not isinstance(prompt, str):
                raise OMSError(f"a prompt must be text, but one is {type(prompt).__name__}: {prompt!r:.80}")
        with self._lock:
            encoded: dict[str, Tensor] = {}
            for prompt in prompts:
                if prompt not in encoded:
                    encoded[prompt] = self._encoded(prompt)
            device = self.device
            return [encoded[prompt].to(device, copy=True) for prompt in prompts]

    def remembered(self, prompts: Sequence[str], device: torch.device) -> list[Tensor] | None:
        """What `encode_each` gave for `prompts` when the encoder was on a device of this type, on the CPU; None unless
        all of it is still in the cache. So an encoder that waits in RAM need not come to the device for a prompt that
        it has seen.
        """
        with self._lock:
            keys = [self._key(prompt, device) for prompt in prompts]
            if any(key not in self._cache for key in keys):
                return None
            for key in keys:
                self._cache.move_to_end(key)
            return [self._cache[key].clone() for key in keys]

    def forward(self, prompts: Sequence[str]) -> Tensor:
        return self.encode(prompts)

    def forget(self) -> None:
        """Empties the cache."""
        with self._lock:
            self._cache.clear()

    def _encoded(self, prompt: str) -> Tensor:
        """[77 * k, D] on the CPU, from the cache or the network."""
        key = self._key(prompt, self.device)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        states = self._compute(prompt).cpu()
        self._cache[key] = states
        kept = sum(len(s) for s in self._cache.values()) // POSITIONS
        while kept > self._cached_chunks:
            _, oldest = self._cache.popitem(last=False)
            kept -= len(oldest) // POSITIONS
        return states

    def _key(self, prompt: str, device: torch.device) -> tuple[str, torch.dtype, str]:
        return prompt, self.dtype, device.type

    def _compute(self, prompt: str) -> Tensor:
        sections = parse_prompt(prompt)
        per_tower = [tower.chunks(sections) for tower in self.towers]
        count = max(len(chunks) for chunks in per_tower)
        parts = []
        # The host may be in inference mode or under autocast: neither must leave a trace in what is cached.
        with torch.inference_mode(False), torch.no_grad(), self._precision():
            for tower, chunks in zip(self.towers, per_tower, strict=True):
                chunks = chunks + tower.chunks([]) * (count - len(chunks))
                states = [tower.hidden(chunks[i : i + _CHUNKS_AT_ONCE]) for i in range(0, count, _CHUNKS_AT_ONCE)]
                parts.append(torch.cat(states).to(self.dtype).flatten(0, 1))
            return torch.cat(parts, dim=-1)

    def _precision(self) -> AbstractContextManager[None]:
        """In what the networks compute: in the precision of their weights."""
        return without_autocast(self.device)


class OpenCLIPEncoder(TextEncoder):
    """OpenCLIP ViT-H as SD2.1 uses it: 23 of its 24 layers, then the final norm; width 1024.

    Args:
        text_model: transformers' CLIPTextModel in SD2.1's configuration (or a smaller one of the same kind).
        tokenizer: SD2.1's tokenizer, which pads with id 0.
    """

    def __init__(self, text_model: PreTrainedModel, tokenizer: Any, cached_chunks: int = CACHED_CHUNKS) -> None:
        super().__init__([Tower(text_model, tokenizer, penultimate=False)], cached_chunks)


class ClipEncoder(TextEncoder):
    """CLIP ViT-L/14 as SD1.x uses it: all 12 layers, then the final norm; width 768.

    Args:
        text_model: transformers' CLIPTextModel of SD1.x's `text_encoder`.
        tokenizer: SD1.x's tokenizer, which pads with the end token.

    Raises:
        OMSError: the tokenizer pads with another token, or does not belong to the text model.
    """

    def __init__(self, text_model: PreTrainedModel, tokenizer: Any, cached_chunks: int = CACHED_CHUNKS) -> None:
        if tokenizer.pad_token_id not in (None, tokenizer.eos_token_id):
            raise OMSError(
                f"the tokenizer fills up with {tokenizer.pad_token!r}; SD1.x's fills up with its end token: take the "
                "tokenizer that belongs to SD1.x"
            )
        super().__init__([Tower(text_model, tokenizer, penultimate=False)], cached_chunks)


class MixClipEncoder(TextEncoder):
    """SDXL's pair: the penultimate hidden states of CLIP-L and OpenCLIP bigG, no final norm; width 768 + 1280.

    Args:
        text_model: transformers' CLIPTextModel of SDXL's `text_encoder`.
        tokenizer: SDXL's `tokenizer`, which pads with the end token.
        text_model_2: transformers' CLIPTextModelWithProjection of SDXL's `text_encoder_2`.
        tokenizer_2: SDXL's `tokenizer_2`, which pads with id 0.
    """

    def __init__(
        self,
        text_model: PreTrainedModel,
        tokenizer: Any,
        text_model_2: PreTrainedModel,
        tokenizer_2: Any,
        cached_chunks: int = CACHED_CHUNKS,
    ) -> None:
        towers = [Tower(text_model, tokenizer, penultimate=True), Tower(text_model_2, tokenizer_2, penultimate=True)]
        super().__init__(towers, cached_chunks)


_ENCODERS = {"openclip": OpenCLIPEncoder, "clip": ClipEncoder, "mixclip": MixClipEncoder}
_PARTS = {"openclip": ("",), "clip": ("",), "mixclip": ("", "_2")}  # what the folders' names end in
KINDS = tuple(_PARTS)
_PREFIXES = ("oms_", "")  # the published modules' folders first, then those of a plain diffusers pipeline


def load_text_encoder(
    folder: str | Path, kind: str, dtype: torch.dtype | None = None, *, headers_only: bool = False
) -> TextEncoder:
    """Loads the text encoder that lies in `folder`: local files, safetensors only, no code from the folder.

    Args:
        folder: holds `oms_text_encoder/` and `oms_tokenizer/`, or `text_encoder/` and `tokenizer/`, in transformers'
            layout; for mixclip those ending in `_2`, too. The first pair that has weights is taken.
        kind: one of `KINDS`.
        dtype: of the weights; float32 if not given, whatever the files hold.
        headers_only: build it without weights, on "meta": whatever headers tell to be broken raises, in no time.

    Raises:
        OMSError: `kind` is none of them.
        ModuleFileError: a file is missing, broken, a pickle, or of another kind; says which.
    """
    if kind not in _PARTS:
        raise OMSError(f"text encoder kind {kind!r} is unknown; known are {', '.join(map(repr, KINDS))}")
    folder = Path(folder)
    prefix = _find_prefix(folder, kind)
    loaded: list[Any] = []
    for part in _PARTS[kind]:
        model = folder / f"{prefix}text_encoder{part}"
        loaded.append(load_model(model, projection=part == "_2", dtype=dtype, headers_only=headers_only))
        loaded.append(load_tokenizer(folder / f"{prefix}tokenizer{part}"))
    try:
        return _ENCODERS[kind](*loaded)
    except OMSError as error:
        raise ModuleFileError(f"{folder}: {error}") from error


def holds_encoder(folder: Path, kind: str) -> bool:
    """Whether `folder` holds all files of a text encoder of this kind; their content is not looked at."""
    return _prefix(folder, kind) is not None


def without_tokenizer(folder: Path, kind: str) -> list[Path]:
    """The folders in `folder` that hold the weights of a text encoder of this kind, where only tokenizers are missing;
    empty where more is missing, or nothing.
    """
    if not holds_encoder(folder, kind):
        for prefix in _PREFIXES:
            parts = [folder / f"{prefix}text_encoder{part}" for part in _PARTS[kind]]
            if all(map(weights_name, parts)):
                return parts
    return []


def encoder_width(folder: Path, kind: str) -> int:
    """D of the text encoder of this kind that `folder` holds, told by its files' headers.

    Raises:
        ModuleFileError: they are broken; says which.
    """
    prefix = _find_prefix(folder, kind)
    return sum(model_width(folder / f"{prefix}text_encoder{part}") for part in _PARTS[kind])


def _prefix(folder: Path, kind: str) -> str | None:
    for prefix in _PREFIXES:
        if all(
            weights_name(folder / f"{prefix}text_encoder{part}") and has_vocabulary(folder / f"{prefix}tokenizer{part}")
            for part in _PARTS[kind]
        ):
            return prefix
    return None


def _find_prefix(folder: Path, kind: str) -> str:
    prefix = _prefix(folder, kind)
    if prefix is not None:
        return prefix
    needed = [f"{name}{part}/" for part in _PARTS[kind] for name in ("text_encoder", "tokenizer")]
    message = (
        f"{folder} holds no whole {kind} text encoder: {', '.join(needed)} (or the same with oms_ before it) must hold "
        "config.json with model.safetensors, and vocab.json with merges.txt (or tokenizer.json)"
    )
    if any(folder.glob("*text_encoder*/*.bin")):
        message += "; the .bin files there are pickles, which are not read: get the .safetensors files instead"
    # Not the repository that the module's own config names: the published ones name one that is gone.
    raise ModuleFileError(f"{message}; they are published in {TEXT_ENCODERS[kind].repositories[0]}")
