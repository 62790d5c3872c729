"""Makes pairs of pictures, raw and OMS, with equal seeds through the API of one or several WebUIs.

The folder is the queue and the record: a picture that stands in it, written whole, is done, and whoever is started anew
goes on with what is missing. Each WebUI has a thread that makes one pair after another; what it holds when it falls
over goes back, and it is asked again until its patience is over.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent import futures
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import requests
from filelock import FileLock, Timeout
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

from lib_oms.errors import OMSError
from lib_oms.files.disk import read_json, written_whole

SCRIPT = "One More Step"
KINDS = ("raw", "oms")
"""The two folders of a set of pairs."""
ASKED = "asked.json"
"""What a set was begun with: another request must not add to it."""
TRIES = 3
"""How often a picture is asked for that a WebUI answers with an error of its own, such as out of memory."""
FALLS = 5
"""How often a picture is asked for while WebUIs fall over: it may be what fells them."""
HOPELESS = 5
"""So many errors of WebUIs before any pair was made: the next ones would fail, too."""
LONGEST_PAUSE = 15.0
_FIELD = re.compile(r'(?:^|, )([\w][\w /.-]*): ("(?:[^"\\]|\\.)*"|[^,]*)')
_GONE = frozenset({408, 429, 502, 503, 504})
"""Statuses that pass: of a WebUI that starts or is busy, or of what stands before it."""


class HostGone(OMSError):  # noqa: N818
    """A WebUI that does not answer, now."""


class HostUnfit(OMSError):  # noqa: N818
    """A WebUI that can make none of the pictures: no API, no extension, a wrong password, another model."""


class Lost(OMSError):  # noqa: N818
    """A picture that a WebUI could not make, or made otherwise than asked. `again`: another try may help."""

    def __init__(self, message: str, again: bool = False) -> None:
        super().__init__(message)
        self.again = again


@dataclass(frozen=True)
class Pair:
    """What one pair of pictures is asked with: the name of its two files, and the OMS settings of its own by name."""

    name: str
    prompt: str
    seed: int
    oms: Mapping[str, Any] = field(default_factory=dict)


def told(infotext: str) -> dict[str, str]:
    """The settings in the last line of an infotext, by their labels."""
    lines = infotext.strip().splitlines()
    found = _FIELD.findall(lines[-1]) if lines else []
    return {label: _unquoted(text) for label, text in found}


def _unquoted(text: str) -> str:
    try:
        return str(json.loads(text)) if text.startswith('"') else text.strip()
    except ValueError:
        return text


class Host:
    """The API of one WebUI.

    Args:
        address: such as http://127.0.0.1:7860, a user and a password in it or not.
        auth: user and password of --api-auth, where the address has none.
        timeout: seconds that one picture may take.
    """

    def __init__(self, address: str, auth: tuple[str, str] | None = None, timeout: float = 600) -> None:
        if "://" not in address:
            address = f"http://{address}"
        parts = urlsplit(address.rstrip("/"))
        if not parts.hostname or parts.scheme not in ("http", "https"):
            raise OMSError(f"{address!r} is no address of a WebUI; one is like http://127.0.0.1:7860")
        self.name = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
        """The address without a password, as messages have it."""
        self._auth = (unquote(parts.username), unquote(parts.password or "")) if parts.username else auth
        self._timeout = timeout
        self._session = requests.Session()

    def check(self) -> None:
        """Whether it answers, and has the extension.

        Raises:
            HostGone, HostUnfit: it does not, it has not.
        """
        scripts = self._ask("GET", "scripts", timeout=min(30, self._timeout))
        if SCRIPT.lower() not in [str(name).lower() for name in scripts.get("txt2img", [])]:
            raise HostUnfit(f"{self.name} does not have the extension {SCRIPT}: install it there, or leave it out")

    def paint(self, request: Mapping[str, Any], pair: Pair, oms: Mapping[str, Any] | None) -> tuple[Image.Image, str]:
        """One picture with its infotext, `oms` being the settings of the step, or None for the raw one.

        Raises:
            HostGone, HostUnfit, Lost: no picture came, or another one than was asked.
        """
        settings = {"enabled": False} if oms is None else {"enabled": True, **oms}
        body = {
            **request,
            "prompt": pair.prompt,
            "seed": pair.seed,
            "batch_size": 1,
            "n_iter": 1,
            "send_images": True,
            "save_images": False,
            "alwayson_scripts": {SCRIPT: {"args": [settings]}},
        }
        answer = self._ask("POST", "txt2img", timeout=self._timeout, json=body)
        try:
            infotext = str(json.loads(answer["info"])["infotexts"][0])
            encoded = answer["images"][0].partition(",")[2] or answer["images"][0]
            picture = Image.open(io.BytesIO(base64.b64decode(encoded)))
            picture.load()
        except (KeyError, IndexError, TypeError, AttributeError, ValueError, binascii.Error, OSError) as error:
            raise Lost(f"{self.name} answered without a picture ({error})", again=True) from error
        self._compare(told(infotext), pair, oms)
        return picture, infotext

    def _compare(self, fields: Mapping[str, str], pair: Pair, oms: Mapping[str, Any] | None) -> None:
        """Raises Lost where the infotext does not say that the picture is the asked one."""
        if oms is None and fields.get("OMS") == "True":
            raise Lost(f"{self.name} took the step where none was asked for")
        if oms is not None and "OMS skipped" in fields:
            raise Lost(f"{self.name} skipped the step: {fields['OMS skipped']}")
        if oms is not None and fields.get("OMS") != "True":
            raise Lost(f"{self.name} made the picture without the step, and does not say why")
        if fields.get("Seed") != str(pair.seed):
            raise Lost(f"{self.name} made the picture with the seed {fields.get('Seed')} instead of {pair.seed}")

    def _ask(self, method: str, route: str, timeout: float, json: Any = None) -> dict[str, Any]:
        try:
            answer = self._session.request(
                method, f"{self.name}/sdapi/v1/{route}", json=json, timeout=(10, timeout), auth=self._auth
            )
        except requests.RequestException as error:
            raise HostGone(f"{self.name} does not answer ({_reason(error)})") from error
        if answer.ok:
            try:
                content = answer.json()
            except ValueError as error:
                raise HostUnfit(f"{self.name} answers, but not as the API of a WebUI does") from error
            if isinstance(content, dict):
                return content
            raise HostUnfit(f"{self.name} answers, but not as the API of a WebUI does")
        self._refuse(answer)
        raise AssertionError  # _refuse always raises

    def _refuse(self, answer: requests.Response) -> None:
        said = _message(answer)
        if answer.status_code in _GONE:
            raise HostGone(f"{self.name} is not ready ({answer.status_code})")
        if answer.status_code in (401, 403):
            raise HostUnfit(f"{self.name} does not accept the user and password ({answer.status_code}): see --api-auth")
        if answer.status_code == 404 and said.lower() in ("", "not found"):
            raise HostUnfit(f"{self.name} has no API: start that WebUI with --api")
        if answer.status_code < 500:
            raise HostUnfit(f"{self.name} refuses the request ({answer.status_code}): {said}")
        raise Lost(f"{self.name} failed: {said or answer.status_code}", again=True)


def _reason(error: BaseException) -> str:
    """The innermost cause in a few words: requests wraps it in three layers of addresses."""
    if isinstance(error, requests.Timeout):
        return "it takes too long"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    return type(error).__name__


def _message(answer: requests.Response) -> str:
    """What a WebUI says of an error: "errors", "message" (Forge with its page) or "detail"."""
    try:
        content = answer.json()
    except ValueError:
        return ""
    if not isinstance(content, dict):
        return ""
    said = content.get("errors") or content.get("message") or content.get("detail") or ""
    return said if isinstance(said, str) else json.dumps(said)


class PairMaker:
    """Makes pairs in a folder: `folder`/raw/NAME.png and `folder`/oms/NAME.png.

    Args:
        request: fields of the API's request that all pictures share, such as steps.
        oms: settings of the step that all OMS pictures share, by name.
        patience: seconds after which a WebUI that does not come back is given up.

    Raises:
        OMSError: the folder was begun with another request.
    """

    def __init__(
        self,
        folder: Path,
        pairs: Sequence[Pair],
        request: Mapping[str, Any],
        oms: Mapping[str, Any],
        patience: float = 600,
    ) -> None:
        self.lost: dict[str, str] = {}
        """Pairs that could not be made, by name, and why."""
        self._folder, self._request, self._oms, self._patience = folder, dict(request), dict(oms), patience
        for kind in KINDS:
            (folder / kind).mkdir(parents=True, exist_ok=True)
        self._remember(pairs)
        self._waiting = deque(pair for pair in pairs if any(not self._file(kind, pair).exists() for kind in KINDS))
        self._unfinished = len(self._waiting)
        self._total = len(KINDS) * len(pairs)
        self._finished = len(pairs) - self._unfinished
        self._failures = 0
        self._tries: dict[str, int] = {}
        self._model = self._model_so_far()
        self._turn = threading.Lock()
        self._stop = threading.Event()

    def run(self, hosts: Sequence[Host]) -> None:
        """Makes what is missing. Interrupted, it ends when the pictures that are being made are there.

        Raises:
            HostGone, HostUnfit: a WebUI cannot be used from the beginning.
            OMSError: no WebUI is left, or none makes a single pair; what is done stays done.
        """
        if not self._unfinished:
            return
        try:
            with FileLock(self._folder / ".lock", timeout=0):
                self._run(hosts)
        except Timeout as error:
            raise OMSError(f"{self._folder}: another command makes pictures there, now") from error

    def _run(self, hosts: Sequence[Host]) -> None:
        for host in hosts:
            host.check()
        done = sum(self._file(kind, pair).exists() for pair in self._pairs for kind in KINDS)
        with tqdm(total=self._total, initial=done, desc=self._folder.name, unit="picture") as self._bar:
            with futures.ThreadPoolExecutor(len(hosts)) as pool:
                working = [pool.submit(self._work, host) for host in hosts]
                try:
                    futures.wait(working)
                except KeyboardInterrupt:
                    self._tell("interrupted: waiting for the pictures that are being made")
                    raise
                finally:
                    self._stop.set()
        errors = [str(error) for error in (one.exception() for one in working) if error]
        for one in working:
            if (error := one.exception()) is not None and not isinstance(error, OMSError):
                raise error
        if self._unfinished:
            raise OMSError(
                f"{self._unfinished} of {self._total // len(KINDS)} pairs are not made: {'; '.join(errors)}. What is "
                "done stays: the same command goes on from here"
            )
        if self.lost and not self._finished:
            raise OMSError(f"{len(self.lost)} pairs could not be made: {next(iter(self.lost.values()))}")

    def _work(self, host: Host) -> None:
        """A thread's work: pairs, until none is left or the host is given up."""
        while (pair := self._next()) is not None:
            try:
                self._make(host, pair)
            except HostGone as error:
                self._lose(pair, Lost(str(error), again=True), FALLS)
                self._await(host, error)
            except HostUnfit as error:
                self._give_back(pair)
                self._tell(f"given up: {error}")
                raise
            except Lost as error:
                self._lose(pair, error)
            except BaseException:
                self._give_back(pair)
                raise

    def _next(self) -> Pair | None:
        """A pair to make. While others hold the last ones it waits: these may come back."""
        while not self._stop.is_set():
            with self._turn:
                if self._waiting:
                    return self._waiting.popleft()
                if not self._unfinished:
                    return None
            self._stop.wait(0.1)
        return None

    def _make(self, host: Host, pair: Pair) -> None:
        for kind in KINDS:
            if self._file(kind, pair).exists():
                continue
            picture, infotext = host.paint(self._request, pair, None if kind == "raw" else {**self._oms, **pair.oms})
            self._refuse_other_model(host, infotext)
            self._save(picture, infotext, self._file(kind, pair))
            with self._turn:
                self._bar.update()
        with self._turn:
            self._unfinished -= 1
            self._finished += 1

    def _save(self, picture: Image.Image, infotext: str, file: Path) -> None:
        facts = PngInfo()
        facts.add_text("parameters", infotext)
        try:
            with written_whole(file) as part:
                picture.save(part, "PNG", pnginfo=facts)
        except OSError as error:
            raise OMSError(f"{file} cannot be written ({error.strerror or error})") from error

    def _await(self, host: Host, error: HostGone) -> None:
        """Until the host answers again. Raises what it said last when the patience is over."""
        self._tell(f"{error}: trying again for {self._patience:g} s")
        give_up, pause = time.monotonic() + self._patience, 1.0
        last: OMSError = error
        while not self._stop.wait(min(pause, max(0.0, give_up - time.monotonic()))):
            with self._turn:
                if not self._unfinished:
                    return
            try:
                host.check()
            except (HostGone, HostUnfit, Lost) as again:  # a WebUI that starts has its page before its API
                last = again
            else:
                self._tell(f"{host.name} is back")
                return
            if time.monotonic() >= give_up:
                self._tell(f"given up: {last}")
                raise last
            pause = min(2 * pause, LONGEST_PAUSE)

    def _give_back(self, pair: Pair) -> None:
        with self._turn:
            self._waiting.appendleft(pair)

    def _lose(self, pair: Pair, error: Lost, most: int = TRIES) -> None:
        """Puts the pair at the end of the queue, or, where it was tried `most` times, among what is lost."""
        with self._turn:
            tries = self._tries[pair.name] = self._tries.get(pair.name, 0) + 1
            self._failures += most == TRIES
            if not self._finished and self._failures >= HOPELESS:
                self._waiting.append(pair)
                self._stop.set()
                raise OMSError(f"not one could be made, and {error}")
            if error.again and tries < most:
                self._waiting.append(pair)
                return
            self.lost[pair.name] = str(error)
            self._unfinished -= 1
            self._tell(f"lost: {pair.name}: {error}")

    def _tell(self, text: str) -> None:
        self._bar.write(text, file=sys.stderr)  # standard output is for what was found

    def _file(self, kind: str, pair: Pair) -> Path:
        return self._folder / kind / f"{pair.name}.png"

    def _remember(self, pairs: Sequence[Pair]) -> None:
        """Writes down what is asked; a folder may be asked for more, not for something else."""
        self._pairs = list(pairs)
        asked = {"request": self._request, "oms": self._oms, "pairs": {pair.name: asdict(pair) for pair in pairs}}
        file = self._folder / ASKED
        if file.exists():
            before = read_json(file, most=2**30)
            for name in ("request", "oms"):
                _refuse_change(self._folder, name, before.get(name), asked[name])
            old = before.get("pairs", {})
            for name, pair in asked["pairs"].items():
                if name in old:
                    _refuse_change(self._folder, f"picture {name}", old[name], pair)
            asked["pairs"] = {**old, **asked["pairs"]}
        with written_whole(file) as part:
            part.write_text(json.dumps(asked), encoding="utf-8")

    def _model_so_far(self) -> str | None:
        for kind in KINDS:
            for file in (self._folder / kind).glob("*.png"):
                with Image.open(file) as picture:
                    return _model(picture.info.get("parameters", ""))
        return None

    def _refuse_other_model(self, host: Host, infotext: str) -> None:
        """Pictures of two checkpoints in one folder could not be judged."""
        model = _model(infotext)
        with self._turn:
            self._model = self._model or model
            if model != self._model:
                raise HostUnfit(
                    f"{host.name} has loaded the checkpoint {model}, but the pictures are of {self._model}: choose "
                    "that one there, or leave this WebUI out"
                )


def _model(infotext: str) -> str | None:
    fields = told(infotext)
    return fields.get("Model hash") or fields.get("Model")


def _refuse_change(folder: Path, what: str, before: Any, now: Any) -> None:
    if json.loads(json.dumps(now)) != before:
        raise OMSError(
            f"{folder} was begun with another {what}: {json.dumps(before)} instead of {json.dumps(now)}. Ask for the "
            "same again, or give another --out"
        )
