"""Tools in chat completions of a random model: it calls nothing sensible unless held to it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Executor
from typing import Any

import jsonschema
import pytest
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk

from palma.engine.base import Engine
from tests.live_server import LiveServer, running_server, user
from tests.spy_engine import Spy
from tests.structured_models import random_engine

PATH = "/v1/chat/completions"

TRIP: dict[str, Any] = {
    "type": "object",
    "properties": {
        "to": {"enum": ["Paris", "Rome", "Oslo"]},
        "nights": {"type": "integer", "minimum": 1, "maximum": 30},
        "note": {"type": "string", "maxLength": 8},
        "stops": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
    },
    "required": ["to", "nights"],
    "additionalProperties": False,
}
RANDOM_TOOLS = [
    {"type": "function", "function": {"name": "book", "description": "", "parameters": TRIP}},
    {"type": "function", "function": {"name": "stop"}},
]
SCHEMAS = {"book": TRIP, "stop": {"type": "object", "maxProperties": 0}}


@pytest.fixture(scope="module", params=["threads", "continuous"])
def random_server(request: pytest.FixtureRequest) -> Iterator[LiveServer]:
    """A server with the random model on either engine."""

    def make(executor: Executor, max_running: int) -> Engine:
        return random_engine(request.param, executor, max_running, max_model_len=1024)

    with running_server(load=Spy(make_engine=make).load, engine=request.param) as server:
        yield server


def calls_of(server: LiveServer, **fields: Any) -> tuple[list[tuple[str, str]], str]:
    """Return the calls of an answer, and why it ended; its stream must say the same."""
    body = {
        "model": "palmita",
        "messages": user("Go."),
        "tools": RANDOM_TOOLS,
        "max_tokens": 120,
        **fields,
    }
    response = server.post(PATH, body)
    assert response.status_code == 200, response.text
    (choice,) = response.json()["choices"]
    state = ChatCompletionStreamState()
    for event in server.events(PATH, {**body, "stream": True})[:-1]:
        state.handle_chunk(ChatCompletionChunk.model_validate(event))
    streamed = state.current_completion_snapshot.choices[0]
    message = choice["message"]
    calls = [tuple(call["function"].values()) for call in message.get("tool_calls", ())]
    assert streamed.finish_reason == choice["finish_reason"]
    assert streamed.message.content == message["content"]
    assert [
        (call.function.name, call.function.arguments) for call in streamed.message.tool_calls or ()
    ] == calls
    return calls, choice["finish_reason"]


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize(
    "seeds",
    [
        range(5),
        pytest.param(range(5, 105), marks=[pytest.mark.slow, pytest.mark.timeout(600)]),
    ],
    ids=str,
)
def test_required_calls_are_valid_whatever_the_model_would_say(
    random_server: LiveServer, parallel: bool, seeds: range
) -> None:
    names = set()
    for seed in seeds:
        calls, reason = calls_of(
            random_server, tool_choice="required", parallel_tool_calls=parallel, seed=seed
        )

        assert reason in ("tool_calls", "length")
        whole = calls if reason == "tool_calls" else calls[:-1]
        assert whole or reason == "length"
        assert parallel or len(calls) <= 1
        for name, arguments in whole:
            jsonschema.validate(json.loads(arguments), SCHEMAS[name])
            names.add(name)
    assert names == {"book", "stop"}


def test_a_named_tool_is_the_one_that_is_called(random_server: LiveServer) -> None:
    for name, schema in SCHEMAS.items():
        for seed in range(3):
            calls, reason = calls_of(
                random_server,
                tool_choice={"type": "function", "function": {"name": name}},
                parallel_tool_calls=False,
                seed=seed,
                max_tokens=300,
            )

            assert reason == "tool_calls"
            ((called, arguments),) = calls
            assert called == name
            jsonschema.validate(json.loads(arguments), schema)


def test_beside_a_schema_an_answer_is_a_call_or_text_of_that_form(
    random_server: LiveServer,
) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    called, said_so = 0, 0
    for seed in range(8):
        body = {"model": "palmita", "messages": user("Go."), "max_tokens": 300, "seed": seed}

        response = random_server.post(
            PATH, {**body, "tools": RANDOM_TOOLS, "response_format": form}
        )

        (choice,) = response.json()["choices"]
        if choice["finish_reason"] == "tool_calls":
            called += 1
            assert choice["message"]["content"] is None
            for call in choice["message"]["tool_calls"]:
                arguments = json.loads(call["function"]["arguments"])
                jsonschema.validate(arguments, SCHEMAS[call["function"]["name"]])
        elif choice["finish_reason"] == "stop":
            said_so += 1
            jsonschema.validate(json.loads(choice["message"]["content"]), schema)
    assert called
    assert said_so
