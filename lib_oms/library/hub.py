"""Single files from the Hugging Face Hub, by huggingface_hub: continued after a break, checked, whole or not there.

HF_ENDPOINT, HF_TOKEN (or the token of `huggingface-cli login`), HF_HUB_OFFLINE and the proxy variables mean what they
mean to huggingface_hub. Works with its versions 0.26 to 2.

Not by its hf_hub_download(local_dir=...), which was tried in 0.26.0 and 2.4.0 (tests/library/test_download.py). There,
0.26 tells of no progress, cannot be cancelled within a file, and ends where the line is cut once; 2.4 does these, but
throws away what has come when it is cancelled, cut for good or killed (5 GB to some), and calls every refusal of the
server an entry that the cache lacks. Neither checks a checksum, and both believe a file that was cut on the disk. So
the content is read here, from its session and with its headers.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, urlsplit
from urllib.request import getproxies, proxy_bypass

from lib_oms.errors import Cancelled, DownloadError

_SAFE_PATH = re.compile(r"(?!\.)[\w.-]+(/(?!\.)[\w.-]+){0,3}")
_NETWORK = frozenset(("requests", "urllib3", "httpx", "httpx2", "httpcore", "httpcore2", "h11", "http"))
_TRIES = 4  # in a row, without a byte gained
_PIECE = 2**18  # bytes between two looks at progress and cancelling
_TIMEOUT = 30.0  # seconds in which nothing comes
_PAUSE = 1.0  # seconds before the second try, then twice as long each time


@dataclass(frozen=True)
class RemoteFile:
    """One file of a repository at one commit; sha256 is known of large files, blob (git's SHA-1) of all."""

    repository: str
    commit: str
    path: str
    size: int
    sha256: str | None
    blob: str | None


class Refused(DownloadError):  # noqa: N818
    """The server has no such repository, or not for us; another one may do."""


class Unreachable(DownloadError):  # noqa: N818
    """No server is reached, because there is no way to it or offline mode is on."""


def list_files(repository: str, revision: str) -> list[RemoteFile]:
    """The files of a repository with sizes and checksums, as the hub's API tells them.

    Raises:
        Refused: 401, 403 or 404.
        Unreachable: no network, or offline mode.
        DownloadError: 429 or another answer; says what to do.
    """
    from huggingface_hub import HfApi

    try:
        info = HfApi(endpoint=endpoint()).model_info(repository, revision=revision, files_metadata=True, timeout=30)
    except Exception as error:
        raise _translated(error, repository) from error
    return [_remote(repository, info.sha or revision, file) for file in info.siblings or [] if _is_sound(file)]


def fetch(
    file: RemoteFile, target: Path, *, gained: Callable[[int], None], cancelled: Callable[[], bool] = lambda: False
) -> None:
    """Brings a file to `target`, where it appears when it is whole and its checksum is right.

    Until then it grows in a hidden file beside it, from which a later call continues. `gained` is called with the
    number of bytes that are there more than before (less than none where they have to be thrown away).

    Raises:
        Cancelled: `cancelled` said so; what has come so far is kept.
        Unreachable: no network, or offline mode, and nothing of the file has come.
        DownloadError: anything else; says what to do. What has come is kept where continuing makes sense.
    """
    mark = (file.sha256 or file.blob or file.commit)[:12]
    part = target.with_name(f".{target.name}.{mark}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        continued = _size(part) > 0
        gained(_size(part))
        _grow(file, part, gained, cancelled)
        if not _is_right(part, file):
            gained(-_size(part))
            part.unlink()
            if not continued:
                raise _wrong(file)
            # What lay there from another day may be at fault: once more from the beginning.
            _grow(file, part, gained, cancelled)
            if not _is_right(part, file):
                part.unlink()
                raise _wrong(file)
        part.replace(target)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            part.unlink(missing_ok=True)
        raise _disk(error, target) from error
    finally:
        with suppress(OSError):
            if part.exists() and _size(part) == 0:
                part.unlink()


def is_whole(path: Path, file: RemoteFile) -> bool:
    """Whether `path` holds just what `file` is."""
    try:
        return path.is_file() and _is_right(path, file)
    except OSError:
        return False


def endpoint() -> str:
    """The address of the hub, or of the mirror that HF_ENDPOINT names; no slash at its end."""
    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def _grow(file: RemoteFile, part: Path, gained: Callable[[int], None], cancelled: Callable[[], bool]) -> None:
    """Gets the rest of a file into `part`; tries again where the line is cut."""
    tries = 0
    error: Exception | None = None
    while _size(part) < file.size or not part.exists():
        if error is not None:
            if tries >= _TRIES:
                raise _cut(file, _size(part), error) from error
            _wait(_PAUSE * 2**tries, file, cancelled)
        if cancelled():
            raise Cancelled(_cancelled_message(file))
        before = _size(part)
        error = ConnectionError("the answer ended too early")  # believed only if it has, for some clients do not say so
        try:
            with part.open("ab") as raw:
                _get(file, raw, gained, cancelled)
                os.fsync(raw.fileno())
        except DownloadError:
            raise
        except Exception as caught:
            if isinstance(caught, OSError) and caught.errno is not None and not _is_network(caught):
                raise  # the disk's
            if not _may_pass(caught):
                raise _translated(caught, file.repository) from caught
            error = caught
        tries = 0 if _size(part) > before else tries + 1


def _get(file: RemoteFile, raw: BinaryIO, gained: Callable[[int], None], cancelled: Callable[[], bool]) -> None:
    """Appends what `raw` lacks, piece by piece."""
    from huggingface_hub.utils import build_hf_headers

    start = os.fstat(raw.fileno()).st_size
    url = f"{endpoint()}/{file.repository}/resolve/{quote(file.commit, safe='')}/{quote(file.path)}"
    # Identity, or a server may pack the text files, whose sizes then differ from what the API said.
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    with _answer(url, headers) as (response, pieces):
        if response.status_code >= 400:
            raise _StatusError(response)
        if start and response.status_code != 206:  # a server that knows no ranges
            raw.truncate(0)
            gained(-start)
        for piece in pieces:
            raw.write(piece)
            raw.flush()
            gained(len(piece))
            if cancelled():
                raise Cancelled(_cancelled_message(file))


@contextmanager
def _answer(url: str, headers: dict[str, str]) -> Iterator[tuple[Any, Iterable[bytes]]]:
    """A response and its content in pieces, by huggingface_hub's own session."""
    from huggingface_hub.utils import get_session

    session = get_session()
    if callable(session.stream):  # httpx, from version 1 on; of requests it is an option
        with session.stream("GET", url, headers=headers, timeout=_TIMEOUT, follow_redirects=True) as response:
            yield response, response.iter_bytes(_PIECE)
    else:
        with session.get(url, headers=headers, timeout=_TIMEOUT, stream=True) as response:
            yield response, response.iter_content(_PIECE)


class _StatusError(Exception):
    """An answer that is none of the file."""

    def __init__(self, response: Any) -> None:
        super().__init__(f"status {response.status_code}")
        self.response = response


def _wait(seconds: float, file: RemoteFile, cancelled: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if cancelled():
            raise Cancelled(_cancelled_message(file))
        time.sleep(0.05)


def _is_sound(file: Any) -> bool:
    return isinstance(file.rfilename, str) and bool(_SAFE_PATH.fullmatch(file.rfilename)) and file.size is not None


def _remote(repository: str, commit: str, file: Any) -> RemoteFile:
    lfs = file.lfs or {}
    sha256 = lfs.get("sha256") if isinstance(lfs, dict) else getattr(lfs, "sha256", None)
    blob = None if sha256 else file.blob_id  # of a large file this is the pointer's
    return RemoteFile(repository, commit, file.rfilename, int(file.size), sha256, blob)


def _is_right(path: Path, file: RemoteFile) -> bool:
    if path.stat().st_size != file.size:
        return False
    if file.sha256:
        digest, expected = hashlib.sha256(), file.sha256
    elif file.blob:
        digest, expected = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False), file.blob
    else:
        return True
    with path.open("rb") as opened:
        while block := opened.read(2**20):
            digest.update(block)
    return digest.hexdigest() == expected.lower()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _may_pass(error: Exception) -> bool:
    """Whether trying again at once may help: the line was cut, or the server has a moment's trouble."""
    status = _status(error)
    if status is not None:
        return status in (408, 500, 502, 503, 504)
    return _is_network(error)


def _is_network(error: BaseException) -> bool:
    packages = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return bool(packages & _NETWORK) or isinstance(error, (ConnectionError, TimeoutError))


def _translated(error: Exception, repository: str) -> DownloadError:
    """The same in words that say what to do."""
    where = f"{endpoint()}/{repository}"
    status = _status(error)
    if type(error).__name__ == "OfflineModeIsEnabled":
        return Unreachable("offline mode is on (HF_HUB_OFFLINE), so nothing is downloaded. Unset it and restart")
    if status == 401:
        return Refused(
            f"{where}: the server wants to know who asks (401). The repository is private or gone, or your token is "
            "wrong: set HF_TOKEN, or run `huggingface-cli login`"
        )
    if status == 403:
        return Refused(
            f"{where}: not open to you (403). Accept its terms on its page and set HF_TOKEN to your token, or run "
            "`huggingface-cli login`"
        )
    if status == 404:
        return Refused(f"{where}: is not there (404). It may have been removed or renamed")
    if status == 429:
        after = (getattr(error.response, "headers", None) or {}).get("Retry-After", "")  # type: ignore[attr-defined]
        wait = f"in {after} seconds" if re.fullmatch(r"\d{1,6}", after) else "in some minutes"
        return DownloadError(f"{where}: the server has had too many requests (429). Try again {wait}")
    if status is not None:
        return DownloadError(f"{where}: the server answered with status {status}. Try again later")
    if _is_network(error):
        return Unreachable(
            f"{endpoint()} cannot be reached{_through_proxy()}: {_why_unreachable(error)}. Check the network, "
            "HTTPS_PROXY and HF_ENDPOINT, and start the download again"
        )
    return DownloadError(f"{where}: {_first_line(error)}")


def _through_proxy() -> str:
    address = urlsplit(endpoint())
    asked = address.scheme in getproxies() and not proxy_bypass(address.netloc)
    return " through the proxy" if asked else ""


def _why_unreachable(error: BaseException) -> str:
    """In a few words: what the clients themselves say is meant for programmers."""
    chain = list(_chain(error))
    names = " ".join(kind.__name__ for link in chain for kind in type(link).__mro__)
    said = " ".join(map(str, chain)).lower()
    if any(isinstance(link, socket.gaierror) for link in chain) or "NameResolution" in names:
        return "the proxy's name is not known" if "Proxy" in names else "its name is not known"
    if "Proxy" in names:
        return "the proxy does not let it through, or does not answer"
    if any(isinstance(link, ssl.SSLError) for link in chain) or "certificate" in said:
        return "its certificate is not trusted" if "certificate" in said else "no secure connection comes about"
    if any(isinstance(link, ConnectionRefusedError) for link in chain):
        return "nothing answers there"
    if "Timeout" in names:
        return "it does not answer in time"
    return "the connection fails"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """`error` and all that it was made of: requests keep it in args and `reason`, httpx in __cause__."""
    waiting, seen = [error], set()
    while waiting:
        link = waiting.pop()
        if id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        inner = (*link.args, getattr(link, "reason", None), link.__cause__, link.__context__)
        waiting += [part for part in inner if isinstance(part, BaseException)]


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _cut(file: RemoteFile, have: int, error: Exception) -> DownloadError:
    status = _status(error)
    if have == 0 or (status is not None and status >= 500):
        return _translated(error, file.repository)
    return DownloadError(
        f"{file.repository}/{file.path}: the connection was cut again and again, at last after {have} of {file.size} "
        "bytes. What has come so far is kept: start the download again to continue"
    )


def _wrong(file: RemoteFile) -> DownloadError:
    return DownloadError(
        f"{file.repository}/{file.path}: what came is not what the repository says it is (size or SHA-256 differ), so "
        "it was thrown away. Start the download again; if it stays so, a proxy or mirror on the way is broken"
    )


def _cancelled_message(file: RemoteFile) -> str:
    return f"The download of {file.path} was canceled. What has come so far is kept: start it again to continue."


def _disk(error: OSError, target: Path) -> DownloadError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DownloadError(
            f"{target}: the disk is full. What had come of this file was removed; make room and start again"
        )
    return DownloadError(f"{target}: cannot be written: {error.strerror or error}. Check the folder's permissions")
