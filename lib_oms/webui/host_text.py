"""The loaded checkpoint's own text encoders, lent by the host: SDXL's pair to a "mixclip" module, SD1.x's CLIP-L to a
"clip" module, which need none of their own.

The prompts do not go through the host's conditioning, which would bring along LoRA, textual inversion, clip skip, its
own emphasis and its cache, and write into the infotext: only the networks are called, with our own token ids.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from modules import devices
from torch import Tensor, nn

from lib_oms.text import TextEncoder
from lib_oms.text.tower import TextTower
from lib_oms.webui import memory

Run = Callable[[Any, Tensor], Tensor]
"""Hidden states [N, 77, width], as psi reads them, of a host's network and token ids [N, 77]: before the last layer and
its norm of SDXL's pair, after both of SD1.x's CLIP-L.
"""
_T = TypeVar("_T")


class HostTower(TextTower):
    """One of the host's text encoders. Held weakly and never registered as a part: it is the host's to move and keep.

    Args:
        network: the host's module, with its weights.
        run: calls it.
        tokenizer: a fast CLIP tokenizer with the pad token that belongs to the network.
        width: of its hidden states.
        vocab_size: how many tokens it knows.
        device: tells where it computes, if that need not be where its first weight lies.
    """

    def __init__(
        self,
        network: nn.Module,
        run: Run,
        tokenizer: Any,
        width: int,
        vocab_size: int,
        device: Callable[[], torch.device] | None = None,
    ) -> None:
        super().__init__(tokenizer, width, vocab_size)
        self._network = weakref.ref(network)
        self._run = run
        self._device = device

    @property
    def device(self) -> torch.device:
        return memory.network_device(_living(self._network)) if self._device is None else self._device()

    def states(self, ids: Tensor) -> Tensor:
        return self._run(_living(self._network), ids).float()


class HostTextEncoder(TextEncoder):
    """The loaded model's; as good as our own encoder of that kind with the same weights.

    Args:
        model: the host's loaded model.
        towers: CLIP-L's and bigG's, or CLIP-L's alone.
        fetch: makes the host bring them to its device.
    """

    def __init__(self, model: Any, towers: list[HostTower], fetch: Callable[[Any], None]) -> None:
        super().__init__(towers)
        self._model = weakref.ref(model)
        self._weights = _weights_of(model)
        self._fetch = fetch

    @property
    def dtype(self) -> torch.dtype:
        """What the embeddings are: float32, whatever the host computes in."""
        return torch.float32

    @property
    def device(self) -> torch.device:
        """Where they are made; the networks may wait elsewhere until they are fetched."""
        return devices.device

    def belongs_to(self, model: Any) -> bool:
        """Whether this is that of `model` as it is now; hosts put other weights into the same model."""
        return self._model() is model and self._weights == _weights_of(model)

    def _compute(self, prompt: str) -> Tensor:
        with _without_lora():
            self._fetch(_living(self._model))
            return super()._compute(prompt)

    def _precision(self) -> AbstractContextManager[None]:
        return devices.autocast()


def _living(reference: weakref.ref[_T]) -> _T:
    """What is held weakly. Raises ReferenceError where the host has dropped it."""
    held = reference()
    if held is None:
        raise ReferenceError("the host has dropped the model that lent its text encoders")
    return held


@dataclass(frozen=True)
class _Lent:
    """What a host's model lends: the kind, how to make the towers, which takes seconds the first time, and how to bring
    the networks to the device.
    """

    kind: str
    towers: Callable[[], list[HostTower]]
    fetch: Callable[[Any], None]


_known: HostTextEncoder | None = None
_lock = threading.Lock()


def kind_of(model: Any) -> str | None:
    """The kind of text encoder that the loaded model lends, "mixclip" or "clip"; None where it lends none."""
    lent = _lent(model)
    return None if lent is None else lent.kind


def of(model: Any) -> HostTextEncoder | None:
    """The text encoder of the loaded model, or None where it has none that is known here.

    The same one for all who ask, page, download and generation at once: psi is kept for the very encoder that it was
    loaded with.
    """
    global _known
    with _lock:
        if _known is None or not _known.belongs_to(model):
            lent = _lent(model)
            _known = None if lent is None else HostTextEncoder(model, lent.towers(), lent.fetch)
        return _known


def forget() -> None:
    """Lets go of the prompts it has encoded. The networks are the host's, and a tokenizer that transformers 4 has made
    is never freed: another with each picture would be a leak.
    """
    if _known is not None:
        _known.forget()


def _lent(model: Any) -> _Lent | None:
    return _of_forge(model) or _of_first_forge(model) or _of_a1111(model)


def _of_forge(model: Any) -> _Lent | None:
    """Forge, backend/diffusion_engine/sdxl.py and sd15.py."""
    names, kind = (("",), "clip") if getattr(model, "is_sd1", False) else (("_l", "_g"), "mixclip")
    engines: list[Any] = [getattr(model, f"text_processing_engine{name}", None) for name in names]
    original = getattr(getattr(model, "forge_objects_original", None), "clip", None)
    if None in (*engines, original) or memory.manager is None:
        return None
    of_model = weakref.ref(model)

    def device() -> torch.device:
        """When memory is short some weights wait in RAM; the host's layers fetch them to where their input is."""
        return _living(of_model).forge_objects_original.clip.patcher.load_device

    def tower(engine: Any) -> HostTower:
        network, tokenizer = engine.text_encoder.transformer, _fast(engine.tokenizer, engine.id_pad)
        run = partial(_run_forge, last=kind == "clip")
        return HostTower(network, run, tokenizer, network.config.hidden_size, network.config.vocab_size, device)

    return _Lent(kind, lambda: [tower(engine) for engine in engines], fetch_clip)


def _of_first_forge(model: Any) -> _Lent | None:
    """reForge and Forge Classic, modules_forge/forge_loader.py: A1111's embedders, each around a network of the memory
    manager's.
    """
    original = getattr(getattr(model, "forge_objects_original", None), "clip", None)
    embedders, kind = _embedders(model)
    embedders = embedders[:2]
    wrapped: list[Any] = [getattr(embedder, "wrapped", None) for embedder in embedders]
    if original is None or memory.manager is None or len(wrapped) != (1 if kind == "clip" else 2):
        return None
    if not all(hasattr(part, "transformer") and hasattr(part, "tokenizer") for part in wrapped):
        return None

    def tower(embedder: Any) -> HostTower:
        tokenizer = _fast(embedder.wrapped.tokenizer, embedder.id_pad)
        return _ldm_patched_tower(embedder.wrapped.transformer, tokenizer, last=kind == "clip")

    return _Lent(kind, lambda: [tower(embedder) for embedder in embedders], fetch_clip)


def _of_a1111(model: Any) -> _Lent | None:
    """A1111, modules/sd_hijack.py: embedders, each with that of sgm or ldm in `wrapped`."""
    embedders, kind = _embedders(model)
    wrapped = [getattr(embedder, "wrapped", embedder) for embedder in embedders]
    first = next((e for e in wrapped if hasattr(e, "transformer") and hasattr(e, "tokenizer")), None)
    second = next((e for e in wrapped if hasattr(e, "encode_with_transformer") and hasattr(e, "model")), None)
    if first is None or (second is None and kind == "mixclip"):
        return None

    def towers() -> list[HostTower]:
        tokenizer = _fast(first.tokenizer, first.tokenizer.eos_token_id)
        if second is None:
            return [_transformers_tower(first.transformer, tokenizer, last=True)]
        width = second.model.positional_embedding.shape[1]
        return [
            _transformers_tower(first.transformer, tokenizer, last=False),
            # open_clip's tokenizer is CLIP's own, and fills up with 0.
            HostTower(second, _run_open_clip, _fast(first.tokenizer, 0), width, second.model.vocab_size),
        ]

    return _Lent(kind, towers, _fetch_hooked)


def _embedders(model: Any) -> tuple[list[Any], str]:
    """A1111's embedders of a loaded model, and the kind of text encoder that they are if they are any: SDXL's, or the
    one of SD1.x. In reForge an SD2.x says that it is an SD1.x, too, but does not fill up with the end token.
    """
    if getattr(model, "is_sd1", False):
        stage = getattr(model, "cond_stage_model", None)
        return [stage] if getattr(stage, "id_pad", None) == getattr(stage, "id_end", None) else [], "clip"
    return list(getattr(getattr(model, "conditioner", None), "embedders", None) or []), "mixclip"


def _transformers_tower(network: Any, tokenizer: Any, *, last: bool) -> HostTower:
    run, config = partial(_run_transformers, last=last), network.config
    return HostTower(network, run, tokenizer, config.hidden_size, config.vocab_size)


def _ldm_patched_tower(network: Any, tokenizer: Any, *, last: bool) -> HostTower:
    if hasattr(network, "config"):
        return _transformers_tower(network, tokenizer, last=last)
    width = network.text_model.embeddings.position_embedding.weight.shape[1]
    return HostTower(network, partial(_run_ldm_patched, last=last), tokenizer, width, tokenizer.vocab_size)


def _run_ldm_patched(network: Any, ids: Tensor, *, last: bool) -> Tensor:
    if last:
        return network(ids)[0]
    return network(ids, intermediate_output=-2, final_layer_norm_intermediate=False)[1]


def _run_transformers(network: Any, ids: Tensor, *, last: bool) -> Tensor:
    # The network's own position_ids is a buffer, which Forge leaves behind when it moves weights.
    positions = torch.arange(ids.shape[-1], device=ids.device)[None]
    found = network(input_ids=ids, position_ids=positions, output_hidden_states=not last)
    return found.last_hidden_state if last else found.hidden_states[-2]


def _run_forge(network: Any, ids: Tensor, *, last: bool) -> Tensor:
    """With the embeddings in float32, as the host itself turns them to for good each time it encodes (backend/
    text_processing/classic_engine.py, encode_with_transformers). It has not done so yet where the main prompt's
    conditioning is still known from before the model was loaded.
    """
    embeddings = network.text_model.embeddings
    with torch.inference_mode():  # as there: else weights that were made under it could not be changed
        embeddings.token_embedding.to(torch.float32)
        embeddings.position_embedding.to(torch.float32)
    return _run_transformers(network, ids, last=last)


def _run_open_clip(embedder: Any, ids: Tensor) -> Tensor:
    return embedder.encode_with_transformer(ids)["penultimate"]


def fetch_clip(model: Any) -> None:
    """The networks without LoRA: Forge keeps them beside those in use, and moves the weights from one to the other."""
    memory.manager.load_model_gpu(model.forge_objects_original.clip.patcher)


def _fetch_hooked(model: Any) -> None:
    """With --lowvram and --medvram a part comes to the device by a hook on its forward (modules/lowvram.py): SDXL's
    whole conditioner, whose forward is not called here, and SD1.x's network, whose input must be there before.
    """
    if getattr(model, "is_sd1", False):
        stage = model.cond_stage_model
        part = getattr(stage, "wrapped", stage).transformer
    else:
        part = model.conditioner
    for hook in list(part._forward_pre_hooks.values()):
        hook(part, ())


@contextmanager
def _without_lora() -> Iterator[None]:
    """A1111's Lora extension changes weights whenever a layer is called and its list of networks has changed: with an
    empty list it puts the model's own back, and the next prompt brings the LoRAs again.
    """
    networks: Any = sys.modules.get("networks")
    loaded = getattr(networks, "loaded_networks", None)
    if not loaded:
        yield
        return
    networks.loaded_networks = []
    try:
        yield
    finally:
        networks.loaded_networks = loaded


def _weights_of(model: Any) -> str:
    info = getattr(model, "sd_checkpoint_info", None)
    return str(getattr(info, "filename", ""))


_tokenizers: dict[tuple[bytes, int | None], Any] = {}
"""By vocabulary and pad token, for as long as the host runs: what transformers 4 has made is never freed anyway."""


def _fast(tokenizer: Any, pad: int | None) -> Any:
    """A fast tokenizer with the host's vocabulary, which splits text as psi's training did, and this pad token.

    The same one for every checkpoint with that vocabulary.
    """
    vocabulary = hashlib.sha256(repr(sorted(tokenizer.get_vocab().items())).encode()).digest()
    if (vocabulary, pad) not in _tokenizers:
        _tokenizers[vocabulary, pad] = _make_fast(tokenizer, pad)
    return _tokenizers[vocabulary, pad]


def _make_fast(tokenizer: Any, pad: int | None) -> Any:
    from transformers import CLIPTokenizerFast

    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        fast = CLIPTokenizerFast.from_pretrained(folder, local_files_only=True)
    if pad is not None:
        # As a special token, so that "!" in a prompt is read as in psi's training (see lib_oms/text/encoders.py).
        fast.add_special_tokens({"pad_token": fast.convert_ids_to_tokens(pad)})
    return fast
