"""The WebUI's prompt syntax as the OMS prompt reads it."""

from __future__ import annotations

import math
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompt_strategies import ANY_TEXT

from lib_oms.text.prompt import MAX_WEIGHT, Span, first_step_text, oms_prompt, parse_attention, parse_prompt


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("", []),
        ("a plain prompt, with: a colon", [("a plain prompt, with: a colon", 1.0)]),
        ("a (bright) day", [("a ", 1.0), ("bright", 1.1), (" day", 1.0)]),
        ("a [bright] day", [("a ", 1.0), ("bright", 1 / 1.1), (" day", 1.0)]),
        ("(night:1.3)", [("night", 1.3)]),
        ("(night : 1.3 )", [("night ", 1.3)]),
        ("(night:-.5)", [("night", -0.5)]),
        ("((sea:0.5) sky:2)", [("sea", 1.0), (" sky", 2.0)]),
        ("([x])", [("x", 1.1 / 1.1)]),
        ("(a)(b)", [("ab", 1.1)]),
        ("(open", [("open", 1.1)]),
        ("[open", [("open", 1 / 1.1)]),
        ("closed) here]", [("closed) here]", 1.0)]),
        ("no bracket:1.2)", [("no bracket:1.2)", 1.0)]),
        (r"\(plain\) \[too\] \\ a\b", [(r"(plain) [too] \ ab", 1.0)]),
        (r"(a\):2)", [("a)", 2.0)]),
        ("(a:1.2.3)", [("a:1.2.3", 1.1)]),
        ("(a:..)", [("a:..", 1.1)]),
        ("(a:99999)", [("a", MAX_WEIGHT)]),
        ("((a:0):" + "9" * 400 + ")", [("a", 0.0)]),
    ],
)
def test_attention(text: str, spans: list[tuple[str, float]]) -> None:
    (section,) = parse_attention(text)
    assert [s.text for s in section] == [text for text, _ in spans]
    assert [s.weight for s in section] == pytest.approx([weight for _, weight in spans])


def test_break_starts_a_section_inside_brackets_too() -> None:
    assert parse_attention("a BREAK b") == [[Span("a", 1.0)], [Span("b", 1.0)]]
    assert parse_attention("a\nBREAK") == [[Span("a", 1.0)], []]
    assert parse_attention("BREAK BREAK x") == [[], [], [Span("x", 1.0)]]
    assert parse_attention("(a BREAK b:2) c") == [[Span("a", 2.0)], [Span("b", 2.0), Span(" c", 1.0)]]
    assert parse_attention("BREAKFAST") == [[Span("BREAKFAST", 1.0)]]


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("a house", "a house"),
        ("dark <lora:add_detail:0.8> cave <hypernet:x:1>", "dark  cave "),
        ("a < b > c", "a < b > c"),
        ("[day:night:0.5]", "day"),
        ("[day:night:0]", "night"),
        ("[day:night: 12 ]", "day"),
        ("[day:night:1e-3]", "night"),
        ("[fog::0.3] sea", "fog sea"),
        ("sea [fog:0.3]", "sea "),
        ("sea [fog:0]", "sea fog"),
        ("[red|blue|green] ball", "red ball"),
        ("[fe|]male", "female"),
        ("[|fe]male", "male"),
        ("a[b:[c:d:2]:1]e", "abe"),
        ("[[a|b]:c:0.5]", "a"),
        ("[(a:1.2):(b:0.7):0.5]", "(a:1.2)"),
        ("[dim]", "[dim]"),
        ("[a:b]", "[a:b]"),
        ("[a:b:c:0.5]", "[a:b:c:0.5]"),
        (r"\[a:b:0.5\]", r"\[a:b:0.5\]"),
        ("a [b:c:0.5", "a [b:c:0.5"),
        ("a b:c:0.5]", "a b:c:0.5]"),
        ("16:9", "16:9"),
        ("a dog AND a cat", "a dog, a cat"),
        ("a dog :1.2 AND a cat :0.5", "a dog, a cat"),
        ("a dog AND fog :-1 AND rain : 0", "a dog"),
        ("fog :-1 AND rain :-1", ""),
        ("SAND ANDY and", "SAND ANDY and"),
        ("x AND [a:b:0.5] <lora:y:1>", "x, a"),
    ],
)
def test_first_step(prompt: str, text: str) -> None:
    assert first_step_text(prompt) == text


@pytest.mark.parametrize(
    ("prompt", "steps", "text"),
    [
        ("[day:night:0.02]", 20, "night"),
        ("[day:night:0.02]", 50, "day"),
        ("[day:night:0.05]", 20, "day"),
        ("[day:night:0.049]", 20, "night"),
        ("[day:night:.04] and [fog:0.04]", 20, "night and fog"),
        ("[fog::0.04]sea", 20, "sea"),
        ("[day:night:1]", 20, "day"),
        ("[day:night:1.0]", 20, "day"),
        ("[day:night:0]", 20, "night"),
        ("[day:night:-0.5]", 20, "night"),
        ("[day:night:5e-1]", 20, "night"),
        ("[day:night:5.e-1]", 20, "day"),
        ("[day:[dusk:night:0.04]:0.04]", 20, "night"),
        ("[day:night:0.5]", 1, "night"),
        ("[day:night:9e999]", 20, "day"),
    ],
)
def test_first_step_of_so_many(prompt: str, steps: int, text: str) -> None:
    """As the first schedule of A1111's own get_learned_conditioning_prompt_schedules, but 9e999, which ends it."""
    assert first_step_text(prompt, steps) == text
    assert first_step_text(text, steps) == text


@given(ANY_TEXT)
def test_no_text_ever_raises(prompt: str) -> None:
    for section in parse_prompt(prompt):
        for span in section:
            assert span.text
            assert math.isfinite(span.weight)
            assert abs(span.weight) <= MAX_WEIGHT
            span.text.encode("utf-8")
        assert all(a.weight != b.weight for a, b in pairwise(section))


@given(st.text(st.characters(exclude_characters="()[]\\<", exclude_categories=("Cs",)), min_size=1))
def test_plain_text_stays_as_it_is(prompt: str) -> None:
    if "AND" not in prompt and "BREAK" not in prompt:
        assert "".join(span.text for span in parse_prompt(prompt)[0]) == prompt


@pytest.mark.parametrize(
    "piece",
    ["(", "[", ")", "]", "(a", "[a:", "[a|", ": ", "<a:", "<lora:x", "\\", " ", " :", "(a:1)", "AND ", " BREAK"],
)
def test_hostile_length_takes_linear_time(piece: str) -> None:
    start = time.process_time()
    parse_prompt(piece * (100_000 // len(piece)))
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("asked", "main", "prompt"),
    [
        ("", "a lighthouse", "a lighthouse"),
        (" \n", "a lighthouse", "a lighthouse"),
        ("night", "a lighthouse", "night"),
        ("[PROMPT], night", "a lighthouse", "a lighthouse, night"),
        ("([PROMPT]:0.5), night", "a lighthouse", "(a lighthouse:0.5), night"),
        ("[prompt], night", "a lighthouse", "[prompt], night"),
        ("[PROMPT]", "[PROMPT]", "[PROMPT]"),
        ("[PROMPT]", "", ""),
    ],
)
def test_the_main_prompt_has_a_name_in_the_oms_prompt(asked: str, main: str, prompt: str) -> None:
    assert oms_prompt(asked, main) == prompt


def test_the_main_prompt_s_name_makes_no_prompt_grow_beyond_bounds() -> None:
    assert len(oms_prompt("[PROMPT]" * 10_000, "a" * 100_000)) < 1_000_000
