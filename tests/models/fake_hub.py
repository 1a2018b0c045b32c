"""A Hugging Face Hub on loopback: it serves folders, and fails as the Hub does."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass(frozen=True)
class Refusal:
    """An answer of the Hub that helps nobody; `files_only` leaves the listing open."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    files_only: bool = False
    body: bytes = b"{}"


GATED = Refusal(
    403,
    {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to this model is restricted."},
    files_only=True,
)
BAD_TOKEN = Refusal(401, {"X-Error-Message": "Invalid credentials in Authorization header"})
NOT_FOUND = Refusal(
    401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}
)
NO_REVISION = Refusal(404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev"})
FORBIDDEN = Refusal(403, {"X-Error-Message": "Your token lacks the scope"})
RATE_LIMITED = Refusal(429, {"Retry-After": "7"})
OUT_OF_ORDER = Refusal(503)


class FakeHub:
    """Repositories, refusals, and what was asked for."""

    def __init__(self) -> None:
        self.folders: dict[str, Path] = {}
        self.refusals: dict[str, Refusal] = {}
        self.claimed_sizes: dict[str, int] = {}
        self.paths: list[str] = []
        self.tokens: list[str | None] = []
        self.endpoint = ""

    @property
    def downloaded(self) -> set[str]:
        """The names of the files whose content was sent, whole."""
        return {
            path.rpartition("/")[2]
            for path in self.paths
            if path.startswith("GET /") and "/resolve/" in path
        }

    def answer(self, method: str, path: str) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body for one request."""
        parts = unquote(urlsplit(path).path).strip("/").split("/")
        is_api = parts[:2] == ["api", "models"]
        parts = parts[2:] if is_api else parts
        repo_id, rest = "/".join(parts[:2]), parts[2:]
        refusal = self.refusals.get(repo_id)
        if refusal is not None and not (is_api and refusal.files_only):
            return refusal.status, refusal.headers, refusal.body
        if repo_id not in self.folders:
            return NOT_FOUND.status, NOT_FOUND.headers, b"{}"
        if is_api:
            return 200, {"Content-Type": "application/json"}, self._listing(repo_id, rest)
        return self._file(self.folders[repo_id].joinpath(*rest[2:]))

    def _listing(self, repo_id: str, rest: list[str]) -> bytes:
        folder = self.folders[repo_id]
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        sizes = {str(path.relative_to(folder)): path.stat().st_size for path in files}
        sizes |= self.claimed_sizes
        if rest[:1] == ["tree"]:
            tree = [
                {"type": "file", "path": name, "size": size, "oid": name}
                for name, size in sizes.items()
            ]
            return json.dumps(tree).encode()
        siblings = [{"rfilename": name, "size": size} for name, size in sizes.items()]
        return json.dumps({"id": repo_id, "sha": COMMIT, "siblings": siblings}).encode()

    def _file(self, path: Path) -> tuple[int, dict[str, str], bytes]:
        if not path.is_file():
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        content = path.read_bytes()
        etag = hashlib.sha256(content).hexdigest()
        return 200, {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"'}, content


@contextmanager
def running_hub() -> Iterator[FakeHub]:
    """Serve a fake Hub on a free port of loopback."""
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            byte_range = self.headers.get("Range", "")
            hub.paths.append(f"{'RANGE' if byte_range else self.command} {self.path}")
            hub.tokens.append(self.headers.get("Authorization"))
            status, headers, body = hub.answer(self.command, self.path)
            if byte_range and status == 200:
                first, _, last = byte_range.removeprefix("bytes=").partition("-")
                status, body = 206, body[int(first) : int(last) + 1]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
