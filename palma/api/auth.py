"""Who may come in: every path but the ones on a short, explicit list needs a key or a token."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from palma.api.errors import Unauthorized
from palma.core.access import Door, credentials_of


class AuthMiddleware:
    """Refuses requests that may not come in, whatever their path, before anything sees them.

    Args:
        app: What is guarded.
        door: What opens it.
        public_paths: Exact paths that need nothing: the health probes.
    """

    def __init__(self, app: ASGIApp, door: Door, public_paths: frozenset[str]) -> None:
        self._app = app
        self._door = door
        self._public_paths = public_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or raise Unauthorized."""
        is_open = scope["type"] == "lifespan" or scope["path"] in self._public_paths
        if not is_open and not self._door.is_open:
            refusal = self._door.refusal(credentials_of(Headers(scope=scope)))
            if refusal is not None:
                raise Unauthorized(refusal)
        await self._app(scope, receive, send)
