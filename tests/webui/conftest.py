"""What the tests of the extension in a WebUI share."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from browser_helpers import DemoProcess, chromium, find_browser
from extension_helpers import WebUI
from hub_server import Hub
from untrained_helpers import place_untrained

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


@pytest.fixture(scope="session")
def demo(browser: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoProcess]:
    """The plain one as a process of its own, for all files; whoever puts a file into its folders takes it away."""
    with DemoProcess(tmp_path_factory.mktemp("demo")) as running:
        yield running


@pytest.fixture(scope="module")
def context(browser: str, tmp_path_factory: pytest.TempPathFactory) -> "Iterator[BrowserContext]":
    """Headless Chromium, started once a file; playwright allows no second one beside it."""
    with chromium(tmp_path_factory.mktemp("profile"), browser, viewport={"width": 1280, "height": 1000}) as context:
        yield context


@pytest.fixture(scope="module")
def hub(published: dict[str, dict[str, bytes]]) -> Iterator[Hub]:
    """A hub on loopback with the published repositories, small."""
    hub = Hub()
    hub.repositories = {name: dict(files) for name, files in published.items()}
    yield hub
    hub.close()


@pytest.fixture
def pair(root: Path) -> tuple:
    """The text encoders of the embedded model in SDXL's shape, with their tokenizers; hosts pad the second's text with
    "!", as SDXL's own tokenizer says.
    """
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    first = lent(root / "models/demo-xl", CLIPTextModel, CLIPTokenizer)
    return *first, *lent(root / "models/demo-xl", CLIPTextModelWithProjection, CLIPTokenizer, "_2", pad_token="!")


@pytest.fixture
def clip_l(root: Path) -> tuple:
    """The embedded model's text encoder with its tokenizer, as SD1.x's."""
    from transformers import CLIPTextModel, CLIPTokenizer

    return lent(root / "models/demo", CLIPTextModel, CLIPTokenizer)


def lent(folder: Path, text_model: Any, tokenizer: Any, suffix: str = "", **options: str) -> tuple:
    """A text encoder of a diffusers folder, in float32, with its tokenizer."""
    network = text_model.from_pretrained(folder / f"text_encoder{suffix}", local_files_only=True).float().eval()
    return network, tokenizer.from_pretrained(folder / f"tokenizer{suffix}", local_files_only=True, **options)


@pytest.fixture(scope="module")
def start_webui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., WebUI]]:
    """Starts the miniature WebUI in this process, for all tests of a file: of a host's style, with further flags. Its
    folder is the given one or a new one; its model is the given one, or the untrained one at `models/untrained` beside.
    """
    with ExitStack() as running:

        def start(style: str = "a1111", *flags: str, folder: Path | None = None, model: Path | None = None) -> WebUI:
            running.close()  # there can be only one in a process
            folder = folder or tmp_path_factory.mktemp(style)
            model = model or place_untrained(folder / "models" / "untrained")
            return running.enter_context(closing(WebUI(folder / "webui", style, model, *flags)))

        yield start


@pytest.fixture(scope="module")
def webui(start_webui: Callable[..., WebUI]) -> WebUI:
    """The plain one."""
    return start_webui()


@pytest.fixture
def options(webui: WebUI, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Any], None]:
    """Sets an option of the running host for one test."""
    from modules import shared

    return lambda name, value: monkeypatch.setitem(shared.opts.data, name, value)


@pytest.fixture
def memory(webui: WebUI, monkeypatch: pytest.MonkeyPatch) -> Any:
    """lib_oms.webui.memory in a host without a memory manager."""
    from lib_oms.webui import memory

    monkeypatch.setattr(memory, "manager", None)
    return memory
