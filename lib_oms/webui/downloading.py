"""The one download that runs beside the page: it goes on when the page is closed, and ends when a person cancels it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from tqdm import tqdm

from lib_oms.console import say
from lib_oms.errors import Cancelled, OMSError
from lib_oms.library.download import Progress, download
from lib_oms.library.listing import human_size
from lib_oms.webui import host, sources

_LOOK = 0.3  # seconds between two looks at a download


class Job:
    """A download in a thread of its own; one at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread = threading.Thread()  # none is running yet
        self._cancelled = threading.Event()
        self._progress = Progress(0, 0, "")
        self.name = ""
        self.outcome = ""
        """What came of the last download, in words; empty while it runs."""
        self.failed = False

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    @property
    def running_name(self) -> str:
        """What is being downloaded; empty where nothing is."""
        return self.name if self.running else ""

    def start(self, name: str) -> None:
        """Starts a download, unless one is running."""
        with self._lock:
            if self.running:
                return
            self._cancelled.clear()
            self._progress, self.name, self.outcome, self.failed = Progress(0, 0, ""), name, "", False
            self._thread = threading.Thread(target=self._run, name="one-more-step-download", daemon=True)
            self._thread.start()

    def cancel(self) -> None:
        """Makes the running download end at the next piece that comes."""
        self._cancelled.set()

    def watch(self) -> Iterator[str]:
        """What to tell a person, again and again while the download runs."""
        while self.running:
            yield self.told
            self._thread.join(_LOOK)

    @property
    def told(self) -> str:
        """How it stands, in one line."""
        if self.outcome:
            return self.outcome
        if not self._progress.total:
            return f"{self.name}: asking the server" if self.running else ""
        done, total = self._progress.done, self._progress.total
        ending = "; canceling" if self._cancelled.is_set() else ""
        told = f"{self.name}: {human_size(done)} of {human_size(total)}, {self.percent:.0f} %"
        return f"{told}, {self._progress.what}{ending}"

    @property
    def percent(self) -> float:
        return 100 * self._progress.fraction if self._progress.total else 0.0

    def _run(self) -> None:
        try:
            say(f"Downloading {self.name} for One More Step")
            with tqdm(unit="B", unit_scale=True, desc="One More Step", mininterval=1.0) as bar:

                def show(progress: Progress) -> None:
                    self._progress = progress
                    bar.total = progress.total
                    bar.update(progress.done - bar.n)

                root, places = host.download_folder(), sources.places()
                new = download(self.name, root, places, progress=show, cancelled=self._cancelled.is_set)
            outcome = f"{self.name} is there." if new else f"{self.name} and its text encoder were there already."
        except Cancelled as error:
            outcome = str(error)
        except Exception as error:  # a thread's error would be heard by nobody
            self.failed = True
            outcome = str(error) if isinstance(error, OMSError) else f"{type(error).__name__}: {error}"
        say(f"One More Step: {outcome}")
        self.outcome = outcome


JOB = Job()
