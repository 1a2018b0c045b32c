"""The API key: every path needs it but the ones on a short, explicit list."""

from __future__ import annotations

import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from palma.api.errors import Unauthorized

KEY_HEADER = "palmapy-server-api-key"


class ApiKeyMiddleware:
    """Refuses requests without the key, whatever their path, before anything else sees them.

    Args:
        app: What is guarded.
        api_key: The key; None guards nothing.
        public_paths: Exact paths that need no key: the health probes.
    """

    def __init__(self, app: ASGIApp, api_key: str | None, public_paths: frozenset[str]) -> None:
        self._app = app
        self._api_key = api_key.encode() if api_key is not None else None
        self._public_paths = public_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or raise Unauthorized."""
        is_open = scope["type"] == "lifespan" or scope["path"] in self._public_paths
        if self._api_key is not None and not is_open:
            _check(Headers(scope=scope), self._api_key)
        await self._app(scope, receive, send)


def _check(headers: Headers, api_key: bytes) -> None:
    sent = headers.get(KEY_HEADER)
    if sent is None:
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        sent = credentials.strip() if scheme.lower() == "bearer" else None
    if not sent:
        raise Unauthorized("An API key is needed: send it as Authorization: Bearer KEY.")
    sent_bytes = sent.encode("latin-1")  # the bytes that came, as Headers decoded them
    if not hmac.compare_digest(sent_bytes, api_key):
        raise Unauthorized("The API key is wrong.")
