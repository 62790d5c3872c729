"""Prompts for property tests: anything at all, and what looks like the WebUI's syntax."""

from hypothesis import strategies as st

WRITTEN = [
    "(",
    ")",
    "[",
    "]",
    ":",
    "|",
    "\\",
    " ",
    "\n",
    ",",
    "AND",
    "BREAK",
    "a",
    "night",
    "1.2",
    "0",
    "-1",
    ".",
    "1e3",
]
HOSTILE = ["<lora:x:1>", "<", ">", "<hypernet:", "é", "夜", "\x00", "\ud800", "𝒳", "9" * 400]
SYNTAX = st.lists(st.sampled_from(WRITTEN + HOSTILE), max_size=60).map("".join)
ANY_TEXT = st.text(max_size=80) | st.text(st.characters(exclude_categories=()), max_size=40) | SYNTAX
