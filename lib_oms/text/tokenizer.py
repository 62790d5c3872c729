"""CLIP's tokenizer from the vocabulary file that the `open_clip` and `clip` packages carry.

WebUIs have one of these packages, so a text encoder that comes out of a checkpoint needs no download for its tokenizer.
The rules are CLIP's (github.com/openai/CLIP, simple_tokenizer.py), as transformers' fast tokenizer has them.
"""

from __future__ import annotations

import gzip
import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import Any

from lib_oms.errors import ModuleFileError

FILE_NAME = "bpe_simple_vocab_16e6.txt.gz"
BEGIN, END = "<|startoftext|>", "<|endoftext|>"
_PACKAGES = ("open_clip", "clip")
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_MOST_BYTES = 16 * 2**20


def find_vocabulary() -> Path | None:
    """The vocabulary file in an installed package; the package is not imported."""
    for package in _PACKAGES:
        try:
            spec = importlib.util.find_spec(package)
        except (ImportError, ValueError):
            continue
        for place in (spec.submodule_search_locations or []) if spec else []:
            if (Path(place) / FILE_NAME).is_file():
                return Path(place) / FILE_NAME
    return None


class ClipTokenizer:
    """The part of transformers' CLIPTokenizerFast that `lib_oms.text.tower.Tower` uses.

    Args:
        vocabulary: a gzipped list of merges, in the order of their ranks, below a line of its own.
        tokens: how many tokens the text encoder knows; the file lists more merges than CLIP uses.
        pad_token: what fills a prompt up; SD2.x's is "!".

    Raises:
        ModuleFileError: the file cannot be read.
    """

    def __init__(self, vocabulary: Path, tokens: int, pad_token: str = "!") -> None:
        letters = _letters()
        merges = _merges(vocabulary, tokens - 2 * len(letters) - 2)
        names = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges), BEGIN, END]
        self._vocab = {name: i for i, name in enumerate(names)}
        self.bos_token_id, self.eos_token_id = self._vocab[BEGIN], self._vocab[END]
        self.pad_token, self.pad_token_id = pad_token, self._vocab[pad_token]
        self._tokenizer = _build(self._vocab, merges, pad_token)

    def get_vocab(self) -> dict[str, int]:
        return dict(self._vocab)

    def __call__(self, text: str, **_options: Any) -> dict[str, list[int]]:
        return {"input_ids": self._tokenizer.encode(text, add_special_tokens=False).ids}


@lru_cache(maxsize=4)
def packaged_tokenizer(vocabulary: Path, tokens: int, pad_token: str) -> ClipTokenizer:
    """As ClipTokenizer; who asks again gets the same one."""
    return ClipTokenizer(vocabulary, tokens, pad_token)


def _build(vocab: dict[str, int], merges: list[tuple[str, str]], pad: str) -> Any:
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(
        models.BPE(vocab=vocab, merges=merges, unk_token=END, continuing_subword_prefix="", end_of_word_suffix="</w>")
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    # The pad token counts as one wherever it stands in a text, too: so it is with transformers.
    tokens = [AddedToken(BEGIN, normalized=True), AddedToken(END, normalized=False), AddedToken(pad, normalized=False)]
    tokenizer.add_special_tokens(tokens)
    return tokenizer


def _letters() -> list[str]:
    """The characters that stand for the 256 bytes: printable ones for themselves, the others after them."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = 256 - len(printable)
    return [chr(code) for code in (*printable, *range(256, 256 + others))]


def _merges(vocabulary: Path, count: int) -> list[tuple[str, str]]:
    try:
        with gzip.open(vocabulary, "rt", encoding="utf-8") as file:
            lines = file.read(_MOST_BYTES).splitlines()[1 : 1 + max(count, 0)]
    except (OSError, EOFError, ValueError) as error:
        raise ModuleFileError(f"{vocabulary}: cannot be read: {error}") from error
    merges = [tuple(line.split()) for line in lines]
    if len(merges) != count or any(len(pair) != 2 for pair in merges):
        raise ModuleFileError(f"{vocabulary}: holds no {count} merges, which this text encoder's vocabulary needs")
    return merges  # type: ignore[return-value]
