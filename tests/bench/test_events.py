"""Bytes of a stream to events, and events to what they say."""

from __future__ import annotations

import pytest

from palma.bench.events import BadEvent, EventSplitter, StreamEvent, read_event

STREAM = b'data: {"a":1}\r\n\r\n: ping\n\nevent: x\ndata:one\ndata: two\n\n\n\ndata: [DONE]\n\n'


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_are_the_same_however_the_bytes_are_cut(size: int) -> None:
    splitter = EventSplitter()
    parts = [STREAM[start : start + size] for start in range(0, len(STREAM), size)]

    assert [data for part in parts for data in splitter.feed(part)] == [
        b'{"a":1}',
        b"one\ntwo",
        b"[DONE]",
    ]


def test_an_event_that_the_server_never_finished_is_not_one() -> None:
    assert EventSplitter().feed(b'data: {"choices": []}\n') == []


@pytest.mark.parametrize(
    ("data", "event"),
    [
        (b"[DONE]", StreamEvent(is_done=True)),
        (b'{"choices":[{"delta":{"content":"hi"}}]}', StreamEvent("hi")),
        (b'{"choices":[{"delta":{"role":"assistant","content":""}}]}', StreamEvent()),
        (b'{"choices":[{"delta":{"content":null,"reasoning_content":"hm"}}]}', StreamEvent("hm")),
        (b'{"choices":[{"text":"hi","delta":null}],"usage":null}', StreamEvent("hi")),
        (b'{"choices":[],"usage":{"prompt_tokens":3}}', StreamEvent(usage={"prompt_tokens": 3})),
        (b'{"error":{"message":"no"}}', StreamEvent(error="{'message': 'no'}")),
    ],
)
def test_an_event_says(data: bytes, event: StreamEvent) -> None:
    assert read_event(data) == event


@pytest.mark.parametrize("data", [b"{", b"[1]", b'"x"', b'{"choices":["x"]}', b'{"choices":7}'])
def test_an_event_that_is_no_chunk_is_refused(data: bytes) -> None:
    with pytest.raises(BadEvent):
        read_event(data)
