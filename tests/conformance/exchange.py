"""Recorded exchanges with a server: read from files, played, written anew.

A file has three parts: comments (lines that begin with `#`, and settings of the server, as
`@jwt_secret=...`), the request and the response, both as HTTP/1.1 writes them. `$TOKEN` in a
request is a good token. Of the response's headers only those in `SHOWN_HEADERS` are kept, and what
is another each time stands in angle brackets (`MASKS`), so that a file says the same every time.

`python -m tests.conformance.exchange` writes every response anew: read what changed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx

from palma.core.access import sign_token
from tests.live_server import LiveServer, running_server

FOLDER = Path(__file__).parent
SHOWN_HEADERS = (
    "content-type",
    "cache-control",
    "transfer-encoding",
    "www-authenticate",
    "x-session-id",
)
MASKS = (
    (re.compile(r'"id":"(chatcmpl|cmpl|call)[-_][^"]+"'), r'"id":"<\1>"'),
    (re.compile(r'"created":\d+'), '"created":"<time>"'),
    (re.compile(r'"port":\d+'), '"port":"<port>"'),
    (re.compile(r"^(\w+_created) \S+$", re.MULTILINE), r"\1 <time>"),
)
"""Ids, times and ports: what finds them, and what files have in their place."""


@dataclass(frozen=True)
class Exchange:
    """One request and what was answered.

    Attributes:
        comments: The lines before the request, as they are.
        request: The request's head and body.
        response: The response's head and body.
    """

    comments: str
    request: str
    response: str

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the server that answers, beside the mock engine."""
        lines = [line[1:] for line in self.comments.splitlines() if line.startswith("@")]
        return dict(line.split("=", 1) for line in lines)

    @property
    def text(self) -> str:
        """The whole file."""
        return f"{self.comments}\n{self.request}\n\n{self.response}\n"


def read_exchange(path: Path) -> Exchange:
    """Read a file; the response begins at the first line that only it can have."""
    lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    request_at = next(i for i, line in enumerate(lines) if line[:1] not in ("#", "@"))
    response_at = next(
        (i for i, line in enumerate(lines) if line.startswith("HTTP/1.1 ")), len(lines) + 1
    )
    return Exchange(
        comments="\n".join(lines[:request_at]),
        request="\n".join(lines[request_at : response_at - 1]).rstrip("\n"),
        response="\n".join(lines[response_at:]),
    )


def play(exchange: Exchange, server: LiveServer) -> str:
    """Send the request and return the response as files have it."""
    head, _, body = exchange.request.partition("\n\n")
    request_line, *header_lines = head.split("\n")
    method, path, _ = request_line.split(" ")
    headers = dict(line.split(": ", 1) for line in header_lines)
    if "$TOKEN" in head:
        secret = exchange.settings["jwt_secret"].encode()
        token = sign_token({"team_id": "tenstorrent"}, secret, expires_in_s=60)
        headers = {name: value.replace("$TOKEN", token) for name, value in headers.items()}
    response = server.client.request(method, path, content=body.encode(), headers=headers)
    return _written(response)


def _written(response: httpx.Response) -> str:
    status = HTTPStatus(response.status_code)
    shown = [
        f"{name}: {response.headers[name]}" for name in SHOWN_HEADERS if name in response.headers
    ]
    head = "\n".join([f"HTTP/1.1 {status} {status.phrase}", *shown])
    body = response.text
    for mask, replacement in MASKS:
        body = mask.sub(replacement, body)
    return f"{head}\n\n{body}".rstrip("\n")


def rewrite_all() -> None:
    """Write the response of every file anew."""
    for path in sorted(FOLDER.glob("*/*.http")):
        exchange = read_exchange(path)
        with running_server(**exchange.settings) as server:
            response = play(exchange, server)
        written = Exchange(exchange.comments, exchange.request, response)
        path.write_text(written.text, encoding="utf-8")


if __name__ == "__main__":
    rewrite_all()
