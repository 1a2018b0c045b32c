"""Server-sent events of OpenAI's streams: bytes to events, events to text, usage and errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

DONE = b"[DONE]"


class BadEvent(Exception):
    """An event that is not JSON, or not of the shape that OpenAI's streams have."""


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """What one event says.

    Attributes:
        text: The piece of the answer in it, empty when there is none.
        usage: The counts, where the server sends them.
        error: The message of a failure after the first byte.
        is_finish: Whether it names a finish_reason.
        is_done: Whether this is the `[DONE]` that ends a complete stream.
    """

    text: str = ""
    usage: dict[str, Any] | None = None
    error: str | None = None
    is_finish: bool = False
    is_done: bool = False


class EventSplitter:
    """Collects bytes as they come and cuts them into the `data` of whole events."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, received: bytes) -> list[bytes]:
        """Return the data of every event that these bytes complete; comments are left out."""
        *lines, self._rest = (self._rest + received).split(b"\n")
        return [data for line in lines if (data := self._take(line.removesuffix(b"\r")))]

    def _take(self, line: bytes) -> bytes:
        if line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" "))
        elif not line and self._data:
            data, self._data = b"\n".join(self._data), []
            return data
        return b""


def read_event(data: bytes) -> StreamEvent:
    """Read the data of one event of `/v1/chat/completions` or `/v1/completions`.

    Raises:
        BadEvent: It is not what these routes send.
    """
    if data.strip() == DONE:
        return StreamEvent(is_done=True)
    try:
        body = orjson.loads(data)
        if body.get("error") is not None:
            return StreamEvent(error=str(body["error"]))
        choices = body.get("choices") or []
        is_finish = any(choice.get("finish_reason") for choice in choices)
        return StreamEvent(_text(choices), body.get("usage"), is_finish=is_finish)
    except (ValueError, AttributeError, TypeError) as error:
        raise BadEvent(data[:200].decode(errors="replace")) from error


def _text(choices: list[dict[str, Any]]) -> str:
    """Return the text of the first choice: an answer's or, before it, a thought's."""
    for choice in choices:
        delta = choice.get("delta") or choice
        return delta.get("content") or delta.get("reasoning_content") or delta.get("text") or ""
    return ""
