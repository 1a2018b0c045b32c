"""Calls of tools on their way to clients that want each of them whole."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from palma.core.types import ToolCall, ToolCallDelta


class CallCollector:
    """Puts the calls of an answer together from their pieces."""

    def __init__(self) -> None:
        self._first: ToolCallDelta | None = None
        self._arguments: list[str] = []

    def push(self, deltas: Iterable[ToolCallDelta]) -> list[ToolCall]:
        """Take the next pieces; return the calls after which another one has begun."""
        ended: list[ToolCall] = []
        for delta in deltas:
            if self._first is None or delta.index != self._first.index:
                ended += self.flush()
                self._first = delta
            self._arguments.append(delta.arguments)
        return ended

    def flush(self) -> list[ToolCall]:
        """Return the last call, if there is one: the answer has ended, and may have cut it off."""
        first, self._first = self._first, None
        arguments, self._arguments = "".join(self._arguments), []
        if first is None:
            return []
        return [ToolCall(first.call_id or "", first.name or "", arguments)]


def arguments_object(call: ToolCall) -> dict[str, Any] | None:
    """Return a call's arguments; None where the answer ended before they were an object."""
    try:
        arguments = orjson.loads(call.arguments or "{}")
    except orjson.JSONDecodeError:
        return None
    return arguments if isinstance(arguments, dict) else None
