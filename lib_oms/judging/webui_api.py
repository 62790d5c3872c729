"""One WebUI's API: a picture with or without the step, and whether what comes is what was asked."""

from __future__ import annotations

import base64
import binascii
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import requests
from PIL import Image

from lib_oms.errors import OMSError

SCRIPT = "One More Step"
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
