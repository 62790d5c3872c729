"""Downloads from a real HTTP server on loopback by the real hub client, with faults."""

import inspect
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hub_server import COMMIT, Hub
from module_helpers import tiny_psi
from published_helpers import ENCODER_WEIGHTS, ENCODERS, MODULE, NAME, WEIGHTS, content
from safetensors.torch import load_file, save_file
from text_helpers import VIT_H

from lib_oms.errors import Cancelled, DownloadError, SettingError
from lib_oms.library import Places, download, hub, scan
from lib_oms.library.listing import listing, state
from lib_oms.module import OMSModule
from lib_oms.text import TEXT_ENCODERS


@pytest.fixture
def server(published, monkeypatch):
    """The hub, and a client in this process that is on line and in no hurry to wait."""
    import huggingface_hub
    from huggingface_hub import constants

    server = Hub()
    server.repositories = {name: dict(files) for name, files in published.items()}
    for variable in ("HTTP_PROXY", "http_proxy", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_PIECE", 2**15)
    monkeypatch.setattr(hub, "_PAUSE", 0.01)
    narrow = replace(TEXT_ENCODERS["openclip"], width=VIT_H["hidden_size"])
    monkeypatch.setitem(TEXT_ENCODERS, "openclip", narrow)
    sleep = time.sleep  # newer clients pause by themselves, too
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.02)))
    forget = getattr(huggingface_hub.utils, "reset_sessions", lambda: None)
    forget()
    yield server
    server.close()
    forget()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "models" / "OMS"


def get(root: Path, name: str = NAME, **options) -> list[Path]:
    return download.download(name, root, Places((root,)), **options)


def visible(root: Path) -> list[str]:
    """The files that stand under their names."""
    files = (path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    return sorted(name for name in files if not name.startswith("."))


def test_a_module_with_its_text_encoder(server, root, published):
    seen = []
    assert [path.name for path in get(root, progress=seen.append)] == [NAME, "openclip"]

    assert visible(root) == sorted(
        [f"{NAME}/{path}" for path in ("model_index.json", "oms_module/config.json", WEIGHTS,
                                       "oms_text_encoder/config.json", "oms_tokenizer/config.json")]
        + [f"text_encoders/openclip/{path}" for path in published[ENCODERS[0]] if path.startswith("te")]
        + [f"text_encoders/openclip/tokenizer/{path}" for path in
           ("merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json")]
    )  # fmt: skip
    assert (root / NAME / WEIGHTS).read_bytes() == published[MODULE][WEIGHTS]
    assert not (root / ".download").exists()
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    assert seen[-1].done == seen[-1].total > 400_000
    assert len(seen) > 10

    (entry,) = scan([root])
    assert (entry.name, entry.latents, entry.text_encoder, entry.problem) == (NAME, "sd", "openclip", None)
    assert next(line for line in listing(Places((root,))) if line.name == NAME).state == "ready"
    module = OMSModule.from_pretrained(root / NAME)
    assert module.predict_v(torch.randn(1, 4, 8, 8), ["night"])[0].isfinite().all()

    asked = len(server.requests)
    assert get(root) == []
    assert len(server.requests) == asked, "what is there is not asked for"


def test_the_second_module_takes_no_second_text_encoder(server, root):
    server.repositories["h1t/oms_b_openclip_xl"] = server.repositories[MODULE]
    get(root)
    server.requests.clear()
    assert [path.name for path in get(root, "oms_b_openclip_xl")] == ["oms_b_openclip_xl"]
    assert not any("stable-diffusion-2" in path for _, path, _ in server.requests)
    assert [(entry.name, entry.latents) for entry in scan([root])] == [(NAME, "sd"), ("oms_b_openclip_xl", "sdxl")]


def test_a_text_encoder_that_was_cut_off_is_taken_again(server, root, published):
    get(root)
    weights = root / "text_encoders" / "openclip" / ENCODER_WEIGHTS
    weights.write_bytes(published[ENCODERS[0]][ENCODER_WEIGHTS][:-10])
    (line,) = (line for line in listing(Places((root,))) if line.name == NAME)
    assert line.state == "needs text encoder"
    assert "is truncated" in line.why
    assert [path.name for path in get(root)] == ["openclip"]
    assert weights.read_bytes() == published[ENCODERS[0]][ENCODER_WEIGHTS]
    assert get(root) == []


def test_the_mirror_is_asked_where_the_authors_repository_is_gone(server, root):
    """It holds one file, which comes to lie where the authors' would: it is the same module under the same name."""
    files = server.repositories[MODULE]
    server.repositories["kaeru-shigure/oms_b_openclip_xl"] = {"oms_fp16.safetensors": files[WEIGHTS], "README.md": b"#"}
    get(root, "oms_b_openclip_xl")
    (entry,) = scan([root])
    assert (entry.name, entry.latents, entry.problem) == ("oms_b_openclip_xl", "sdxl", None)
    names = [line.name for line in listing(Places((root,)))]
    assert names == ["oms_b_openclip_xl", NAME, "oms_l_mixclip_xl"], "a mirror is no module of its own"
    asked = len(server.requests)
    assert get(root, "oms_b_openclip_xl") == []
    assert get(root, "kaeru-shigure/oms_b_openclip_xl") == []
    assert len(server.requests) == asked, "what is there is not asked for"


def test_the_authors_repository_is_asked_before_the_mirror(server, root):
    files = server.repositories[MODULE]
    server.repositories["h1t/oms_b_openclip_xl"] = files
    server.repositories["kaeru-shigure/oms_b_openclip_xl"] = {"oms_fp16.safetensors": files[WEIGHTS]}
    get(root, "oms_b_openclip_xl")
    assert not any("kaeru-shigure" in path for _, path, _ in server.requests)


def test_all_repositories_of_a_module_are_named_where_none_has_it(server, root):
    server.repositories["kaeru-shigure/oms_b_openclip_xl"] = {"a.safetensors": b"", "b.safetensors": b""}
    with pytest.raises(DownloadError, match="oms_b_openclip_xl was found in none of its repositories") as caught:
        get(root, "oms_b_openclip_xl")
    assert "h1t/oms_b_openclip_xl: the server wants to know who asks (401)" in str(caught.value)
    assert "kaeru-shigure/oms_b_openclip_xl: holds no OMS model any more, but 2" in str(caught.value)
    assert visible(root) == []


def test_the_size_of_a_download_is_what_comes_where_nothing_is_there(server, root):
    """308 MB are 989 MB for who has no text encoder, and 308 MB again for who has."""
    lines = {line.name: line for line in listing(Places((root,)))}
    assert {name: (line.size, line.text_encoder_size) for name, line in lines.items()} == {
        "oms_b_openclip_15_21": (989_000_000, 681_000_000),
        "oms_b_openclip_xl": (989_000_000, 681_000_000),
        "oms_l_mixclip_xl": (6_722_000_000, 1_636_000_000),
    }
    assert {line.license for line in lines.values()} == {"OpenRAIL++"}
    get(root)
    lines = {line.name: line for line in listing(Places((root,), will_lend=("mixclip",)))}
    assert (lines["oms_b_openclip_xl"].size, lines["oms_b_openclip_xl"].text_encoder_size) == (308_000_000, 0)
    assert lines["oms_l_mixclip_xl"].size == 5_086_000_000
    assert lines[NAME].license == ""


@pytest.mark.parametrize("name", ["", "x", "../x", "/etc/passwd", "h1t/other", "x\0", "C:\\CON", "x" * 10_000])
def test_nothing_else_is_downloaded(server, root, name):
    with pytest.raises(SettingError, match="is published; there are oms_b_openclip_15_21") as caught:
        get(root, name)
    assert len(str(caught.value)) < 400
    assert server.requests == []


def test_every_repository_is_tried_and_named(server, root):
    del server.repositories[ENCODERS[0]]
    with pytest.raises(DownloadError, match="found in none of its repositories") as caught:
        get(root)
    for repository in ENCODERS:
        assert f"{server.url}/{repository}: the server wants to know who asks (401)" in str(caught.value)
    assert "any SD2.x checkpoint" in str(caught.value)
    assert visible(root) == []


# --- faults


def test_a_cut_line_is_continued_by_itself(server, root):
    server.faults[WEIGHTS] = ["cut:40000"]
    server.faults[ENCODER_WEIGHTS] = ["cut:100000", "cut:100000"]
    get(root)
    assert len(visible(root)) > 5
    later = [ranged for ranged in server.ranges(ENCODER_WEIGHTS) if ranged]
    assert later, "continued, not begun again"


def test_a_line_that_is_always_cut_ends_in_a_message_and_is_continued_later(server, root, published):
    server.faults[ENCODER_WEIGHTS] = ["cut:150000", *["cut:0"] * 40]
    with pytest.raises(DownloadError, match=r"cut again and again.*Start|cut again and again.*start") as caught:
        get(root)
    assert not isinstance(caught.value, Cancelled)
    assert visible(root) == []
    server.faults.clear()
    server.requests.clear()
    get(root)
    first = next(ranged for ranged in server.ranges(ENCODER_WEIGHTS))
    assert first is not None
    assert int(first[6:-1]) > 60_000
    assert not server.ranges(WEIGHTS), "what was whole is not asked for again"
    assert (root / "text_encoders/openclip" / ENCODER_WEIGHTS).read_bytes() == published[ENCODERS[0]][ENCODER_WEIGHTS]


def test_an_answer_that_is_too_short_is_no_file(server, root):
    server.always[WEIGHTS] = "short"
    with pytest.raises(DownloadError, match=r"cut again and again, at last after \d+ of \d+ bytes"):
        get(root)
    assert visible(root) == []
    server.always.clear()
    get(root)


def test_a_server_that_knows_no_ranges(server, root):
    server.faults[WEIGHTS] = ["cut:40000"]
    server.always[WEIGHTS] = "no range"
    get(root)
    assert (root / NAME / WEIGHTS).read_bytes() == server.repositories[MODULE][WEIGHTS]


@pytest.mark.parametrize("path", [WEIGHTS, "oms_module/config.json"])
def test_wrong_content_is_thrown_away(server, root, path):
    server.always[path] = "corrupt"
    with pytest.raises(DownloadError, match=r"what came is not what the repository says it is \(size or SHA-256"):
        get(root)
    assert visible(root) == []
    assert not list(root.rglob(f".{Path(path).name}*"))
    server.always.clear()
    get(root)


def test_a_spoilt_half_is_begun_again(server, root):
    server.faults[WEIGHTS] = ["cut:40000", *["cut:0"] * 40]
    with pytest.raises(DownloadError):
        get(root)
    (half,) = root.rglob("*.part")
    half.write_bytes(b"x" * half.stat().st_size)
    server.faults.clear()
    get(root)
    assert (root / NAME / WEIGHTS).read_bytes() == server.repositories[MODULE][WEIGHTS]


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "who asks (401)"), (403, "not open to you (403)"), (404, "is not there (404)"),
        (429, "too many requests (429). Try again in 7 seconds"), (418, "status 418. Try again later"),
    ],
)  # fmt: skip
def test_refusals_of_the_api_say_what_to_do(server, root, status, words, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: None)  # newer clients wait long before they believe a 429
    server.always["api"] = f"status:{status}"
    with pytest.raises(DownloadError) as caught:
        get(root)
    assert words in str(caught.value)
    assert f"{server.url}/{MODULE}" in str(caught.value)
    assert visible(root) == []


def test_a_refusal_of_a_file_says_what_to_do(server, root):
    server.always[WEIGHTS] = "status:403"
    with pytest.raises(DownloadError, match=r"not open to you \(403\)"):
        get(root)
    assert visible(root) == []
    assert not list(root.rglob("*.part")), "none of this file had come"


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address at which nothing answers, and which nobody else takes meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def assert_tells_what_to_put_where(told: str, root: Path, endpoint: str) -> None:
    """In plain words, and with nothing in it that is gone, or that only a programmer reads."""
    assert f"Or put the files there by hand, in folders of these names, into {root / NAME}: " in told
    assert f"oms_module/config.json and {WEIGHTS} of {endpoint}/{MODULE}" in told
    assert f"into {root / 'text_encoders' / 'openclip'}: " in told
    assert "text_encoder/config.json, text_encoder/model.fp16.safetensors" in told
    assert f"tokenizer/vocab.json and tokenizer/merges.txt of {endpoint}/{ENCODERS[0]}" in told
    assert "stabilityai/stable-diffusion-2-1" not in told
    for word in ("Error", "object at", "HTTPConnectionPool", "Errno", "Caused by", "Max retries"):
        assert word not in told


@pytest.mark.parametrize(
    ("address", "reason"), [("", "nothing answers there"), ("http://hub.invalid", "its name is not known")]
)
def test_no_network_says_what_to_put_where_and_leaves_nothing(server, root, monkeypatch, nobody, address, reason):
    endpoint = address or nobody
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with pytest.raises(DownloadError) as caught:
        get(root)
    told = str(caught.value)
    assert told.startswith(f"{endpoint} cannot be reached: {reason}. Check the network, HTTPS_PROXY and HF_ENDPOINT")
    assert_tells_what_to_put_where(told, root, endpoint)
    assert not root.parent.exists(), "neither the lock nor a folder"


def test_offline_mode_asks_nobody(server, root, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    getattr(huggingface_hub.utils, "reset_sessions", lambda: None)()
    with pytest.raises(DownloadError, match=r"^offline mode is on \(HF_HUB_OFFLINE\), so nothing is") as caught:
        get(root)
    assert_tells_what_to_put_where(str(caught.value), root, server.url)
    assert server.requests == []
    assert not root.parent.exists()


def test_who_has_the_text_encoder_is_told_of_the_module_alone(server, root, monkeypatch, nobody):
    get(root, "text-encoder-openclip")
    monkeypatch.setenv("HF_ENDPOINT", nobody)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with pytest.raises(DownloadError, match="diffusion_pytorch_model") as caught:
        get(root)
    assert "tokenizer" not in str(caught.value)
    assert [path.name for path in root.iterdir()] == ["text_encoders"]


def test_what_is_put_where_the_message_says_is_used(server, root, published, monkeypatch, nobody):
    monkeypatch.setenv("HF_ENDPOINT", nobody)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with pytest.raises(DownloadError) as caught:
        get(root)
    for repository, where in ((MODULE, root / NAME), (ENCODERS[0], root / "text_encoders" / "openclip")):
        names = re.search(rf"into {re.escape(str(where))}: (.*?) of http", str(caught.value))[1]
        for name in re.split(r", | and | or ", names):
            if name in published[repository]:
                (where / name).parent.mkdir(parents=True, exist_ok=True)
                (where / name).write_bytes(published[repository][name])
    assert next(line for line in listing(Places((root,))) if line.name == NAME).state == "ready"
    assert get(root) == [], "there is nothing left to download"


def test_what_had_come_of_another_module_stays_and_does_not_stop_this_one(server, root):
    with pytest.raises(Cancelled):
        get(root, cancelled=lambda: bool(server.ranges(WEIGHTS)))
    assert [path.name for path in root.iterdir()] == [".download"]
    get(root, "text-encoder-openclip")
    assert sorted(path.name for path in root.iterdir()) == [".download", "text_encoders"]
    assert list((root / ".download").rglob("*.part"))


def test_the_token_goes_along(server, root, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    get(root)
    assert set(server.authorizations) == {"Bearer hf_secret"}


def test_no_disk_space_is_said_before_anything_is_taken(server, root, monkeypatch):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(DownloadError, match=r"[\d.]+ kB are still needed and only 1 kB are free\. Make room"):
        get(root)
    assert not server.ranges(WEIGHTS)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this machine has no /dev/full")
def test_a_disk_that_fills_up_meanwhile(server, root, monkeypatch):
    """/dev/full is a real file that says at every write what a full disk says."""
    real = Path.open
    monkeypatch.setattr(
        Path, "open", lambda self, mode="r", *a, **k: real(Path("/dev/full") if mode == "ab" else self, mode, *a, **k)
    )
    with pytest.raises(DownloadError, match=r"the disk is full.*make room and start again"):
        get(root)
    assert visible(root) == []
    assert not list(root.rglob("*.part"))


def test_a_folder_that_cannot_be_written(server, root):
    root.parent.mkdir(parents=True)
    root.write_text("a file is in the way")
    with pytest.raises(DownloadError, match=r"cannot be written"):
        get(root)


def test_cancel_keeps_what_has_come(server, root):
    seen = []
    with pytest.raises(Cancelled, match="start it again to continue"):
        get(root, progress=seen.append, cancelled=lambda: sum(p.what == ENCODER_WEIGHTS for p in seen) > 3)
    assert visible(root) == []
    server.requests.clear()
    get(root)
    assert int(server.ranges(ENCODER_WEIGHTS)[0][6:-1]) > 60_000


def test_another_download_after_one_that_was_cancelled(server, root):
    server.repositories["h1t/oms_b_openclip_xl"] = server.repositories[MODULE]
    seen = []
    with pytest.raises(Cancelled):
        get(root, progress=seen.append, cancelled=lambda: sum(p.what == WEIGHTS for p in seen) > 1)
    assert [path.name for path in get(root, "oms_b_openclip_xl")] == ["oms_b_openclip_xl", "openclip"]
    server.requests.clear()
    assert [path.name for path in get(root)] == [NAME]
    assert server.ranges(WEIGHTS)[0], "what had come was kept"
    assert not (root / ".download").exists()


@pytest.mark.parametrize("left", ["oms_module/diffusion_pytorch_model.safetensors", WEIGHTS])
def test_a_module_that_was_cut_off_is_taken_again(server, root, published, left):
    get(root)
    (root / NAME / WEIGHTS).unlink()
    (root / NAME / left).write_bytes(published[MODULE][left][:-10])
    assert [path.name for path in get(root)] == [NAME]
    (line,) = (line for line in listing(Places((root,))) if line.name == NAME)
    assert line.state == "ready"
    assert get(root) == [], "it is not taken a third time"


def test_other_weights_of_a_text_encoder_that_were_cut_off_do_not_stay(server, root, published):
    get(root)
    folder = root / "text_encoders" / "openclip" / "text_encoder"
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-10])
    del server.repositories[ENCODERS[0]][ENCODER_WEIGHTS]
    server.repositories[ENCODERS[0]]["text_encoder/model.fp16.safetensors"] = content
    assert [path.name for path in get(root)] == ["openclip"]
    assert get(root) == []


def test_two_downloads_at_once_do_not_meet(server, root):
    caught = []

    def second(progress) -> None:
        if not caught:
            with pytest.raises(SettingError, match="another download into this folder is under way") as error:
                get(root)
            caught.append(error)

    get(root, progress=second)
    assert caught


def test_what_is_no_module_is_not_kept(server, root):
    server.repositories[MODULE] = {WEIGHTS: server.repositories[ENCODERS[0]][ENCODER_WEIGHTS]}
    with pytest.raises(DownloadError, match=r"is no usable OMS model, so it was thrown away: .*not an OMS model"):
        get(root)
    assert visible(root) == []


def test_the_clients_own_download_would_begin_again(server, tmp_path):
    """Why library/hub.py reads the content itself. Where this fails, hf_hub_download may have become good enough."""
    from huggingface_hub import hf_hub_download
    from tqdm import tqdm

    if "tqdm_class" not in inspect.signature(hf_hub_download).parameters:
        return  # before version 1: no progress, and no end within a file

    class Bar(tqdm):
        def update(self, n=1):
            raise KeyboardInterrupt

    where = {"revision": COMMIT, "local_dir": tmp_path, "endpoint": server.url}
    with pytest.raises(KeyboardInterrupt):
        hf_hub_download(MODULE, WEIGHTS, tqdm_class=Bar, **where)
    server.requests.clear()
    hf_hub_download(MODULE, WEIGHTS, **where)
    assert server.ranges(WEIGHTS) == [None]


# --- the command, in a process of its own


def command(server: Hub, root: Path, *words: str, **variables: str) -> subprocess.Popen:
    environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy") and k != "HF_HUB_OFFLINE"}
    environment |= {"HF_ENDPOINT": server.url, "NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_TELEMETRY": "1", **variables}
    return subprocess.Popen(
        [sys.executable, "-m", "lib_oms", "download", *(words or (NAME,)), "--models-dir", str(root)],
        cwd=Path(__file__).resolve().parents[2],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Where the tests themselves run in a shell's background, Ctrl-C is ignored, and children would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_or_interrupted_nothing_half_is_there_and_it_goes_on(server, root, how):
    big = server.repositories[ENCODERS[0]]
    content = Path(root.parent.parent / "big.safetensors")
    content.parent.mkdir(parents=True, exist_ok=True)
    save_file({**_tensors(big[ENCODER_WEIGHTS], root.parent.parent), "big": torch.zeros(3_000_000)}, content)
    big[ENCODER_WEIGHTS] = content.read_bytes()
    server.slow = 0.02
    process = command(server, root)
    deadline = time.monotonic() + 120
    while not any(path.stat().st_size > 2_000_000 for path in root.rglob("*.part")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL or (process.returncode, err[-12:]) == (130, "interrupted\n")
    assert visible(root) == []
    assert [line.state for line in listing(Places((root,))) if line.name == NAME] == ["not downloaded"]

    if how == signal.SIGINT:
        return

    server.slow = 0
    server.requests.clear()
    process = command(server, root)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert out.splitlines() == [f"Downloaded: {root / NAME}", f"Downloaded: {root / 'text_encoders' / 'openclip'}"]
    assert "100%" in err
    assert int(server.ranges(ENCODER_WEIGHTS)[0][6:-1]) >= 2_000_000
    assert (root / "text_encoders/openclip" / ENCODER_WEIGHTS).read_bytes() == big[ENCODER_WEIGHTS]
    assert any(COMMIT in path for _, path, _ in server.requests)


def _tensors(content: bytes, folder: Path) -> dict[str, torch.Tensor]:
    path = folder / "small.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return {name: tensor.clone() for name, tensor in load_file(path).items()}


def test_nothing_else_on_the_machine_is_touched(server, root, tmp_path):
    elsewhere = tmp_path / "home", tmp_path / "tmp", tmp_path / "cache"
    for folder in elsewhere:
        folder.mkdir()
    names = ("HOME", "TMPDIR", "XDG_CACHE_HOME")
    process = command(server, root, **{name: str(folder) for name, folder in zip(names, elsewhere, strict=True)})
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert [path for folder in elsewhere for path in folder.rglob("*")] == []
    assert sorted(path.name for path in root.iterdir()) == [NAME, "text_encoders"]


@pytest.mark.parametrize(
    ("kind", "width", "family", "repository"),
    [
        ("clip", 768, "SD1.x", "stable-diffusion-v1-5/stable-diffusion-v1-5"),
        ("mixclip", 2048, "SDXL", "stabilityai/stable-diffusion-xl-base-1.0"),
    ],
)
def test_a_module_reads_the_text_of_the_loaded_checkpoint_or_says_what_to_do(tmp_path, kind, width, family, repository):
    tiny_psi(width).save_pretrained(tmp_path / "mine" / "oms_module")
    (entry,) = scan([tmp_path])
    waits = f"it borrows that of an {family} checkpoint as soon as one is loaded"
    assert state(entry, Places((tmp_path,), will_lend=(kind,))) == ("needs text encoder", waits)
    assert state(entry, Places((tmp_path,), lends=(kind,))) == ("ready", "the loaded model")
    how, why = state(entry, Places((tmp_path,)))
    assert how == "needs text encoder"
    assert f"`python -m lib_oms download text-encoder-{kind}`" in why
    assert repository in why
    assert ("load an SD1.x checkpoint in the WebUI, which lends its own" in why) == (kind == "clip")

    tiny_psi(width, metadata={"oms.latents": "mine"}).save_pretrained(tmp_path / "mine" / "oms_module")
    (other,) = scan([tmp_path])
    assert "text-encoder" in state(other, Places((tmp_path,), will_lend=(kind,)))[1], "who lends has other latents"


def test_sd1s_text_encoder_comes_alone(server, root, monkeypatch, published):
    narrow = replace(TEXT_ENCODERS["clip"], width=VIT_H["hidden_size"])
    monkeypatch.setitem(TEXT_ENCODERS, "clip", narrow)
    (repository, *_) = narrow.repositories
    server.repositories[repository] = published[ENCODERS[0]]
    assert get(root, "text-encoder-clip") == [root / "text_encoders" / "clip"]
    assert (root / "text_encoders" / "clip" / ENCODER_WEIGHTS).is_file()


def test_a_module_that_borrows_its_text_encoder_takes_none(server, root):
    psi = tiny_psi(2048)
    psi.save_pretrained(root.parent.parent / "large" / "oms_module", variant="fp16")
    server.repositories["h1t/oms_l_mixclip_xl"] = content(root.parent.parent / "large")
    places = Places((root,), will_lend=("mixclip",))
    assert download.download("oms_l_mixclip_xl", root, places) == [root / "oms_l_mixclip_xl"]


def test_the_command_says_what_is_wrong_in_one_line_and_goes_through_a_proxy(server, root):
    process = command(server, root, "nonsense")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert err.startswith("error: nothing named 'nonsense' is published; there are oms_b_openclip_15_21")

    # A name that no resolver knows: only a proxy can have been asked.
    proxied = {"HF_ENDPOINT": "http://hub.invalid", "HTTP_PROXY": server.url, "http_proxy": server.url}
    process = command(server, root, HF_TOKEN="", **proxied)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert (root / NAME / WEIGHTS).is_file()
