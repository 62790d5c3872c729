r"""The WebUI's prompt syntax, read for a step that comes before the first one of the sampler.

The OMS prompt is usually the main prompt, written for the main model. What happens to each piece of syntax:

| written | becomes | because |
|---|---|---|
| `(night:1.3)`, `(night)`, `[night]` | weight 1.3, 1.1, 1/1.1 on those tokens | as in the WebUI; nested ones multiply |
| `\(`, `\)`, `\[`, `\]`, `\\` | the plain character | a single `\` before anything else is dropped, as in the WebUI |
| `BREAK` | a new chunk of 75 tokens | as in the WebUI, also inside brackets |
| `<lora:x:0.8>`, any `<name:...>` | removed | psi has no LoRA; the text would only be noise |
| `[a:b:when]` | `a`; `b` where `when` is less than one step | as the WebUI's first step; 0.02 of 20 is less |
| `[a::when]`, `[b:when]` | `a`; nothing | likewise |
| `[a\|b]` | `a` | the first step's alternative |
| `a :1.2 AND b :0.5 AND c :-1` | `a, b` | one picture of both; a weight of 0 or less asks for absence |

Weights are held within +-100, which keeps half precision finite. Brackets without a partner never fail: an open
one reaches to the end of the text, a closing one stays in the text. Textual inversion is not applied.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_WEIGHT = 100.0
MAX_DEPTH = 32  # deeper prompt editing counts as plain text: keeps hostile prompts linear in time

_ROUND = 1.1
_SQUARE = 1 / 1.1
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)"
_network = re.compile(r"<\w+:[^<>]+>")
_and = re.compile(r"\bAND\b")
_break = re.compile(r"\bBREAK\b")
_number = re.compile(_NUMBER)
_when = re.compile(_NUMBER + r"(?:[eE][+-]?\d+)?")
_schedule_piece = re.compile(r"\\.|[\[\]():|]|[^\\\[\]():|]+|\\", re.DOTALL)
_attention_piece = re.compile(rf"\\[()\[\]\\]|:\s*({_NUMBER})\s*\)|[()\[\]:\\]|[^()\[\]:\\]+")


MAIN_PROMPT = "[PROMPT]"
"""What stands for the main prompt in an OMS prompt, in these very letters."""
MOST_TIMES = 8  # that it does so in one prompt: keeps hostile ones from growing beyond all bounds


class Span(NamedTuple):
    """A run of text whose tokens share one attention weight."""

    text: str
    weight: float


def parse_prompt(prompt: str) -> list[list[Span]]:
    """What an OMS text encoder is to encode for `prompt`.

    Returns one list of spans per section; sections are separated by BREAK, and each starts a new chunk. No text raises.
    """
    return parse_attention(first_step_text(prompt))


def oms_prompt(asked: str, main_prompt: str) -> str:
    """The OMS prompt of a picture: what was asked for, the picture's main prompt in place of MAIN_PROMPT; empty, the
    main prompt.
    """
    return asked.replace(MAIN_PROMPT, main_prompt, MOST_TIMES) if asked.strip() else main_prompt


def first_step_text(prompt: str, steps: int | None = None) -> str:
    """`prompt` without extra networks, AND, prompt editing and alternation: the text of the very first step.

    `steps` is how many the sampler takes; where it is not known, every share of them above 0 is taken for one at least.
    """
    text = prompt.encode("utf-8", "replace").decode("utf-8")  # lone surrogates are no text for a tokenizer
    return _resolve_schedules(_join_parts(_network.sub("", text)), steps)


def parse_attention(text: str) -> list[list[Span]]:
    """Attention weights and BREAK of `text`, as in the WebUI; neighbors of equal weight are merged."""
    pieces = list(_attention_piece.finditer(text))
    factors = _bracket_factors(pieces)
    weights = {"(": [1.0], "[": [1.0]}  # per kind of bracket, the product at each depth: the two kinds may interleave
    sections: list[list[tuple[list[str], float]]] = [[]]

    def add(text: str) -> None:
        weight = _clamp(weights["("][-1] * weights["["][-1])
        section = sections[-1]
        if section and section[-1][1] == weight:
            section[-1][0].append(text)
        elif text:
            section.append(([text], weight))

    for i, match in enumerate(pieces):
        piece = match.group(0)
        if i in factors:
            if piece in weights:
                weights[piece].append(_clamp(weights[piece][-1] * factors[i]))
            else:
                weights["[" if piece == "]" else "("].pop()
        elif piece[0] == "\\":
            add(piece[1:])
        else:
            first, *others = _break.split(piece)
            add(first.rstrip() if others else first)
            for n, other in enumerate(others, start=1):
                sections.append([])
                add(other.strip() if n < len(others) else other.lstrip())
    return [[Span("".join(texts), weight) for texts, weight in section] for section in sections]


def _bracket_factors(pieces: list[re.Match[str]]) -> dict[int, float]:
    """Which of the pieces are brackets that count, and the factor of each; the rest is text."""
    factors: dict[int, float] = {}
    open_round: list[int] = []
    open_square: list[int] = []
    for i, match in enumerate(pieces):
        piece, number = match.group(0), match.group(1)
        if piece == "(":
            open_round.append(i)
        elif piece == "[":
            open_square.append(i)
        elif open_round and (piece == ")" or number is not None):
            factors[i] = factors[open_round.pop()] = _ROUND if number is None else _clamp(float(number))
        elif open_square and piece == "]":
            factors[i] = factors[open_square.pop()] = _SQUARE
    factors.update(dict.fromkeys(open_round, _ROUND))
    factors.update(dict.fromkeys(open_square, _SQUARE))
    return factors


def _clamp(weight: float) -> float:
    return max(-MAX_WEIGHT, min(MAX_WEIGHT, weight))


def _join_parts(text: str) -> str:
    parts = _and.split(text)
    if len(parts) == 1:
        return text
    kept = []
    for part in parts:
        head, colon, tail = part.rpartition(":")
        if colon and _number.fullmatch(tail.strip()):
            if float(tail) <= 0:
                continue
            part = head
        kept.append(part.strip())
    return ", ".join(part for part in kept if part)


class _Bracket:
    """An open `[`: the fields read so far, and the `:` or `|` between them."""

    def __init__(self) -> None:
        self.fields: list[list[str]] = [[]]
        self.separators: list[str] = []
        self.depth = 0  # of round brackets inside, where separators belong to those

    def add(self, piece: str) -> None:
        self.fields[-1].append(piece)

    def separate(self, separator: str) -> None:
        self.separators.append(separator)
        self.fields.append([])

    def literal(self) -> str:
        """The text as it was written, less the brackets."""
        text = "".join(self.fields[0])
        return text + "".join(s + "".join(f) for s, f in zip(self.separators, self.fields[1:], strict=True))

    def resolve(self, steps: int | None) -> str:
        """What the bracket stands for at the first step."""
        if self.separators and self.separators[-1] == ":" and self.separators.count(":") <= 2:
            when = "".join(self.fields[-1]).strip()
            if _when.fullmatch(when):
                return self._scheduled(_is_over(when, steps))
        if self.separators and set(self.separators) == {"|"}:
            return "".join(self.fields[0])
        return f"[{self.literal()}]"

    def _scheduled(self, over: bool) -> str:
        before, after = "", self._literal_of(0, len(self.separators) - 1)
        if self.separators.count(":") == 2:
            split = self.separators.index(":")
            before = self._literal_of(0, split)
            after = self._literal_of(split + 1, len(self.separators) - 1)
        return after if over else before

    def _literal_of(self, first: int, last: int) -> str:
        text = "".join(self.fields[first])
        return text + "".join(self.separators[i - 1] + "".join(self.fields[i]) for i in range(first + 1, last + 1))


def _is_over(when: str, steps: int | None) -> bool:
    """Whether prompt editing has happened by the first step: a number with a point is a share of the steps, one without
    counts them, and what is less than a whole step is none (A1111 modules/prompt_parser.py, collect_steps).
    """
    if "." not in when:
        return float(when) < 1
    return float(when) <= 0 if steps is None else float(when) * steps < 1


def _resolve_schedules(text: str, steps: int | None) -> str:
    base = _Bracket()
    stack = [base]
    for match in _schedule_piece.finditer(text):
        piece, top = match.group(0), stack[-1]
        if piece == "[" and len(stack) <= MAX_DEPTH:
            stack.append(_Bracket())
        elif piece == "]" and top is not base:
            stack.pop()
            stack[-1].add(top.resolve(steps))
        elif piece in (":", "|") and top is not base and top.depth == 0:
            top.separate(piece)
        else:
            top.depth += (piece == "(") - (piece == ")" and top.depth > 0)
            top.add(piece)
    while len(stack) > 1:
        top = stack.pop()
        stack[-1].add("[" + top.literal())
    return base.literal()
