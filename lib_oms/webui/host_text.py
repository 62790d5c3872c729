"""SDXL's own pair of text encoders, lent by the host: a "mixclip" module needs no second pair.

The prompts do not go through the host's conditioning, which would bring along LoRA, textual inversion, clip skip, its
own emphasis and its cache, and write into the infotext: only the two networks are called, with our own token ids.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import torch
from modules import devices
from torch import Tensor, nn

from lib_oms.text import TextEncoder
from lib_oms.text.tower import TextTower
from lib_oms.webui import memory

Run = Callable[[Any, Tensor], Tensor]
"""Hidden states [N, 77, width] before the last layer and its norm, of a host's network and token ids [N, 77]."""
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
    """The pair of the loaded model; as good as our own MixClipEncoder with the same weights.

    Args:
        model: the host's loaded model.
        towers: CLIP-L's and bigG's.
        fetch: makes the host bring the pair to its device.
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
        """Where they are made; the pair may wait elsewhere until it is fetched."""
        return devices.device

    def belongs_to(self, model: Any) -> bool:
        """Whether this is the pair of `model` as it is now; hosts put other weights into the same model."""
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


_known: HostTextEncoder | None = None
_lock = threading.Lock()


def of(model: Any) -> HostTextEncoder | None:
    """The pair of the loaded model, or None where it has none that is known here.

    The same one for all who ask, page, download and generation at once: psi is kept for the very encoder that it was
    loaded with.
    """
    global _known
    with _lock:
        if _known is None or not _known.belongs_to(model):
            _known = _of_forge(model) or _of_first_forge(model) or _of_a1111(model)
        return _known


def forget() -> None:
    """Lets go of the prompts it has encoded. The networks are the host's, and a tokenizer that transformers 4 has made
    is never freed: another with each picture would be a leak.
    """
    if _known is not None:
        _known.forget()


def _of_forge(model: Any) -> HostTextEncoder | None:
    """Forge, backend/diffusion_engine/sdxl.py."""
    engines: list[Any] = [getattr(model, f"text_processing_engine_{name}", None) for name in "lg"]
    original = getattr(getattr(model, "forge_objects_original", None), "clip", None)
    if None in (*engines, original) or memory.manager is None:
        return None
    of_model = weakref.ref(model)

    def device() -> torch.device:
        """When memory is short some weights wait in RAM; the host's layers fetch them to where their input is."""
        return _living(of_model).forge_objects_original.clip.patcher.load_device

    towers = []
    for engine in engines:
        network = engine.text_encoder.transformer
        config, tokenizer = network.config, _fast(engine.tokenizer, engine.id_pad)
        towers.append(HostTower(network, _run_forge, tokenizer, config.hidden_size, config.vocab_size, device))
    return HostTextEncoder(model, towers, fetch_clip)


def _of_first_forge(model: Any) -> HostTextEncoder | None:
    """reForge and Forge Classic, modules_forge/forge_loader.py: A1111's embedders, each around a network of the memory
    manager's.
    """
    original = getattr(getattr(model, "forge_objects_original", None), "clip", None)
    embedders = list(getattr(getattr(model, "conditioner", None), "embedders", None) or [])[:2]
    wrapped: list[Any] = [getattr(embedder, "wrapped", None) for embedder in embedders]
    if original is None or memory.manager is None or len(wrapped) != 2:
        return None
    if not all(hasattr(part, "transformer") and hasattr(part, "tokenizer") for part in wrapped):
        return None
    towers = [
        _ldm_patched_tower(part.transformer, _fast(part.tokenizer, embedder.id_pad))
        for embedder, part in zip(embedders, wrapped, strict=True)
    ]
    return HostTextEncoder(model, towers, fetch_clip)


def _of_a1111(model: Any) -> HostTextEncoder | None:
    """A1111, modules/sd_hijack.py: `conditioner.embedders`, each with the embedder of sgm in `wrapped`."""
    embedders = list(getattr(getattr(model, "conditioner", None), "embedders", None) or [])
    wrapped = [getattr(embedder, "wrapped", embedder) for embedder in embedders]
    first = next((e for e in wrapped if hasattr(e, "transformer") and hasattr(e, "tokenizer")), None)
    second = next((e for e in wrapped if hasattr(e, "encode_with_transformer") and hasattr(e, "model")), None)
    if first is None or second is None:
        return None
    width = second.model.positional_embedding.shape[1]
    towers = [
        _transformers_tower(first.transformer, _fast(first.tokenizer, first.tokenizer.pad_token_id)),
        # open_clip's tokenizer is CLIP's own, and fills up with 0.
        HostTower(second, _run_open_clip, _fast(first.tokenizer, 0), width, second.model.vocab_size),
    ]
    return HostTextEncoder(model, towers, _fetch_conditioner)


def _transformers_tower(network: Any, tokenizer: Any) -> HostTower:
    return HostTower(network, _run_transformers, tokenizer, network.config.hidden_size, network.config.vocab_size)


def _ldm_patched_tower(network: Any, tokenizer: Any) -> HostTower:
    if hasattr(network, "config"):
        return _transformers_tower(network, tokenizer)
    width = network.text_model.embeddings.position_embedding.weight.shape[1]
    return HostTower(network, _run_ldm_patched, tokenizer, width, tokenizer.vocab_size)


def _run_ldm_patched(network: Any, ids: Tensor) -> Tensor:
    return network(ids, intermediate_output=-2, final_layer_norm_intermediate=False)[1]


def _run_transformers(network: Any, ids: Tensor) -> Tensor:
    # The network's own position_ids is a buffer, which Forge leaves behind when it moves weights.
    positions = torch.arange(ids.shape[-1], device=ids.device)[None]
    return network(input_ids=ids, position_ids=positions, output_hidden_states=True).hidden_states[-2]


def _run_forge(network: Any, ids: Tensor) -> Tensor:
    """With the embeddings in float32, as the host itself turns them to for good each time it encodes (backend/
    text_processing/classic_engine.py, encode_with_transformers). It has not done so yet where the main prompt's
    conditioning is still known from before the model was loaded.
    """
    embeddings = network.text_model.embeddings
    with torch.inference_mode():  # as there: else weights that were made under it could not be changed
        embeddings.token_embedding.to(torch.float32)
        embeddings.position_embedding.to(torch.float32)
    return _run_transformers(network, ids)


def _run_open_clip(embedder: Any, ids: Tensor) -> Tensor:
    return embedder.encode_with_transformer(ids)["penultimate"]


def fetch_clip(model: Any) -> None:
    """The pair without LoRA: Forge keeps it beside the one in use, and moves the weights from one to the other."""
    memory.manager.load_model_gpu(model.forge_objects_original.clip.patcher)


def _fetch_conditioner(model: Any) -> None:
    """With --lowvram and --medvram a part comes to the device by a hook on its forward, which is not called here."""
    for hook in list(model.conditioner._forward_pre_hooks.values()):
        hook(model.conditioner, ())


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
