"""A real HTTP server on loopback that speaks as much of the Hugging Face Hub's protocol as its client needs.

The API lists files with sizes and checksums; large files are answered with a redirect to another path, as the hub's
storage is another host; ranges are served. Faults can be set per file.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
import time
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = 20_000  # bytes from which on a file is kept as LFS does


class Hub:
    """The server. `repositories` maps owner/name to {path: content}; `faults` maps a path (or "api") to a list of
    faults, of which each request takes the first: "cut:N" (N bytes, then the line is cut), "corrupt", "short" (the
    answer ends early and says that this is all), "no range", "status:N". `slow`: seconds of pause before each 64 kB.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.faults: dict[str, list[str]] = defaultdict(list)
        self.always: dict[str, str] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        """method, path and Range header of every request"""
        self.authorizations: list[str | None] = []
        self.slow = 0.0
        self.served = 0
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub._answer(self, body=True)

            def do_HEAD(self) -> None:
                hub._answer(self, body=False)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def ranges(self, path: str) -> list[str | None]:
        """The Range headers of the requests for a file's content."""
        return [ranged for method, asked, ranged in self.requests if method == "GET" and asked.endswith(path)]

    def _answer(self, handler: BaseHTTPRequestHandler, *, body: bool) -> None:
        path = unquote(urlsplit(handler.path).path)
        self.requests.append((handler.command, path, handler.headers.get("Range")))
        self.authorizations.append(handler.headers.get("Authorization"))
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path)
        found = re.fullmatch(r"/(?:storage/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        key = "api" if api else found[3] if found else path
        fault = self.faults[key].pop(0) if self.faults[key] else self.always.get(key, "")
        if not (found and not path.startswith("/storage/") and self._large(found)):
            if fault.startswith("status:"):
                return self._send(handler, int(fault[7:]), b"{}", {"Retry-After": "7"}, body)
        else:  # the redirect itself is sound; what it leads to has the fault
            if fault:
                self.faults[key].insert(0, fault)
            return self._send(handler, 302, b"", {"Location": f"{self.url}/storage{path}", **self._facts(found)}, body)
        if api:
            return self._listing(handler, api[1], body)
        content = self.repositories.get(found[1], {}).get(found[3]) if found else None
        if content is None:
            return self._send(handler, 404, b"{}", {"X-Error-Code": "EntryNotFound"}, body)
        return self._content(handler, content, fault, self._facts(found), body)

    def _large(self, found: re.Match) -> bool:
        return len(self.repositories.get(found[1], {}).get(found[3], b"")) >= LARGE

    def _facts(self, found: re.Match) -> dict[str, str]:
        content = self.repositories[found[1]][found[3]]
        etag = hashlib.sha256(content).hexdigest() if len(content) >= LARGE else _blob(content)
        return {
            "X-Repo-Commit": COMMIT, "ETag": f'"{etag}"', "X-Linked-Etag": f'"{etag}"',
            "X-Linked-Size": str(len(content)), "Accept-Ranges": "bytes",
        }  # fmt: skip

    def _listing(self, handler: BaseHTTPRequestHandler, repository: str, body: bool) -> None:
        files = self.repositories.get(repository)
        if files is None:
            return self._send(handler, 401, b"{}", {"X-Error-Code": "RepoNotFound"}, body)
        siblings = []
        for path, content in files.items():
            entry = {"rfilename": path, "size": len(content), "blobId": _blob(content)}
            if len(content) >= LARGE:
                lfs = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 9}
                entry |= {"blobId": _blob(b"pointer"), "lfs": lfs}
            siblings.append(entry)
        answer = {
            "_id": "0", "id": repository, "modelId": repository, "sha": COMMIT, "private": False, "gated": False,
            "disabled": False, "downloads": 0, "likes": 0, "tags": [], "siblings": siblings,
            "createdAt": "2024-01-01T00:00:00.000Z", "lastModified": "2024-01-01T00:00:00.000Z",
        }  # fmt: skip
        return self._send(handler, 200, json.dumps(answer).encode(), {"Content-Type": "application/json"}, body)

    def _content(
        self, handler: BaseHTTPRequestHandler, content: bytes, fault: str, facts: dict[str, str], body: bool
    ) -> None:
        ranged = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range") or "")
        start = int(ranged[1]) if ranged and fault != "no range" else 0
        if fault == "short":
            content = content[:-1000]
        if fault == "corrupt":
            content = content[:-1] + bytes([content[-1] ^ 1])
        handler.send_response(206 if start else 200)
        for name, value in facts.items():
            handler.send_header(name, value)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        if not body:
            return
        end = start + int(fault[4:]) if fault.startswith("cut:") else len(content)
        for at in range(start, min(end, len(content)), 2**16):
            piece = content[at : min(at + 2**16, end, len(content))]
            time.sleep(self.slow)
            try:
                handler.wfile.write(piece)
            except OSError:
                return
            self.served += len(piece)
        if end < len(content):
            handler.wfile.flush()
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True

    def _send(
        self, handler: BaseHTTPRequestHandler, status: int, content: bytes, headers: dict[str, str], body: bool
    ) -> None:
        handler.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        if body:
            handler.wfile.write(content)


def _blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
