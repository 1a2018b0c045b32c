"""GET /openapi.json, GET /docs and GET /v1/capabilities, each made at its first request."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from palma.api.docs.capabilities import CapabilitiesAnswer, capabilities
from palma.api.docs.openapi import openapi_document
from palma.api.docs.page import render_page
from palma.api.openai_shapes import ErrorAnswer
from palma.api.operation import Dialect, Operation

PAGE_HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}


class Documentation:
    """What is told about all dialects; one for each application.

    Args:
        dialects: What the server speaks.
        needs_key: Whether it wants a key or a token.
    """

    def __init__(self, dialects: Sequence[Dialect], *, needs_key: bool) -> None:
        self._dialects = dialects
        self._needs_key = needs_key

    @cached_property
    def openapi(self) -> bytes:
        """The OpenAPI document as JSON."""
        return orjson.dumps(self._document)

    @cached_property
    def capabilities(self) -> bytes:
        """What is made of every field, as JSON."""
        return orjson.dumps(capabilities(self._document))

    @cached_property
    def page(self) -> bytes:
        """The document as a page for people, in HTML."""
        return render_page(self._document).encode()

    @cached_property
    def _document(self) -> dict[str, Any]:
        return openapi_document(self._dialects, needs_key=self._needs_key)


async def openapi_json(request: Request) -> Response:
    """GET /openapi.json."""
    return Response(await _made(request, "openapi"), media_type="application/json")


async def docs(request: Request) -> Response:
    """GET /docs: no script, and nothing from elsewhere."""
    page = await _made(request, "page")
    return Response(page, headers=PAGE_HEADERS, media_type="text/html")


async def list_capabilities(request: Request) -> Response:
    """GET /v1/capabilities."""
    return Response(await _made(request, "capabilities"), media_type="application/json")


async def _made(request: Request, name: str) -> Any:
    """Return a part of the documentation; the first time takes longer than the loop may wait."""
    return await asyncio.to_thread(getattr, request.state.documentation, name)


DIALECT = Dialect(
    name="Documentation",
    operations=(
        Operation("GET", "/openapi.json", openapi_json, "This API as OpenAPI 3.1.", answer=dict),
        Operation("GET", "/docs", docs, "The same for people.", media_type="text/html"),
        Operation(
            "GET",
            "/v1/capabilities",
            list_capabilities,
            "What is honoured, what only at its neutral value, and what refused.",
            answer=CapabilitiesAnswer,
        ),
    ),
    error=ErrorAnswer,
)
