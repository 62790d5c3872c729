"""Remakes the pictures of the page and of a report: `python docs/make_screenshots.py`.

Needs what the tests in a browser need: `pip install -e ".[demo,test]"` and Chromium.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS.parent), str(DOCS.parent / "tests" / "helpers")]

from browser_helpers import DemoProcess, WebUIPage, chromium, find_browser  # noqa: E402


def main() -> int:
    """Ticks, types and generates as a person does, in both themes."""
    browser = find_browser()
    if browser is None:
        print("there is no Chromium on PATH, and CHROMIUM does not name one", file=sys.stderr)
        return 1
    work = Path(tempfile.mkdtemp())
    size = {"width": 1280, "height": 1000}
    with DemoProcess(work / "demo") as demo, chromium(work / "profile", browser, viewport=size) as context:
        for theme in ("light", "dark"):
            ui = WebUIPage(context, demo.url, theme)
            ui.write("txt2img_prompt", "a red circle")
            ui.set_number("txt2img_cfg_scale", 3)
            ui.set_number("txt2img_seed", 3)
            ui.open_accordion()  # ticks it, too
            ui.write("oms_prompt", "black background")
            ui.generate()
            ui.page.wait_for_timeout(4000)  # the gallery fades in
            photograph(ui.page, f"page-{theme}")
            for tab in ("Settings", "One More Step"):
                ui.page.get_by_role("tab", name=tab, exact=True).click()
            ui.page.wait_for_timeout(1000)
            photograph(ui.page, f"settings-{theme}")
            ui.page.close()
        return photograph_report(context, work)


def photograph_report(context: Any, work: Path) -> int:
    """The beginning of a report of the embedded model's pictures."""
    from lib_oms.__main__ import main as command

    file = work / "report.html"
    asked = ["--count", "100", "--each", "5", "--sampler", "Euler", "--seed", "2026", "--out", str(work)]
    if status := command(["evaluate", "--embedded", *asked, "--report", str(file)]):
        return status
    page = context.new_page()
    page.goto(file.as_uri())
    page.screenshot(
        path=DOCS / "images" / "report.png", clip={"x": 0, "y": 0, "width": 1280, "height": 1630}, full_page=True
    )
    print(DOCS / "images" / "report.png")
    return 0


def photograph(page: Any, name: str) -> None:
    file = DOCS / "images" / f"{name}.png"
    file.parent.mkdir(exist_ok=True)
    page.screenshot(path=file, full_page=True)
    print(file)


if __name__ == "__main__":
    sys.exit(main())
