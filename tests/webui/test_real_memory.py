"""Memory, and Interrupt, in a real WebUI, which OMS_WEBUI_DIR names, with modules of the published size.

Python's collector is off while tensors are counted. Takes minutes and 10 GB of memory. What the operating system sees
of it, benchmarks/memory.py measures.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import real_host_helpers
import requests
from extension_helpers import WebUI
from module_helpers import write_published_size
from real_host_helpers import RealWebUI

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(real_host_helpers.folder() is None, reason="OMS_WEBUI_DIR is not set"),
]

MODULES = ("one", "two", "three")


@pytest.fixture(scope="module")
def webui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    temporary = tmp_path_factory.mktemp("real-memory")
    write_published_size(temporary / "models", MODULES, "sd")
    started = RealWebUI(temporary / "webui", temporary / "models")
    yield started
    started.close()


def live_bytes(webui: WebUI) -> int:
    return int(webui.get("/watcher/live-bytes").json())


def picture(webui: WebUI, policy: str, module: str) -> int:
    """Bytes of live tensors after a picture."""
    webui.options(oms_memory_policy=policy)
    made = webui.txt2img(True, module, "night", 1.5, sampler_name="Euler")
    assert "OMS: True" in made.infotext
    return live_bytes(webui)


@pytest.mark.parametrize("policy", ["keep on the device", "keep in RAM", "drop after use"])
def test_three_modules_in_turn_hold_no_more_than_two(webui: WebUI, policy: str) -> None:
    webui.txt2img(sampler_name="Euler")
    live_bytes(webui)
    nothing = picture(webui, "drop after use", MODULES[0])
    one = picture(webui, "keep in RAM", MODULES[0]) - nothing
    assert one > 154_000_000 * 2
    picture(webui, "drop after use", MODULES[0])
    kept = [(picture(webui, policy, MODULES[i % 3]) - nothing) / one for i in range(7)]
    expected = [0.0] * 7 if policy == "drop after use" else [1.0] + [2.0] * 6
    assert kept == pytest.approx(expected, abs=0.1), "modules in memory after each picture"


def test_interrupt_while_it_loads(webui: WebUI) -> None:
    """The page says what is loaded; after Interrupt no other part begins."""
    webui.options(oms_memory_policy="drop after use")
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(webui.txt2img, True, MODULES[0], "night", 1.5, sampler_name="Euler")
        told = []
        while not asked.done() and not any("Loading the text encoder of OMS model one" in text for text in told):
            told.append(webui.get("/sdapi/v1/progress?skip_current_image=true").json()["textinfo"] or "")
            time.sleep(0.05)
        requests.post(f"{webui.url}/sdapi/v1/interrupt", timeout=60).raise_for_status()
        started = time.perf_counter()
        made = asked.result()
    print(f"answered {time.perf_counter() - started:.1f} s after the interruption")
    assert "OMS skipped: the picture was interrupted before the step was taken" in made.infotext
    assert "OMS: True" not in made.infotext
    assert webui.get("/sdapi/v1/progress").json()["textinfo"] is None
    assert "OMS: True" in webui.txt2img(True, MODULES[0], "night", sampler_name="Euler").infotext
