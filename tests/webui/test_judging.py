"""`python -m lib_oms evaluate --webui`, of real WebUIs over real HTTP: what is made, what is lost, and what goes on."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser_helpers import ROOT, DemoProcess
from extension_helpers import free_port
from filelock import FileLock
from PIL import Image
from PIL.PngImagePlugin import PngInfo

pytest.importorskip("gradio")

from lib_oms.__main__ import main
from lib_oms.judging import asked
from lib_oms.judging.folders import judge_colors, read_folder
from lib_oms.judging.through_webui import PairMaker
from lib_oms.judging.webui_api import Host, Pair, told

CAPTIONS = ["a red circle on a black background", 'a "blue" square, white background', "a green star", "a cross"]
QUICK = ("--steps", "2", "--size", "64", "--cfg", "3")
REQUEST = {"steps": 2, "width": 64, "height": 64, "sampler_name": "Euler", "cfg_scale": 3}


@pytest.fixture(scope="module")
def webui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoProcess]:
    with DemoProcess(tmp_path_factory.mktemp("demo"), "--api-only") as demo:
        yield demo


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    file = tmp_path / "captions.txt"
    file.write_text("\n".join(CAPTIONS) + "\n\n", encoding="utf-8")
    return file


def evaluate(webui: str, captions: Path, out: Path, *more: str) -> int:
    return main(["evaluate", "--webui", webui, "--captions", str(captions), "--out", str(out), *QUICK, *more])


def infotext(file: Path) -> str:
    with Image.open(file) as picture:
        return picture.info["parameters"]


def made(folder: Path) -> dict[str, str]:
    """What a folder holds, as digests of the pixels."""
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(Image.open(file).tobytes()).hexdigest()
        for file in sorted(folder.rglob("*.png"))
    }


def pairs(count: int) -> list[Pair]:
    return [Pair(f"{index:03}", "a red circle", 10 + index) for index in range(count)]


class Counted(Host):
    """Counts the pictures that this WebUI has made."""

    painted = 0

    def paint(self, *args: Any) -> Any:
        answer = super().paint(*args)
        self.painted += 1
        return answer


def test_raw_and_oms_pictures_start_from_one_seed_and_are_judged(
    webui: DemoProcess, captions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "report.html"
    arguments = ("--report", str(page), "--seed", "5", "--oms-scale", "1.5")
    assert evaluate(webui.url, captions, tmp_path / "out", *arguments, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["folders"]["pairs"] == len(CAPTIONS)
    assert any("PickScore" in line and "--pickscore" in line for line in found["left_out"])
    folder = tmp_path / "out" / "captions"
    assert len(made(folder)) == 2 * len(CAPTIONS)
    for index, caption in enumerate(CAPTIONS):
        raw, oms = (infotext(folder / kind / f"{index:06}.png") for kind in ("raw", "oms"))
        assert raw.startswith(caption)
        assert oms.startswith(caption)
        assert told(raw)["Seed"] == told(oms)["Seed"] == str(5 + index)
        assert "OMS" not in told(raw)
        assert told(oms)["OMS guidance scale"] == "1.5"
    text = page.read_text(encoding="utf-8")
    assert text.count("<figure") == len(CAPTIONS)
    assert not [word for word in ("http://", "https://") if f'src="{word}' in text or f'href="{word}' in text]


@pytest.mark.slow
def test_what_a_killed_command_has_made_stays_and_the_rest_is_made_as_in_one_go(
    webui: DemoProcess, captions: Path, tmp_path: Path
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert evaluate(webui.url, captions, whole) == 0
    command = [sys.executable, "-m", "lib_oms", "evaluate", "--webui", webui.url, "--captions", str(captions)]
    process = subprocess.Popen([*command, "--out", str(broken), *QUICK], cwd=ROOT)
    wait_until(lambda: len(made(broken)) >= 3, process)
    process.kill()
    process.wait()
    before = {file: file.stat().st_mtime_ns for file in broken.rglob("*.png") if file.name[0] != "."}
    assert evaluate(webui.url, captions, broken) == 0
    assert made(broken) == made(whole)
    assert all(file.stat().st_mtime_ns == time for file, time in before.items())


def wait_until(true: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
    give_up = time.monotonic() + 120
    while not true():
        assert process.poll() is None, "it ended by itself"
        assert time.monotonic() < give_up
        time.sleep(0.02)


def test_a_folder_takes_more_captions_but_no_other_request(
    webui: DemoProcess, captions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(webui.url, captions, tmp_path, "--count", "1") == 0
    first = made(tmp_path)
    assert evaluate(webui.url, captions, tmp_path, "--count", "2") == 0
    assert first.items() <= made(tmp_path).items()
    assert len(made(tmp_path)) == 4
    capsys.readouterr()
    assert evaluate(webui.url, captions, tmp_path, "--count", "2", "--negative-prompt", "blue") == 2
    assert "was begun with another request" in capsys.readouterr().err
    assert len(made(tmp_path)) == 4


def test_a_half_pair_of_another_version_is_made_anew_as_a_whole(webui: DemoProcess, tmp_path: Path) -> None:
    def make() -> None:
        PairMaker(tmp_path, pairs(2), REQUEST, {}).run([Host(webui.url)])

    make()
    whole = made(tmp_path)
    for index, version in enumerate(("Version: 0.1", "")):
        (tmp_path / "oms" / f"{index:03}.png").unlink()
        facts = PngInfo()
        raw = tmp_path / "raw" / f"{index:03}.png"
        facts.add_text("parameters", re.sub(r"Version: [^,]*", version, infotext(raw)) if version else infotext(raw))
        Image.new("RGB", (64, 64)).save(raw, pnginfo=facts)
    make()
    assert made(tmp_path)["raw/000.png"] == whole["raw/000.png"], "of another version"
    assert made(tmp_path)["raw/001.png"] != whole["raw/001.png"], "the same in all, so it stays"
    assert {name: made(tmp_path)[name] for name in ("oms/000.png", "oms/001.png")}.items() <= whole.items()


@pytest.mark.slow
def test_two_hosts_share_the_work(webui: DemoProcess, tmp_path: Path) -> None:
    with DemoProcess(tmp_path / "other", "--api-only") as other:
        hosts = [Counted(webui.url), Counted(other.url)]
        PairMaker(tmp_path / "pairs", pairs(8), REQUEST, {}).run(hosts)
    assert len(made(tmp_path / "pairs")) == 16
    assert sum(host.painted for host in hosts) == 16
    assert min(host.painted for host in hosts) >= 4


def test_a_host_that_dies_is_waited_for_and_nothing_is_lost(tmp_path: Path) -> None:
    port = str(free_port())
    host = DemoProcess(tmp_path / "first", "--api-only", "--port", port)
    address = host.url
    running = Dying(address, host, tmp_path, port)
    maker = PairMaker(tmp_path / "pairs", pairs(5), REQUEST, {}, patience=120)
    try:
        maker.run([running])
    finally:
        running.process.close()
    assert running.died
    assert not maker.lost
    assert len(made(tmp_path / "pairs")) == 10


class Dying(Counted):
    """A WebUI that is ended after its third picture; a new one starts on its port while it is missed."""

    died = False

    def __init__(self, address: str, process: DemoProcess, folder: Path, port: str) -> None:
        super().__init__(address)
        self.process, self.folder, self.port = process, folder, port

    def paint(self, *args: Any) -> Any:
        if self.painted == 3 and not self.died:
            self.process.close()
            self.died = True
        return super().paint(*args)

    def check(self) -> None:
        try:
            super().check()
        except Exception:
            self.process = DemoProcess(self.folder / "second", "--api-only", "--port", self.port)
            raise


@pytest.mark.slow
def test_a_host_that_stays_away_is_given_up_and_what_is_done_stays(tmp_path: Path) -> None:
    with DemoProcess(tmp_path / "demo", "--api-only") as demo:
        host = Ending(demo)
        with pytest.raises(ValueError, match=r"2 of 3 pairs are not made: .* does not answer") as error:
            PairMaker(tmp_path / "pairs", pairs(3), REQUEST, {}, patience=1).run([host])
    assert "the same command goes on from here" in str(error.value)
    assert len(made(tmp_path / "pairs")) == 2


class Ending(Counted):
    def __init__(self, demo: DemoProcess) -> None:
        super().__init__(demo.url)
        self.demo = demo

    def paint(self, *args: Any) -> Any:
        if self.painted == 2:
            self.demo.close()
        return super().paint(*args)


def test_a_host_without_the_extension_is_refused_before_anything_is_made(
    captions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "another-extension"
    (other / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "preload.py", other)  # for the argument by which the WebUI is started here
    with DemoProcess(tmp_path / "demo", "--api-only", "--extension", str(other)) as bare:
        assert evaluate(bare.url, captions, tmp_path / "out") == 2
    assert f"{bare.url} does not have the extension One More Step" in capsys.readouterr().err
    assert not made(tmp_path / "out")


def test_a_password_is_asked_for_and_never_told(
    captions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with DemoProcess(tmp_path / "demo", "--api-only", "--api-auth", "me:secret") as demo:
        for wrong in ((), ("--api-auth", "me:hidden")):
            assert evaluate(demo.url, captions, tmp_path / "out", *wrong) == 2
            said = capsys.readouterr().err
            assert f"{demo.url} does not accept the user and password" in said
            assert "hidden" not in said
        assert not made(tmp_path / "out")
        inside = demo.url.replace("//", "//me:secret@")
        assert evaluate(inside, captions, tmp_path / "out", "--count", "1") == 0
        assert evaluate(demo.url, captions, tmp_path / "out", "--count", "2", "--api-auth", "me:secret") == 0
    assert len(made(tmp_path / "out")) == 4
    assert "secret" not in "".join(capsys.readouterr())


def test_what_the_step_does_not_apply_to_is_lost_by_name_and_never_a_raw_picture(
    webui: DemoProcess, captions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """DDIM with one step calls the model not even once."""
    command = ["evaluate", "--webui", webui.url, "--captions", str(captions), "--out", str(tmp_path), "--size", "64"]
    assert main([*command, "--sampler", "DDIM", "--steps", "1", "--count", "2"]) == 2
    said = capsys.readouterr().err
    assert "lost: 000001: " in said
    assert "2 pairs could not be made: " in said
    assert "skipped the step: DDIM with 1 step does not call the model at all" in said
    assert not list((tmp_path / "captions" / "oms").glob("*.png"))


def test_hopeless_requests_end_early(webui: DemoProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    captions = tmp_path / "many.txt"
    captions.write_text("a circle\n" * 40, encoding="utf-8")
    assert evaluate(webui.url, captions, tmp_path / "out", "--oms-model", "no such model") == 2
    assert "there is no OMS model named 'no such model'" in capsys.readouterr().err
    assert len(made(tmp_path / "out" / "captions" / "raw")) < 10


def test_one_command_at_a_time_makes_pictures_in_a_folder(
    webui: DemoProcess, captions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "captions").mkdir()
    with FileLock(tmp_path / "captions" / ".lock"):
        assert evaluate(webui.url, captions, tmp_path) == 2
    assert "another command makes pictures there" in capsys.readouterr().err


def test_wrong_settings_and_addresses_are_told_before_anything_is_asked(
    captions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    assert evaluate(nobody, captions, tmp_path) == 2
    assert f"{nobody} does not answer (no connection)" in capsys.readouterr().err
    assert evaluate(nobody, captions, tmp_path, "--oms-scale", "99") == 2
    assert "OMS guidance scale (guidance_scale): 99" in capsys.readouterr().err
    assert evaluate(nobody, captions, tmp_path, "--count", "9") == 2
    assert "holds 4 captions, 9 are asked for" in capsys.readouterr().err


def test_the_test_of_brightness(webui: DemoProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    asked_for = ["--brightness-test", "1", "--size", "64", "--steps", "3", "--cfg", "3", "--report", str(page)]
    assert main(["evaluate", "--webui", webui.url, "--out", str(tmp_path), *asked_for, "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["brightness_test"]}
    assert list(rows) == ["black", "white", "logo-on-black", "logo-on-white"]
    assert rows["black"]["oms"] < rows["black"]["raw"] < rows["white"]["oms"]
    assert "Monochrome line-art logo" in page.read_text(encoding="utf-8")


def test_the_test_of_colors(webui: DemoProcess, tmp_path: Path) -> None:
    some = [pair for pair in asked.color_pairs(1, 1) if pair.name.split("-")[1] in ("navy_0000", "gold_0000")]
    PairMaker(tmp_path, some, {**REQUEST, "steps": 3}, {}).run([Host(webui.url)])
    name, code = judge_colors(*(read_folder(tmp_path / kind) for kind in ("raw", "oms")))
    assert (name.pictures, code.pictures) == (2, 2)
    assert code.mean_oms < code.mean_raw / 2
    assert told(infotext(tmp_path / "oms" / "code-navy_0000.png"))["OMS color"] == "#000080"
