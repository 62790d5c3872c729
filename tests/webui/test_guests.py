"""Beside other extensions that go their own ways: here one that, as ADetailer does, runs all scripts' hooks again."""

from collections.abc import Callable

import pytest
from browser_helpers import host_style
from extension_helpers import WebUI

pytest.importorskip("gradio")

DETAILER = '''
from copy import copy

from modules import scripts


class Detailer(scripts.Script):
    """After its own passes ADetailer calls before_process and process of all scripts on a copy of p: what those share
    with the picture, such as the infotext, is theirs to keep true.
    """

    def title(self):
        return "Detailer"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def postprocess_image(self, p, pp, *args):
        again = copy(p)
        p.scripts.before_process(again)
        p.scripts.process(again)
'''


@pytest.fixture(scope="module")
def webui(start_webui: Callable[..., WebUI], tmp_path_factory: pytest.TempPathFactory) -> WebUI:
    guest = tmp_path_factory.mktemp("detailer")
    (guest / "scripts").mkdir()
    (guest / "scripts" / "detailer.py").write_text(DETAILER, encoding="utf-8")
    return start_webui(host_style(), "--extension", str(guest))


@pytest.mark.parametrize("count", [1, 2])
def test_a_picture_that_was_made_without_the_step_still_says_so(webui: WebUI, count: int) -> None:
    made = webui.txt2img(True, "Automatic", "night", state="zero terminal snr", steps=1, n_iter=count)
    for text in made.info["infotexts"]:
        assert "OMS skipped: " in text
        assert "zero terminal SNR" in text
        assert "OMS: True" not in text


def test_a_picture_that_was_made_with_the_step_still_says_so(webui: WebUI) -> None:
    made = webui.txt2img(True, "Automatic", "night", 1.5, steps=1, n_iter=2)
    for text in made.info["infotexts"]:
        assert "OMS: True, " in text
        assert "OMS guidance scale: 1.5" in text
    assert "OMS" not in webui.txt2img(False, "Automatic", "night", steps=1).infotext


def test_what_is_said_of_one_picture_is_not_said_of_the_next(webui: WebUI) -> None:
    for state, said in (("zero terminal snr", False), ("", True), ("zero terminal snr", False)):
        text = webui.txt2img(True, "Automatic", "night", state=state, steps=1).infotext
        assert ("OMS: True" in text, "OMS skipped" in text) == (said, not said)
