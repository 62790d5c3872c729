"""CLIP text models and tokenizers as files: local, safetensors only, no code from the folder.

Weights are read straight to the wanted dtype, whichever generation of transformers wrote them: from version 5 on, a
text model's tensors have no `text_model.` before their names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lib_oms.errors import ModuleFileError
from lib_oms.files import FLOATS, Header, copied, file_stamp, fill, read_header, read_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "model.fp16.safetensors")
_PREFIX = "text_model."
_TOKENIZER_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_MOST_TOKENIZER_BYTES = 16 * 2**20
_LONGEST_TOKEN = 1024
_PART_NAME = re.compile(r"[\w-][\w.-]*\.safetensors")
# A config is read before its file is trusted: it must not make us build without end.
_MOST = {
    "num_hidden_layers": 64,
    "hidden_size": 8192,
    "intermediate_size": 65536,
    "num_attention_heads": 512,
    "vocab_size": 1_000_000,
    "max_position_embeddings": 4096,
    "projection_dim": 8192,
}


def weights_name(folder: Path) -> str | None:
    """Which of the known weights files lies in `folder`; None where none does."""
    return next((name for name in WEIGHTS if (folder / name).is_file()), None)


def has_vocabulary(folder: Path) -> bool:
    """Whether a tokenizer lies in `folder`."""
    pair = (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()
    return pair or (folder / "tokenizer.json").is_file()


def model_width(folder: Path) -> int:
    """Width of the hidden states of the text model in `folder`, told by the headers of its weights alone.

    Raises:
        ModuleFileError: they are broken, or are of no CLIP text model.
    """
    return _model_width(folder, _stamp(folder))


@lru_cache(maxsize=1024)
def _model_width(folder: Path, stamp: object) -> int:  # stamp only tells old answers from new ones
    weights = weights_name(folder) or WEIGHTS[0]
    for _, header in _headers(folder, weights):
        for name, info in header.tensors.items():
            if name.removeprefix(_PREFIX) == "embeddings.token_embedding.weight" and len(info.shape) == 2:
                return info.shape[1]
    raise ModuleFileError(f"{folder / weights}: holds no CLIP text model")


def load_model(
    folder: Path, *, projection: bool, dtype: torch.dtype | None, headers_only: bool = False
) -> PreTrainedModel:
    """The CLIP text model in a folder of transformers' layout, on the CPU; float32 if no dtype is given.

    With `headers_only` it is built without weights, on "meta", which finds out everything that headers can tell.

    Raises:
        ModuleFileError: names the folder and what is missing, broken or of another kind.
    """
    weights = weights_name(folder) or WEIGHTS[0]
    try:
        told = read_json(folder / "config.json")
        model_type = told.get("model_type")
        if model_type not in ("clip_text_model", "clip"):
            raise ModuleFileError(f"{folder}/config.json is of a {model_type!r:.99} model; a CLIP text model is needed")
        config = told.get("text_config") if model_type == "clip" else told
        headers = _headers(folder, weights)
        names = {
            name: file for file, header in headers for name, info in header.tensors.items() if info.dtype in FLOATS
        }
        shapes = {name: info.shape for _, header in headers for name, info in header.tensors.items()}
    except ModuleFileError as error:
        raise ModuleFileError(f"{folder}: cannot read {weights} with its config.json: {error}") from error
    return build_model(
        config,
        names,
        lambda wanted: _told(wanted, shapes) if headers_only else _read(wanted, names),
        projection=projection,
        dtype=dtype,
        source=str(folder / weights),
    )


def build_model(
    config: Any,
    names: Iterable[str],
    read: Callable[[list[str]], Iterable[tuple[str, Tensor]]],
    *,
    projection: bool,
    dtype: torch.dtype | None,
    source: str,
) -> PreTrainedModel:
    """A CLIP text model of `config` with the tensors that `read` gives for names out of `names`; those that are on
    "meta" stay there.

    Raises:
        ModuleFileError: a config that makes no model, or tensors that are missing or of another shape; names `source`.
    """
    available = {name.removeprefix(_PREFIX): name for name in names}
    # Hosts call with inference mode on; weights born in it could never leave it.
    with torch.inference_mode(False), torch.no_grad():
        with torch.device("meta"):
            model = _empty(config, projection, source)
        wanted = {name.removeprefix(_PREFIX): name for name, _ in model.named_parameters()}
        missing = sorted(set(wanted) - set(available))
        if missing:
            raise ModuleFileError(f"{source} lacks {len(missing)} tensors of its config, {wanted[missing[0]]} first")
        shapes = {name: parameter.shape for name, parameter in model.named_parameters()}

        def checked() -> Iterator[tuple[str, Tensor]]:
            for name, tensor in read([available[short] for short in wanted]):
                own = wanted[name.removeprefix(_PREFIX)]
                if tensor.shape != shapes[own]:
                    raise ModuleFileError(
                        f"{source}: tensor {name!r} has shape {list(tensor.shape)}, its config asks for "
                        f"{list(shapes[own])}"
                    )
                yield own, tensor

        try:
            tensors = copied(checked(), dtype or torch.float32)
        except (SafetensorError, OSError, ValueError, RuntimeError) as error:
            if isinstance(error, ModuleFileError):
                raise
            raise ModuleFileError(f"{source}: its tensors cannot be read: {error}") from error
        fill(model, tensors, strict=False)
        _fill_positions(model, source)
    return model.eval()


def load_tokenizer(folder: Path, pad_token: str | None = None) -> Any:
    """The CLIP tokenizer in `folder`; pads with `pad_token` where that is given.

    Who asks again gets the same one, not to be changed, until a file in the folder changes: transformers 4 ties each of
    its CLIP tokenizers to itself in a way that nothing ever frees.

    Raises:
        ModuleFileError: it cannot be read.
    """
    return _tokenizer(folder, pad_token, _stamp(folder))


@lru_cache(maxsize=8)
def _tokenizer(folder: Path, pad_token: str | None, stamp: object) -> Any:  # stamp only tells old answers from new ones
    from transformers import CLIPTokenizerFast  # the slow one of transformers 4.30 strips accents where ftfy is absent

    _check_tokenizer(folder)
    kept = {} if pad_token is None else {"pad_token": pad_token}
    try:
        return CLIPTokenizerFast.from_pretrained(str(folder), local_files_only=True, **kept)
    except Exception as error:  # tokenizers raises plain Exception
        raise ModuleFileError(f"{folder}: cannot read the tokenizer: {error}") from error


def _stamp(folder: Path) -> tuple[tuple[Any, ...], ...]:
    """Changes with every file in `folder`."""
    try:
        return tuple((name, *file_stamp(folder / name)) for name in sorted(os.listdir(folder)))
    except OSError:
        return ()


def _check_tokenizer(folder: Path) -> None:
    """Refuses tokens of a length that `tokenizers` would take minutes or for ever to learn."""
    for name in (*_TOKENIZER_SETTINGS, "tokenizer.json"):
        if not (folder / name).is_file():
            continue
        told = read_json(folder / name, _MOST_TOKENIZER_BYTES)
        waiting: list[Any] = [told if name in _TOKENIZER_SETTINGS else told.get("added_tokens")]
        while waiting:
            value = waiting.pop()
            if isinstance(value, dict):
                waiting += [*value, *value.values()]
            elif isinstance(value, list):
                waiting += value
            elif isinstance(value, str) and len(value) > _LONGEST_TOKEN:
                raise ModuleFileError(
                    f"{folder / name}: holds a text of {len(value)} letters; at most {_LONGEST_TOKEN} are allowed"
                )


def _empty(config: Any, projection: bool, source: str) -> PreTrainedModel:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection  # seconds of import

    if not isinstance(config, Mapping):
        raise ModuleFileError(f"{source}: its config.json describes no text model")
    for key, most in _MOST.items():
        value = config.get(key, 1)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise ModuleFileError(f"{source}: its config.json has {key} {value!r:.100}; 1 to {most} are allowed")
    try:
        made = CLIPTextConfig.from_dict(dict(config))
        return _unfilled(CLIPTextModelWithProjection if projection else CLIPTextModel)(made)
    except Exception as error:  # transformers has errors of many kinds for a config
        raise ModuleFileError(f"{source}: its config.json makes no text model: {error}") from error


@lru_cache(maxsize=2)
def _unfilled(kind: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """`kind` without random numbers for weights that the file has: to draw them takes half a second, even on "meta"."""
    return type(kind.__name__, (kind,), {"_init_weights": lambda self, module: None})


def _fill_positions(model: nn.Module, source: str) -> None:
    for name, buffer in list(model.named_buffers()):
        if not name.endswith("position_ids"):
            raise ModuleFileError(f"{source}: this version of transformers has a buffer {name!r} that is not known")
        owner = model.get_submodule(name.rpartition(".")[0])
        owner.position_ids = torch.arange(buffer.shape[-1]).expand(tuple(buffer.shape))


def _headers(folder: Path, weights: str) -> list[tuple[Path, Header]]:
    """The files that hold the tensors, with their headers, all checked."""
    files = [folder / weights]
    if weights.endswith(".index.json"):
        listed = read_json(folder / weights).get("weight_map")
        parts = set(listed.values()) if isinstance(listed, dict) and all(map(_is_text, listed.values())) else set()
        if not parts or not all(_PART_NAME.fullmatch(part) for part in parts):
            raise ModuleFileError(f"{folder / weights}: names no .safetensors files of this folder")
        files = [folder / part for part in sorted(parts)]
    return [(file, read_header(file)) for file in files]


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _told(wanted: Iterable[str], shapes: Mapping[str, tuple[int, ...]]) -> Iterable[tuple[str, Tensor]]:
    """Tensors without content, as headers tell of them."""
    return ((name, torch.empty(shapes[name], device="meta")) for name in wanted)


def _read(wanted: list[str], files: Mapping[str, Path]) -> Iterable[tuple[str, Tensor]]:
    for file in sorted({files[name] for name in wanted}):
        with safe_open(file, framework="pt", device="cpu") as opened:
            yield from ((name, opened.get_tensor(name)) for name in wanted if files[name] == file)
