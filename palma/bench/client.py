"""One request to an OpenAI-compatible server, timed; and what the server lets us ask for."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal

import httpx
import orjson

from palma.bench.events import BadEvent, EventSplitter, read_event
from palma.core.errors import PalmaError, SettingsError, Unavailable

Endpoint = Literal["chat", "completions"]
End = Literal["cut", "finished", "done"]
"""How a stream ended: in the middle, after a finish_reason, or with `[DONE]`."""

PATHS: dict[Endpoint, str] = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}

LENGTH_FIELDS = (("ignore_eos", "min_tokens"), ("ignore_eos",), ("min_tokens",), ())
"""Fields that keep an answer from ending early, in the order in which they are tried."""


@dataclass(frozen=True, slots=True)
class Task:
    """One request to make.

    Attributes:
        prompt: Its text, as one user message or as the raw prompt.
        max_tokens: Completion tokens to ask for, exactly where the server can.
    """

    prompt: str
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go, and which fields the server takes.

    Attributes:
        length_fields: One of LENGTH_FIELDS.
        asks_usage: Whether `stream_options.include_usage` is sent.
    """

    model: str
    endpoint: Endpoint = "chat"
    temperature: float = 0.0
    length_fields: tuple[str, ...] = LENGTH_FIELDS[0]
    asks_usage: bool = True

    @property
    def path(self) -> str:
        """The route of the endpoint."""
        return PATHS[self.endpoint]

    def body(self, task: Task) -> dict[str, Any]:
        """Return the JSON of a streamed request."""
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": task.max_tokens,
            "temperature": self.temperature,
            "stream": True,
        }
        if self.endpoint == "chat":
            body["messages"] = [{"role": "user", "content": task.prompt}]
        else:
            body["prompt"] = task.prompt
        if self.asks_usage:
            body["stream_options"] = {"include_usage": True}
        values: dict[str, Any] = {"ignore_eos": True, "min_tokens": task.max_tokens}
        return body | {name: values[name] for name in self.length_fields}


@dataclass(slots=True)
class Measurement:
    """What one request took; times in seconds of `time.perf_counter`.

    Attributes:
        error: The kind of failure, None when a whole answer came: `http_429` and so on,
            `connect`, `timeout`, `broken_stream` (the connection ended inside it), `error_event`,
            `bad_event`, `no_done` (it merely ended), `no_text`.
        detail: The server's words about the failure.
        text_times: When each piece of text came.
        usage: The server's own counts, where it sent them.
    """

    started_s: float
    ended_s: float = 0.0
    error: str | None = None
    detail: str = ""
    text_times: list[float] = field(default_factory=list)
    usage: dict[str, Any] = field(default_factory=dict)

    @property
    def ttft_s(self) -> float:
        """From the start to the first piece of text."""
        return self.text_times[0] - self.started_s

    @property
    def e2e_s(self) -> float:
        """From the start to the end of the stream."""
        return self.ended_s - self.started_s

    @property
    def itls_s(self) -> list[float]:
        """Every gap between two pieces of text."""
        return [later - earlier for earlier, later in pairwise(self.text_times)]

    @property
    def num_prompt_tokens(self) -> int:
        """As the server counted; 0 where it did not."""
        return int(self.usage.get("prompt_tokens") or 0)

    @property
    def num_completion_tokens(self) -> int:
        """As the server counted; else the pieces of text, which may hold several tokens each."""
        return int(self.usage.get("completion_tokens") or len(self.text_times))


class ServerClient:
    """Talks to one server; use it as an async context manager.

    Args:
        timeout_s: Longest wait for a byte.
        needs_done: Whether only `[DONE]` ends a whole answer; else a finish_reason does too.

    Raises:
        SettingsError: The URL is none.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 600.0,
        needs_done: bool = True,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._needs_done = needs_done
        self.url = url.rstrip("/").removesuffix("/v1")
        try:
            self._http = httpx.AsyncClient(
                base_url=self.url,
                headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
                timeout=httpx.Timeout(timeout_s, connect=10),
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
                transport=transport,
                trust_env=False,  # a proxy in between would be measured too
            )
        except httpx.InvalidURL as error:
            raise SettingsError(f"--url={url!r}: {error}") from None

    async def __aenter__(self) -> ServerClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def first_model(self) -> str:
        """Return the first name of /v1/models.

        Raises:
            Unavailable: The server does not answer, or serves nothing.
        """
        try:
            response = await self._http.get("/v1/models")
            response.raise_for_status()
            return str(response.json()["data"][0]["id"])
        except httpx.HTTPError as error:
            raise Unavailable(f"{self.url}/v1/models: {str(error) or repr(error)}") from None
        except (ValueError, LookupError, TypeError):
            raise Unavailable(f"{self.url}/v1/models names no model; use --model") from None

    async def measure(
        self, target: Target, task: Task, started_s: float | None = None
    ) -> Measurement:
        """Make one request and read its stream to the end; a failure is told, never raised."""
        measured = Measurement(time.perf_counter() if started_s is None else started_s)
        try:
            async with self._post(target.path, orjson.dumps(target.body(task))) as response:
                if response.status_code != 200:
                    await response.aread()
                    _fail(measured, f"http_{response.status_code}", response.text)
                else:
                    end = await _read_stream(measured, response.aiter_bytes())
                    _judge(measured, end, needs_done=self._needs_done)
        except httpx.ConnectError as error:
            _fail(measured, "connect", str(error))
        except httpx.TimeoutException as error:
            _fail(measured, "timeout", repr(error))
        except httpx.RequestError as error:
            _fail(measured, "broken_stream", repr(error))
        except BadEvent as error:
            _fail(measured, "bad_event", str(error))
        measured.ended_s = time.perf_counter()
        return measured

    @asynccontextmanager
    async def _post(self, path: str, body: bytes) -> AsyncIterator[httpx.Response]:
        """Send a request, once more if there was no response at all.

        A server may end a connection that it had kept at the very moment it is used again.
        """
        headers = {"content-type": "application/json"}
        request = self._http.build_request("POST", path, content=body, headers=headers)
        try:
            response = await self._http.send(request, stream=True)
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
            response = await self._http.send(request, stream=True)
        try:
            yield response
        finally:
            await response.aclose()


async def _read_stream(measured: Measurement, parts: AsyncIterator[bytes]) -> End:
    """Note when text came and what was counted; return how the stream ended."""
    splitter = EventSplitter()
    end: End = "cut"
    async for part in parts:
        now = time.perf_counter()
        for data in splitter.feed(part):
            event = read_event(data)
            if event.error is not None:
                _fail(measured, "error_event", event.error)
            if event.text:
                measured.text_times.append(now)
            measured.usage = event.usage or measured.usage
            if event.is_done:
                end = "done"
            elif event.is_finish and end == "cut":
                end = "finished"
    return end


def _judge(measured: Measurement, end: End, *, needs_done: bool) -> None:
    if measured.error is not None:
        return
    if end == "cut" or (end == "finished" and needs_done):
        hint = "; --no-done takes its finish_reason for the end" if end == "finished" else ""
        _fail(measured, "no_done", f"the stream ended without [DONE]{hint}")
    elif not measured.text_times:
        _fail(measured, "no_text", "a complete stream without any text")


def _fail(measured: Measurement, kind: str, detail: str) -> None:
    measured.error = kind
    measured.detail = detail[:300]


async def probe(
    client: ServerClient, target: Target, make_task: Callable[[], Task]
) -> tuple[Target, Measurement]:
    """Find the fields that the server takes, by trying; returns the target and the last answer.

    Raises:
        PalmaError: Not even the plainest request is answered.
    """
    refused = Measurement(0.0)
    for asks_usage in (True, False):
        for length_fields in LENGTH_FIELDS:
            tried = replace(target, length_fields=length_fields, asks_usage=asks_usage)
            measured = await client.measure(tried, make_task())
            if measured.error is None or measured.error not in ("http_400", "http_422"):
                return tried, _answered(client, measured)
            refused = measured
    raise PalmaError(f"{client.url} refuses even a plain request: {refused.detail}")


def _answered(client: ServerClient, measured: Measurement) -> Measurement:
    if measured.error in (None, "no_text"):
        return measured
    raise Unavailable(f"{client.url}: {measured.error}: {measured.detail}")
