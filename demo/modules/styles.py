"""Styles of prompts, in styles.csv of the data folder (host file: modules/styles.py)."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple


class PromptStyle(NamedTuple):
    name: str
    prompt: str
    negative_prompt: str


class StyleDatabase:
    """styles.csv: name, prompt, negative_prompt. A text with {prompt} takes the prompt in, any other follows it."""

    def __init__(self, path: str) -> None:
        self.styles: dict[str, PromptStyle] = {}
        if Path(path).is_file():
            with open(path, encoding="utf-8-sig", newline="") as file:
                for row in csv.DictReader(file, skipinitialspace=True):
                    name, prompt, negative_prompt = (row[field] or "" for field in PromptStyle._fields)
                    self.styles[name] = PromptStyle(name, prompt, negative_prompt)

    def apply_styles_to_prompt(self, prompt: str, names: Iterable[str]) -> str:
        return _applied(prompt, (self.styles[name].prompt for name in names if name in self.styles))

    def apply_negative_styles_to_prompt(self, prompt: str, names: Iterable[str]) -> str:
        return _applied(prompt, (self.styles[name].negative_prompt for name in names if name in self.styles))


def _applied(prompt: str, texts: Iterable[str]) -> str:
    prompt = prompt.strip()
    for text in map(str.strip, texts):
        prompt = text.replace("{prompt}", prompt) if "{prompt}" in text else ", ".join(filter(None, (prompt, text)))
    return prompt
