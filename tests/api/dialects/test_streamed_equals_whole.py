"""Every dialect that streams: an answer's pieces add up to the whole answer, greedy or seeded.

The model is palmita on the continuous engine. Anthropic and Falcon have no field for a seed: there
the engine gets one that is made from the prompt, so that a question is drawn alike each time.
"""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Iterator
from concurrent.futures import Executor
from typing import Any

import httpx
import pytest

from palma.api.app import DIALECTS
from palma.core.config import Settings
from palma.engine.base import Engine, EngineRequest
from palma.serving.registry import load_engine
from tests.api.dialects.streamed_ways import WAYS, Way
from tests.live_server import LiveServer, parse_event, running_server
from tests.spy_engine import Spy
from tests.test_served_palmita import model_and_tokenizer

PROMPTS = ("What is the capital of", "Tell me of pirates and the", "Ahoy! ½ a crew of 🏴‍☠️ and")
"""Beginnings: palmita has something to say to each, in a chat and as a text to continue."""

MAKES_NO_TEXT = {"/api/pull", "/v1/responses/{response_id}"}
"""The first streams how far a download is, the second what was streamed before."""


def seed_by_prompt(request: EngineRequest, prompt: str) -> EngineRequest:
    """Give a request without a seed that of its prompt."""
    params = request.sampling_params
    if params.seed is not None:
        return request
    seeded = dataclasses.replace(params, seed=zlib.crc32(prompt.encode()))
    return dataclasses.replace(request, sampling_params=seeded)


def load(settings: Settings, executor: Executor) -> Engine:
    """Load palmita behind a spy that sees to seeds."""
    spy = Spy(lambda executor, _: load_engine(settings, executor), change_request=seed_by_prompt)
    return spy.load(settings, executor)


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    model_and_tokenizer()  # imports that are slow on a busy machine: not while a server starts
    with running_server(load=load, engine="continuous", device="cpu") as server:
        yield server


def whole(server: LiveServer, way: Way, prompt: str, is_drawn: bool) -> Any:
    """Return what the whole answer says."""
    body = (way.whole_body or way.body)(prompt, is_drawn)
    response = server.post(way.whole_path, {**body, **way.says[1]})
    assert response.status_code == 200, response.text
    return way.read_whole(response.json())


def streamed(server: LiveServer, way: Way, prompt: str, is_drawn: bool) -> Any:
    """Return what the stream says, which comes in more than one piece."""
    body = {**way.body(prompt, is_drawn), **way.says[0]}
    with server.client.stream("POST", way.stream_path, json=body) as response:
        pieces = list(response.iter_text())
    assert response.status_code == 200, pieces
    assert len(pieces) > 1
    return way.read_stream(content_of(response, "".join(pieces)))


def content_of(response: httpx.Response, text: str) -> Any:
    """Return the objects of a stream of events or of lines; plain text as it is."""
    kind = response.headers["content-type"].partition(";")[0]
    if kind == "text/plain":
        return text
    lines = text.split("\n")
    if kind == "application/x-ndjson":
        return [json.loads(line) for line in lines if line]
    return [parse_event(line) for line in lines if line.startswith("data:")]


@pytest.mark.parametrize("is_drawn", [False, True], ids=["greedy", "seeded"])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_stream_adds_up_to_the_whole_answer(server: LiveServer, way: Way, is_drawn: bool) -> None:
    answers = [whole(server, way, prompt, is_drawn) for prompt in PROMPTS]

    assert [streamed(server, way, prompt, is_drawn) for prompt in PROMPTS] == answers
    assert len({str(answer) for answer in answers}) > 1


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_what_is_drawn_is_not_the_likeliest(server: LiveServer, way: Way) -> None:
    greedy = [whole(server, way, prompt, is_drawn=False) for prompt in PROMPTS]

    assert [whole(server, way, prompt, is_drawn=True) for prompt in PROMPTS] != greedy


def test_no_route_that_streams_is_left_out() -> None:
    streams = {
        operation.path.replace("{model:path}", "palmita")
        for dialect in DIALECTS
        for operation in dialect.operations
        if operation.event is not None
        or (operation.method == "POST" and operation.media_type != "text/event-stream")
    }

    assert {way.stream_path for way in WAYS} == streams - MAKES_NO_TEXT
