"""A CLIP text model with its tokenizer: chunks of 75 tokens, attention weights, hidden states.

The rules are the WebUI's; where they differ from it, lib_oms/text/encoders.py says why.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from lib_oms.errors import OMSError
from lib_oms.text.prompt import Span, parse_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHUNK = 75  # tokens of the prompt in a chunk
POSITIONS = CHUNK + 2  # with the begin and end tokens
COMMA_BACKTRACK = 20
_NO_MEAN = 1e-4  # a mean below this share of the hidden states' size is rounding noise


class Chunk(NamedTuple):
    """77 token ids and the attention weight of each."""

    ids: list[int]
    weights: list[float]


class TextTower(nn.Module):
    """A tokenizer and hidden states that somebody computes: a transformers model of ours (`Tower`), or the host's.

    Args:
        tokenizer: CLIP's; pads with its own pad token after the end token.
        width: of the hidden states.
        vocab_size: how many tokens the text model knows.

    Raises:
        OMSError: the tokenizer does not belong to the text model.
    """

    def __init__(self, tokenizer: Any, width: int, vocab_size: int) -> None:
        super().__init__()
        vocab = tokenizer.get_vocab()
        if max(vocab.values()) >= vocab_size:
            raise OMSError(
                f"the tokenizer has token {max(vocab.values())}, but the text encoder's vocabulary ends at "
                f"{vocab_size - 1}: they are not a pair"
            )
        if tokenizer.bos_token_id is None or tokenizer.eos_token_id is None:
            raise OMSError("the tokenizer names no begin or no end token; a CLIP tokenizer names both")
        self.tokenizer = tokenizer
        self.width = width
        self._comma = vocab.get(",</w>")
        self._begin: int = tokenizer.bos_token_id
        self._end: int = tokenizer.eos_token_id
        self._pad: int = self._end if tokenizer.pad_token_id is None else tokenizer.pad_token_id

    @property
    def device(self) -> torch.device:
        raise NotImplementedError

    @property
    def dtype(self) -> torch.dtype:
        raise NotImplementedError

    def states(self, ids: Tensor) -> Tensor:
        """Hidden states [N, 77, width] of token ids [N, 77], before attention weights."""
        raise NotImplementedError

    def chunks(self, sections: Iterable[Sequence[Span]]) -> list[Chunk]:
        """The chunks of a parsed prompt; at least one. A section starts a new chunk, an empty last one does not."""
        result: list[Chunk] = []
        tokens: list[tuple[int, float]] = []
        for i, section in enumerate(sections):
            if i > 0:
                result.append(self._chunk(tokens))
            tokens = []
            last_comma = -CHUNK
            for token, weight in self._tokens(section):
                if len(tokens) == CHUNK:
                    near = token != self._comma and CHUNK - last_comma <= COMMA_BACKTRACK
                    cut = last_comma + 1 if near else CHUNK
                    result.append(self._chunk(tokens[:cut]))
                    tokens = tokens[cut:]
                    last_comma = -CHUNK
                if token == self._comma:
                    last_comma = len(tokens)
                tokens.append((token, weight))
        if tokens or not result:
            result.append(self._chunk(tokens))
        return result

    def cut(self, text: str) -> Chunk:
        """The first 75 tokens of a text that is no prompt."""
        return self._chunk(list(self._tokens([Span(text, 1.0)]))[:CHUNK])

    def hidden(self, chunks: Sequence[Chunk]) -> Tensor:
        """[len(chunks), 77, width]: hidden states with the weights applied, in the model's dtype and device."""
        states = self.states(torch.tensor([chunk.ids for chunk in chunks], device=self.device))
        return torch.stack([emphasize(state, chunk.weights) for state, chunk in zip(states, chunks, strict=True)])

    def _tokens(self, section: Sequence[Span]) -> Iterator[tuple[int, float]]:
        for span in section:
            ids = self.tokenizer(span.text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
            for token in ids:
                yield token, span.weight

    def _chunk(self, tokens: Sequence[tuple[int, float]]) -> Chunk:
        fill = CHUNK - len(tokens)
        ids = [self._begin, *(token for token, _ in tokens), self._end, *([self._pad] * fill)]
        return Chunk(ids, [1.0, *(weight for _, weight in tokens), 1.0, *([1.0] * fill)])


class Tower(TextTower):
    """One text model of our own with its tokenizer.

    Args:
        model: transformers' CLIPTextModel or CLIPTextModelWithProjection.
        tokenizer: its tokenizer.
        penultimate: use hidden_states[-2], as SDXL does, instead of the last one after the final norm.

    Raises:
        OMSError: model and tokenizer do not belong together, or do not read 77 positions.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: Any, *, penultimate: bool) -> None:
        config = model.config
        if config.max_position_embeddings != POSITIONS:
            raise OMSError(
                f"the text encoder reads {config.max_position_embeddings} positions; psi needs CLIP's {POSITIONS}"
            )
        super().__init__(tokenizer, config.hidden_size, config.vocab_size)
        self.model: PreTrainedModel = model.eval().requires_grad_(False)
        self.penultimate = penultimate

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    def states(self, ids: Tensor) -> Tensor:
        if self.penultimate:
            return self.model(input_ids=ids, output_hidden_states=True).hidden_states[-2]
        return self.model(input_ids=ids).last_hidden_state


def prompt_length(tokenizer: Any, prompt: str) -> tuple[int, int]:
    """How many tokens a prompt takes, full chunks counted whole as the WebUI does, and how many its chunks have room
    for.

    Raises:
        OMSError: the tokenizer is none of CLIP's.
    """
    tower = TextTower(tokenizer, 0, sys.maxsize)
    *full, last = tower.chunks(parse_prompt(prompt))
    before = CHUNK * len(full)
    return before + last.ids.index(tower._end, 1) - 1, before + CHUNK


def emphasize(states: Tensor, weights: Sequence[float]) -> Tensor:
    """One chunk's hidden states [77, D] times its 77 weights, the mean restored; computed in float32."""
    if all(weight == 1.0 for weight in weights):
        return states
    before = states.float()
    after = before * torch.tensor(weights, device=states.device)[:, None]
    old, new = before.mean(), after.mean()
    if old * new > 0 and old.abs() > _NO_MEAN * _size(before) and new.abs() > _NO_MEAN * _size(after):
        after = after * (old / new)
    limit = torch.finfo(states.dtype).max
    return after.clamp(-limit, limit).to(states.dtype)


def _size(states: Tensor) -> Tensor:
    return states.square().mean().sqrt()
