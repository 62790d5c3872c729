"""Prompts to conditioning (host file: modules/prompt_parser.py).

Attention weights and BREAK are honoured. Prompt editing, alternation and AND are taken as they stand before the
first step, and stay so: the demo has no schedule of prompts.
"""

from typing import Any

import torch
from transformers import CLIPTokenizer

from lib_oms.text.prompt import parse_prompt
from lib_oms.text.tower import emphasize

CHUNK = 75


Token = tuple[int, float]
"""an id and its attention weight"""


def _chunks(text: str, tokenizer: CLIPTokenizer) -> list[list[Token]]:
    """A prompt in chunks of 75, without start, end and padding; at least one chunk."""
    chunks: list[list[Token]] = []
    for section in parse_prompt(text):
        ids = [(tokenizer(span.text, add_special_tokens=False)["input_ids"], span.weight) for span in section]
        tokens = [(token, weight) for of_span, weight in ids for token in of_span]
        chunks += [tokens[start : start + CHUNK] for start in range(0, max(len(tokens), 1), CHUNK)]
    return chunks or [[]]


@torch.no_grad()
def get_learned_conditioning(model: Any, prompts: list[str], steps: int | None = None) -> torch.Tensor:
    """[B, 77k, D] for `prompts`, k chunks as the longest of them needs: last hidden states after the final norm."""
    tokenizer = model.tokenizer
    begin, end, pad = (tokenizer.bos_token_id, 1.0), (tokenizer.eos_token_id, 1.0), (tokenizer.pad_token_id, 1.0)

    def states(tokens: list[Token]) -> torch.Tensor:
        ids, weights = zip(begin, *tokens, end, *[pad] * (CHUNK - len(tokens)), strict=True)
        return emphasize(model.text_encoder(torch.tensor([ids])).last_hidden_state[0], weights)

    all_chunks = [_chunks(prompt, tokenizer) for prompt in prompts]
    count = max(len(chunks) for chunks in all_chunks)
    filled = [chunks + [[]] * (count - len(chunks)) for chunks in all_chunks]
    return torch.stack([torch.cat([states(tokens) for tokens in chunks]) for chunks in filled])
