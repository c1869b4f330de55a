"""A small model hub on loopback that speaks what huggingface_hub asks: repository, tree, files with ranges."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """`repos`: files by repository. `cut`: a file's name to the bytes after which its first answer breaks off."""

    repos: Mapping[str, Mapping[str, bytes]]
    cut: dict[str, int] = field(default_factory=dict)
    claimed_bytes: dict[str, int] = field(default_factory=dict)
    status: int = 200
    sent: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""


@contextmanager
def running_hub(hub: Hub) -> Iterator[Hub]:
    """`hub`, answering at `hub.url`; `hub.sent` lists each file that was asked for, with its range."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        is_api = parts[:2] == ["api", "models"]
        repo = "/".join(parts[2:4] if is_api else parts[:2])
        files = self.hub.repos.get(repo)
        if self.hub.status != 200:
            self._answer(b"", self.hub.status)
        elif files is None:
            self._answer(b"", 404, {"X-Error-Code": "RepoNotFound"})
        elif is_api and parts[4] == "revision":
            siblings = [{"rfilename": name, "size": self._size(name, content)} for name, content in files.items()]
            self._answer_json({"id": repo, "sha": COMMIT, "siblings": siblings})
        elif is_api:
            tree = [{"type": "file", "path": name, "size": len(content), "oid": _etag(content)}
                    for name, content in files.items()]  # fmt: skip
            self._answer_json(tree)
        else:
            self._answer_file("/".join(parts[4:]), files)

    def _answer_file(self, name: str, files: Mapping[str, bytes]) -> None:
        content, asked = files[name], self.headers.get("Range")
        headers = {"ETag": f'"{_etag(content)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if self.command == "GET":
            self.hub.sent.append((name, asked))
        if asked is None:
            self._answer(content, 200, headers, cut=self.hub.cut.pop(name, None) if self.command == "GET" else None)
            return
        begin = int(asked.removeprefix("bytes=").split("-")[0])
        headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        self._answer(content[begin:], 206, headers)

    def _size(self, name: str, content: bytes) -> int:
        return self.hub.claimed_bytes.get(name, len(content))

    def _answer_json(self, value: object) -> None:
        self._answer(json.dumps(value).encode(), 200, {"Content-Type": "application/json"})

    def _answer(
        self, body: bytes, status: int, headers: Mapping[str, str] | None = None, cut: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:cut])
        if cut is not None:
            self.close_connection = True

    def log_message(self, format: str, *arguments: object) -> None:
        """Says nothing."""


def _etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
