"""What the tests of the extension in a WebUI share."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser_helpers import chromium, find_browser
from text_helpers import BIG_G, CLIP_L, text_model, tokenizer

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext


@pytest.fixture(scope="session")
def browser() -> str:
    """Path of the browser. Where OMS_REQUIRE_BROWSER is set, these tests fail instead of being skipped."""
    lack = None
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        lack = "playwright is not installed (pip install playwright)"
    path = find_browser()
    if path is None:
        lack = "there is no Chromium on PATH (apt-get install chromium), and CHROMIUM does not name one"
    if lack and os.environ.get("OMS_REQUIRE_BROWSER"):
        pytest.fail(f"{lack}, but OMS_REQUIRE_BROWSER is set")
    if lack:
        pytest.skip(lack)
    return path


@pytest.fixture(scope="module")
def context(browser: str, tmp_path_factory: pytest.TempPathFactory) -> "Iterator[BrowserContext]":
    """Headless Chromium, started once a file; playwright allows no second one beside it."""
    with chromium(tmp_path_factory.mktemp("profile"), browser, viewport={"width": 1280, "height": 1000}) as context:
        yield context


@pytest.fixture
def pair(tmp_path: Path) -> tuple:
    """SDXL's text encoders with their tokenizers, tiny."""
    return (
        text_model(CLIP_L, 2),
        tokenizer(tmp_path / "tokenizer"),
        text_model(BIG_G, 3, projection=True),
        tokenizer(tmp_path / "tokenizer_2", pad_token="!"),
    )
