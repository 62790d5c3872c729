"""The miniature WebUI as a process of its own, and its page in real headless Chromium.

Elements are found by the elem_ids that the host and the extension give them, which are the same in gradio 3.41 and 4.
"""

from __future__ import annotations

import base64
import io
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Locator, Page

ROOT = Path(__file__).resolve().parents[2]
MODEL = Path(os.environ.get("OMS_DEMO_MODEL", ROOT / "models" / "demo"))
SETTLED = """() => {
    const now = JSON.stringify([...document.querySelectorAll('input, textarea')].map((e) => [e.value, e.checked]));
    const seen = window.fieldsSeen;
    if (!seen || seen.now !== now) window.fieldsSeen = {now, since: performance.now()};
    return Boolean(seen) && seen.now === now && performance.now() - seen.since > 500;
}"""
"""Whether all fields have been as they are for half a second."""
SHOWN = "() => !document.querySelector('#txt2img_results .progress-text')"
"""Whether no result still wears gradio's "processing | 0.1/1.4s": values come before that goes."""
STILL = """addEventListener("DOMContentLoaded", () => {
    const style = document.createElement("style");
    style.textContent = "*, *::before, *::after { animation: none !important; transition: none !important }";
    document.head.append(style);
})"""
"""Without a GPU the drawing of what turns and pulses takes a third of the browser's time."""
PATIENCE = float(os.environ.get("OMS_TEST_PATIENCE", 150))
"""Seconds that a start of the WebUI or one generation may take: the machine may have other work to do."""

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox",  # containers run as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-color-profile=srgb",
    # Names of other machines lead nowhere: the tests must not depend on there being an internet.
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)


def find_browser() -> str | None:
    """Path of Chromium: what CHROMIUM names, else the first one on PATH."""
    return shutil.which(os.environ.get("CHROMIUM", "")) or next(filter(None, map(shutil.which, BROWSERS)), None)


def brightness(image: Image.Image) -> float:
    """Mean of all pixels and colors, 0 (black) to 1 (white)."""
    return float(np.asarray(image.convert("RGB"), dtype=np.float64).mean() / 255)


class DemoProcess:
    """`python -m demo` on a free loopback port, with this repository as its extension; downloads come from the hub at
    the given address. Raises RuntimeError with the end of its log where it does not start.
    """

    def __init__(self, folder: Path, *arguments: str, hub: str | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "demo.log"
        self.modules = folder / "modules"
        """a folder for OMS models besides the extension's own; empty unless OMS_DEMO_MODEL names another model"""
        self.modules.mkdir()
        if MODEL != ROOT / "models" / "demo":
            self.add_module(MODEL.name)
        command = [
            sys.executable,
            "-u",
            "-m",
            "demo",
            "--port",
            "0",
            "--model",
            str(MODEL),
            "--host-style",
            host_style(),
            "--data-dir",
            str(folder / "outputs"),
            "--oms-models-dir",
            str(self.modules),
            *arguments,
        ]
        environment = dict(os.environ)
        if hub is not None:
            environment = {key: value for key, value in environment.items() if not key.lower().endswith("_proxy")}
            environment.update(HF_ENDPOINT=hub, HF_HUB_OFFLINE="0")
        with self._log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
        self.url = self._wait()

    def add_module(self, name: str) -> Path:
        """Puts a copy of the demo's OMS model into `modules` under another name; gives its folder."""
        for part in ("oms_module", "text_encoder", "tokenizer"):
            shutil.copytree(MODEL / part, self.modules / name / part)
        return self.modules / name

    @property
    def port(self) -> int:
        return urlsplit(self.url).port

    @property
    def log(self) -> str:
        """What it has printed."""
        return self._log.read_text(encoding="utf-8")

    def _wait(self) -> str:
        give_up = time.monotonic() + PATIENCE
        while time.monotonic() < give_up and self._process.poll() is None:
            if found := re.search(r"Running on local URL: +(http://127\.0\.0\.1:\d+)", self.log):
                return found[1]
            time.sleep(0.2)
        self.close()
        raise RuntimeError(f"the miniature WebUI did not start:\n{self.log[-4000:]}")

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> DemoProcess:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()


def host_style() -> str:
    """The host that goes with the gradio at hand: Forge is the one with gradio 4."""
    import gradio

    return "forge" if int(gradio.__version__.split(".")[0]) >= 4 else "a1111"


@contextmanager
def chromium(profile: Path, browser: str, **options: Any) -> Iterator[BrowserContext]:
    """Headless Chromium with a fresh profile in `profile`; `options` are playwright's."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(profile), executable_path=browser, headless=True, args=list(FLAGS), timeout=PATIENCE * 1000, **options
        )
        context.set_default_timeout(PATIENCE * 1000)
        context.add_init_script(STILL)
        try:
            yield context
        finally:
            context.close()


def insist(
    act: Callable[[], object], wait: Callable[[], object], otherwise: Callable[[], object] | None = None
) -> None:
    """Acts, and again after `otherwise` while `wait` times out: a press misses where the page is still growing."""
    from playwright.sync_api import TimeoutError as NothingYet

    give_up = time.monotonic() + PATIENCE
    while True:
        act()
        try:
            wait()
            return
        except NothingYet:
            if time.monotonic() > give_up:
                raise
            if otherwise is not None:
                otherwise()


class WebUIPage:
    """The txt2img page, as a person uses it."""

    def __init__(self, context: BrowserContext, url: str, theme: str = "light") -> None:
        self.troubles: list[str] = []
        """errors in the browser's console, and exceptions in the page's scripts"""
        self.hosts: set[str] = set()
        """hosts that the page asked for anything"""
        self.page: Page = context.new_page()
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.troubles.append(f"{error}"))
        self.page.on("requestfailed", self._on_failed)
        self.page.on("request", lambda request: self._on_address(request.url))
        self.page.on("websocket", lambda socket: self._on_address(socket.url))
        self._streams: set[Any] = set()
        self.page.on("request", lambda request: "/queue/data" in request.url and self._streams.add(request))
        for end in ("requestfinished", "requestfailed"):
            self.page.on(end, lambda request: self._streams.discard(request))
        self.page.goto(f"{url}/?__theme={theme}")
        self._wait_until_ready()

    def reload(self) -> None:
        """Loads the page again."""
        self.page.reload()
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        """What the extension asks for as the page is loaded is there last of all: the page hears each press by then."""
        self.find("oms_enabled-visible-checkbox").wait_for()
        self.find("txt2img_generate").wait_for()
        self.page.wait_for_function("document.querySelector('#oms_library .label-wrap')?.textContent.includes(':')")
        self.rest()

    def _on_console(self, message: Any) -> None:
        if message.type == "error":
            self.troubles.append(f"{message.text} ({message.location.get('url')})")

    def _on_failed(self, request: Any) -> None:
        if request.failure != "net::ERR_ABORTED":  # the page itself breaks off streams that it no longer needs
            self.troubles.append(f"{request.url}: {request.failure}")

    def _on_address(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("data", "blob"):
            self.hosts.add(parts.hostname or "")

    def find(self, elem_id: str, inside: str = "") -> Locator:
        """The element with an elem_id, or what the selector `inside` finds in it."""
        return self.page.locator(f"#{elem_id} {inside}" if inside else f"#{elem_id}").first

    def rest(self) -> None:
        """Waits until gradio's stream of results is closed: what is asked for while gradio 4.40 closes it is lost, as
        it is for a person who is that quick. Not for long: the browser does not always tell of a stream that gradio
        reads no more.
        """
        self.page.wait_for_timeout(100)
        give_up = time.monotonic() + 2
        while self._streams and time.monotonic() < give_up:
            self.page.wait_for_timeout(50)
        self._streams.clear()

    # ---- fields ----

    def text(self, elem_id: str) -> Locator:
        """The field of a textbox."""
        return self.find(elem_id, ":is(textarea, input)")

    def number(self, elem_id: str) -> Locator:
        """The field of a number or of a slider."""
        return self.find(elem_id, "input[type=number]")

    def write(self, elem_id: str, text: str) -> None:
        """Types a text into a textbox in place of what is there."""
        self.text(elem_id).fill(text)

    def set_number(self, elem_id: str, value: float) -> None:
        """Types a number and leaves the field."""
        field = self.number(elem_id)
        field.fill(f"{value:g}")
        field.press("Tab")

    def choose(self, elem_id: str, choice: str) -> None:
        """Picks one choice of a dropdown, even one that is on its way: an open list does not learn of it."""
        field = self.text(elem_id)
        option = self.find(elem_id, f"[data-testid=dropdown-option]:has-text('{choice}')")
        insist(field.click, lambda: option.click(timeout=5000), otherwise=lambda: field.press("Tab"))  # closes the list

    def chosen(self, elem_id: str) -> str:
        """What a dropdown shows."""
        return self.text(elem_id).input_value()

    @property
    def tick(self) -> Locator:
        """The tick box in the header of the accordion."""
        return self.find("oms_enabled-visible-checkbox")

    def open_accordion(self) -> None:
        """Opens the accordion where it is closed, which ticks it, too, unless the tick box was used before."""
        if not self.find("oms_source").is_visible():
            self.find("oms_enabled", ".label-wrap").click()
        self.find("oms_source").wait_for()

    def unfold(self, *folds: str) -> None:
        """Opens what is folded away in the open accordion: "advanced", "library"; all of it where nothing is named."""
        inside = {"advanced": "oms_eta", "library": "oms_module"}
        self.open_accordion()
        for fold in folds or inside:
            header, field = self.find(f"oms_{fold}", ".label-wrap"), self.find(inside[fold])
            if not field.is_visible():
                insist(header.click, lambda field=field: field.wait_for(timeout=10_000))

    def download_button(self, name: str) -> Locator:
        """The button beside what can be downloaded."""
        return self.page.locator(".oms-offer", has_text=name).locator("button")

    def follow(self, source: str) -> None:
        """Chooses what brightness and color follow, by its value."""
        self.page.locator(f"#oms_source input[value={source}]").check()

    @property
    def oms_fields(self) -> tuple[bool, str, str, float, float, str]:
        """What the accordion shows, in the order of the settings."""
        return (
            self.tick.is_checked(),
            self.chosen("oms_module"),
            self.text("oms_prompt").input_value(),
            float(self.number("oms_guidance_scale").input_value()),
            float(self.number("oms_eta").input_value()),
            self.text("oms_negative_prompt").input_value(),
        )

    # ---- generating ----

    def press_generate(self) -> None:
        """Presses Generate and waits for nothing."""
        self.find("txt2img_generate").click()

    def generate(self) -> None:
        """Presses Generate and waits until the picture, or the message that there is none, is there."""
        self.page.evaluate("document.querySelectorAll('.performance').forEach((old) => (old.dataset.old = 'yes'))")
        self.press_generate()
        self.find("html_log_txt2img", ".performance:not([data-old])").wait_for()
        self.page.wait_for_function(SHOWN)
        self.page.wait_for_function(
            "[...document.querySelectorAll('#txt2img_gallery img')].every((img) => img.complete)"
        )
        self.rest()

    @property
    def picture(self) -> Image.Image:
        """The picture in the gallery, its bytes fetched by the page."""
        encoded = self.page.evaluate(
            """async () => {
                const image = document.querySelector('#txt2img_gallery img');
                const bytes = new Uint8Array(await (await fetch(image.src)).arrayBuffer());
                return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(''));
            }"""
        )
        return Image.open(io.BytesIO(base64.b64decode(encoded)))

    @property
    def infotext(self) -> str:
        """The infotext below the picture."""
        return self.find("html_info_txt2img").inner_text().strip()

    @property
    def message(self) -> str:
        """What stands below the infotext: comments or an error, and the time taken."""
        return self.find("html_log_txt2img").inner_text().strip()

    def paste(self, infotext: str) -> None:
        """Puts an infotext into the prompt and presses the host's paste button, again where nothing came of it: on a
        busy machine a page that has just been loaded shows its buttons before gradio listens to them.
        """
        self.write("txt2img_prompt", infotext)
        changed = "text => document.querySelector('#txt2img_prompt textarea').value !== text"
        insist(self.find("paste").click, lambda: self.page.wait_for_function(changed, arg=infotext, timeout=20_000))
        self.page.evaluate("window.fieldsSeen = null")
        self.page.wait_for_function(SETTLED)  # the prompt is the first to change, and scripts pass ticks on
        self.rest()


def contrast(page: Page, selector: str) -> float:
    """Contrast between a text's color and what is behind it, as WCAG 2.1 defines it: 1 (invisible) to 21."""
    return page.evaluate(
        """(selector) => {
            const numbers = (color) => (color.match(/[\\d.]+/g) || []).map(Number);
            const parse = (color) => numbers(color).map((c) => c * (color.startsWith("color(srgb") ? 255 : 1));
            const light = (color) => {
                const [r, g, b] = color.slice(0, 3).map((c) => {
                    c /= 255;
                    return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
                });
                return 0.2126 * r + 0.7152 * g + 0.0722 * b;
            };
            const element = document.querySelector(selector);
            let behind = element, back = [255, 255, 255];
            for (; behind; behind = behind.parentElement) {
                const color = parse(getComputedStyle(behind).backgroundColor);
                if (color.length === 3 || color[3] > 0.99) { back = color; break; }
            }
            const [a, b] = [light(parse(getComputedStyle(element).color)), light(back)].sort((x, y) => y - x);
            return (a + 0.05) / (b + 0.05);
        }""",
        selector,
    )
