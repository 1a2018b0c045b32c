"""The four ways to ask for an answer, and what came back, in one shape."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.live_server import LiveServer, parse_event, user

END_MARKER = "<|eot_id|>"

CODES_OF_V010 = {
    400: "invalid_request",
    401: "unauthorized",
    404: "resource_missing",
    405: "request_unsupported_method",
    408: "request_timeout",
    413: "request_too_large",
    415: "request_unsupported_media",
    429: "rate_limited",
    431: "request_headers_too_large",
    500: "internal_error",
    503: "unavailable",
}


def check_envelope(path: str, status: int, error: dict[str, Any]) -> None:
    """Assert that an error is in its route's dialect, and shows nothing of our code."""
    if path.startswith("/v0.1.0"):
        assert error.keys() == {"code", "message", "type"}
        assert error["code"] == CODES_OF_V010[status]
    else:
        assert error.keys() == {"message", "type", "param", "code"}
    assert "Traceback" not in error["message"]


@dataclass
class Answer:
    """What a client has when the response is over.

    Attributes:
        error: The `error` object: the whole body, or the last event of a stream.
        is_whole: Whether it ended as a complete answer ends: with marker or `[DONE]` if streamed.
        events: The parsed events of a stream.
    """

    status: int
    headers: dict[str, str]
    text: str = ""
    finish_reason: str | None = None
    usage: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    is_whole: bool = False
    events: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Call:
    """A route, and whether it streams."""

    path: str
    is_stream: bool

    @property
    def is_chat(self) -> bool:
        """Whether this is OpenAI's dialect."""
        return self.path == "/v1/chat/completions"

    def body(self, content: str, **params: Any) -> dict[str, Any]:
        """Return a request body; `max_tokens` is called what the dialect calls it."""
        body = {"messages": user(content), **params}
        if self.is_chat:
            return {**body, "model": "mock", "stream": self.is_stream}
        if "max_tokens" in body:
            body["max_new_tokens"] = body.pop("max_tokens")
        return body

    def request_bytes(self, content: str, **params: Any) -> bytes:
        """Return a whole HTTP request, for raw connections."""
        body = json.dumps(self.body(content, **params)).encode()
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: localhost\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def ask(self, server: LiveServer, content: str, **params: Any) -> Answer:
        """Send a message and wait for the end of the answer."""
        body = self.body(content, **params)
        with server.client.stream("POST", self.path, json=body) as response:
            answer = Answer(response.status_code, dict(response.headers))
            if self.is_stream and response.status_code == 200:
                lines = response.iter_lines()
                answer.events = [parse_event(line) for line in lines if line.startswith("data:")]
                self._read_events(answer)
            else:
                response.read()
                self._read_body(answer, response.json())
        return answer

    def check_error(self, answer: Answer, status: int, code: str) -> None:
        """Assert that an error came in the dialect's envelope, as status or as last event."""
        assert answer.error is not None, answer
        assert not answer.is_whole
        if answer.events:
            assert answer.status == 200
        else:
            assert answer.status == status
        check_envelope(self.path, status, answer.error)
        if self.is_chat:
            assert answer.error["code"] == code

    def _read_body(self, answer: Answer, body: dict[str, Any]) -> None:
        if answer.status != 200:
            answer.error = body["error"]
            return
        answer.is_whole = True
        if self.is_chat:
            (choice,) = body["choices"]
            answer.text = choice["message"]["content"]
            answer.finish_reason = choice["finish_reason"]
            answer.usage = body["usage"]
        else:
            answer.text = body["data"]

    def _read_events(self, answer: Answer) -> None:
        last = answer.events[-1]
        if isinstance(last, dict) and "error" in last:
            answer.error = last["error"]
        if self.is_chat:
            answer.is_whole = last == "[DONE]"
            choices = list(_choices(answer.events))
            answer.text = "".join(choice["delta"].get("content") or "" for choice in choices)
            reasons = [c["finish_reason"] for c in choices if c["finish_reason"] is not None]
            answer.finish_reason = reasons[-1] if reasons else None
        else:
            text = "".join(event for event in answer.events if isinstance(event, str))
            answer.is_whole = isinstance(last, str) and last.endswith(END_MARKER)
            answer.text = text.removesuffix(END_MARKER)

    def __str__(self) -> str:
        return f"{self.path}{' stream' if self.is_chat and self.is_stream else ''}"


def _choices(events: Iterable[Any]) -> Iterable[dict[str, Any]]:
    for event in events:
        if isinstance(event, dict):
            yield from event.get("choices", [])


INFERENCE = Call("/v0.1.0/inference", is_stream=False)
STREAM = Call("/v0.1.0/stream", is_stream=True)
CHAT = Call("/v1/chat/completions", is_stream=False)
CHAT_STREAM = Call("/v1/chat/completions", is_stream=True)
CALLS = (INFERENCE, STREAM, CHAT, CHAT_STREAM)
STREAMS = (STREAM, CHAT_STREAM)
