"""Makes pairs of pictures, raw and OMS, with equal seeds through one or several WebUIs.

The folder is the queue and the record: a picture that stands in it, written whole, is done, and whoever is started anew
goes on with what is missing. Each WebUI has a thread that makes one pair after another; what it holds when it falls
over goes back, and it is asked again until its patience is over.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent import futures
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

from lib_oms.errors import OMSError
from lib_oms.files.disk import read_json, written_whole
from lib_oms.judging.webui_api import Host, HostGone, HostUnfit, Lost, Pair, told

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
        kept = {kind: _infotext(self._file(kind, pair)) for kind in KINDS if self._file(kind, pair).exists()}
        made = {kind: self._paint(host, pair, kind) for kind in KINDS if kind not in kept}
        for kind, before in kept.items():  # a pair is one WebUI's: another version may draw other noise
            if any(_apart_from_the_step(before) != _apart_from_the_step(infotext) for infotext in made.values()):
                self._paint(host, pair, kind)
        with self._turn:
            self._unfinished -= 1
            self._finished += 1

    def _paint(self, host: Host, pair: Pair, kind: str) -> str:
        """Makes one picture and gives its infotext; in place of one that is there, it counts no second time."""
        file = self._file(kind, pair)
        picture, infotext = host.paint(self._request, pair, None if kind == "raw" else {**self._oms, **pair.oms})
        self._refuse_other_model(host, infotext)
        new = not file.exists()
        self._save(picture, infotext, file)
        with self._turn:
            self._bar.update(new)
        return infotext

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
            for file in (self._folder / kind).glob("[!.]*.png"):
                return _model(_infotext(file))
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


def _infotext(file: Path) -> str:
    with Image.open(file) as picture:
        return str(picture.info.get("parameters", ""))


def _apart_from_the_step(infotext: str) -> dict[str, str]:
    return {label: text for label, text in told(infotext).items() if not label.startswith("OMS")}


def _model(infotext: str) -> str | None:
    fields = told(infotext)
    return fields.get("Model hash") or fields.get("Model")


def _refuse_change(folder: Path, what: str, before: Any, now: Any) -> None:
    if json.loads(json.dumps(now)) != before:
        raise OMSError(
            f"{folder} was begun with another {what}: {json.dumps(before)} instead of {json.dumps(now)}. Ask for the "
            "same again, or give another --out"
        )
