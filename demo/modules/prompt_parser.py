"""Prompts to conditioning (host file: modules/prompt_parser.py).

Attention weights and BREAK are honoured. Prompt editing, alternation and AND are taken as they stand before the
first step, and stay so: the demo has no schedule of prompts.
"""

import torch

from lib_oms.text.prompt import parse_prompt

CHUNK = 75


def parse_prompt_attention(text: str) -> list[list]:
    """[[text, weight], ...]; a BREAK is ["BREAK", -1]."""
    pieces: list[list] = []
    for i, section in enumerate(parse_prompt(text)):
        pieces += [["BREAK", -1]] if i else []
        pieces += [[span.text, span.weight] for span in section]
    return pieces or [["", 1.0]]


def _chunks(text: str, tokenizer) -> list[tuple[list[int], list[float]]]:
    """Token ids and weights in chunks of 75, without start, end and padding; at least one chunk."""
    chunks: list[tuple[list[int], list[float]]] = []
    for section in parse_prompt(text):
        ids: list[int] = []
        weights: list[float] = []
        for span in section:
            tokens = tokenizer(span.text, add_special_tokens=False, truncation=False)["input_ids"]
            ids += tokens
            weights += [span.weight] * len(tokens)
        starts = range(0, max(len(ids), 1), CHUNK)
        chunks += [(ids[s : s + CHUNK], weights[s : s + CHUNK]) for s in starts]
    return chunks or [([], [])]


@torch.no_grad()
def get_learned_conditioning(model, prompts: list[str], steps: int | None = None) -> torch.Tensor:
    """[B, 77k, D] for `prompts`, k chunks as the longest of them needs: last hidden states after the final norm."""
    tokenizer, encoder = model.tokenizer, model.text_encoder
    all_chunks = [_chunks(prompt, tokenizer) for prompt in prompts]
    count = max(len(chunks) for chunks in all_chunks)
    rows = []
    for chunks in all_chunks:
        states = []
        for ids, weights in chunks + [([], [])] * (count - len(chunks)):
            padding = CHUNK - len(ids)
            row = [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id, *[tokenizer.pad_token_id] * padding]
            z = encoder(torch.tensor([row])).last_hidden_state
            scale = torch.tensor([1.0, *weights, 1.0, *[1.0] * padding]).reshape(1, -1, 1)
            if (scale != 1).any():  # as the host: weigh the states, then restore their mean
                mean = z.mean()
                z = z * scale
                z = z * (mean / z.mean())
            states.append(z)
        rows.append(torch.cat(states, dim=1))
    return torch.cat(rows)
