"""Functions that responses call, judged by the official client with strict validation."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from openai import pydantic_responses_function_tool
from pydantic import BaseModel, Field

from palma.core.errors import EngineFailure
from palma.core.types import FinishReason
from palma.engine.base import TokenDelta
from palma.engine.mock import MockEngine
from palma.engine.thread_scheduler import Sequence
from tests.api.dialects.responses_client import (
    WHOLE_STREAM,
    ask,
    ask_palmita,
    assert_refused_by_name,
    sdk,
)
from tests.live_server import LiveServer, running_server, unharmed_neighbour, wait_until
from tests.spy_engine import Spy

WEATHER: dict[str, Any] = {
    "type": "function",
    "name": "weather",
    "description": "The weather in a city.",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "enum": ["Paris", "Oslo"]},
            "days": {"type": "integer", "minimum": 1, "maximum": 9},
        },
        "required": ["city", "days"],
        "additionalProperties": False,
    },
    "strict": True,
}

CLOCK = {"type": "function", "name": "clock", "parameters": None, "strict": None}

PARIS: dict[str, Any] = {"city": "Paris", "days": 3}

CALLED = [
    "response.output_item.added",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
    "response.output_item.done",
]
"""The kinds of events of a call; each delta after the first is left out."""


class Weather(BaseModel):
    """The weather in a city."""

    city: Literal["Paris", "Oslo"]
    days: int = Field(ge=1, le=9)


def call(name: str = "weather", **arguments: Any) -> str:
    """Return a call as the mock engine says it."""
    text = json.dumps({"name": name, "arguments": arguments})
    return f"<tool_call>\n{text}\n</tool_call>"


CALL = call(**PARIS)


@pytest.fixture(scope="module")
def client(mock_server: LiveServer) -> Iterator[Any]:
    with sdk(mock_server) as client:
        yield client


@pytest.fixture(scope="module")
def palmita(palmita_server: LiveServer) -> Iterator[Any]:
    with sdk(palmita_server) as client:
        yield client


def ask_tools(client: Any, content: Any, **kwargs: Any) -> Any:
    return ask(client, content, **{"tools": [WEATHER, CLOCK], **kwargs})


def output_of(item: Any, text: str) -> dict[str, str]:
    """Return what the function of a call returned."""
    return {"type": "function_call_output", "call_id": item.call_id, "output": text}


def without_ids(value: Any) -> Any:
    """Return a response's JSON without what is another one every time."""
    if isinstance(value, list):
        return [without_ids(item) for item in value]
    if not isinstance(value, dict):
        return value
    names = value.keys() - {"id", "call_id", "created_at", "completed_at"}
    return {name: without_ids(value[name]) for name in names}


def test_a_function_is_called(client: Any) -> None:
    response = ask_tools(client, f"say {CALL}")

    (item,) = response.output
    assert (item.type, item.name, item.status) == ("function_call", "weather", "completed")
    assert json.loads(item.arguments) == PARIS
    assert re.fullmatch("fc_[0-9a-f]{48}", item.id)
    assert re.fullmatch("call_[0-9a-f]{24}", item.call_id)
    assert (response.status, response.output_text) == ("completed", "")
    assert response.usage.output_tokens > len(CALL)


def test_what_was_offered_is_repeated(client: Any) -> None:
    response = ask_tools(client, "say x", parallel_tool_calls=False)
    allowed = {
        "type": "allowed_tools",
        "mode": "auto",
        "tools": [{"type": "function", "name": "clock"}],
    }

    weather, clock = response.tools
    assert {**weather.to_dict()} == WEATHER
    assert (clock.name, clock.parameters, clock.strict) == ("clock", None, None)
    assert (response.tool_choice, response.parallel_tool_calls) == ("auto", False)
    assert ask(client, "say x").tools == []
    for choice in ("none", allowed):
        repeated = ask_tools(client, "say x", tool_choice=choice).tool_choice
        assert (repeated if choice == "none" else repeated.to_dict()) == choice


@pytest.mark.parametrize(
    ("content", "kinds"),
    [
        (CALL, ["function_call"]),
        (f"Let me look.{CALL}", ["message", "function_call"]),
        (f"{CALL}\n{call('clock')}", ["function_call", "function_call"]),
        (f"añb🏴‍☠️ {call(city='Zürich ☔', days=1)}", ["message", "function_call"]),
        ("no call at all <tool_ca", ["message"]),
    ],
)
def test_a_stream_of_calls_equals_the_whole_response(
    client: Any, content: str, kinds: list[str]
) -> None:
    whole = ask_tools(client, f"say {content}")

    events = list(ask_tools(client, f"say {content}", stream=True))

    last = events[-1].response
    assert [item.type for item in last.output] == kinds
    assert without_ids(last.to_dict()) == without_ids(whole.to_dict())
    assert [event.sequence_number for event in events] == list(range(len(events)))
    expected = [CALLED if kind == "function_call" else WHOLE_STREAM[2:-1] for kind in kinds]
    seen = [event.type for event in events]
    names = [name for n, name in enumerate(seen) if name != seen[n - 1] or "delta" not in name]
    assert names == [
        *WHOLE_STREAM[:2],
        *(name for names in expected for name in names),
        "response.completed",
    ]
    for index, item in enumerate(last.output):
        assert item.status == "completed"
        own = [event for event in events if getattr(event, "output_index", None) == index]
        added, *_, done = own
        assert (added.item.status, added.item.id, done.item) == ("in_progress", item.id, item)
        assert {event.item_id for event in own if hasattr(event, "item_id")} == {item.id}
        if item.type == "function_call":
            deltas = [event.delta for event in own if event.type.endswith("arguments.delta")]
            assert "".join(deltas) == item.arguments == own[-2].arguments
            assert (added.item.arguments, added.item.name) == ("", item.name)
            assert added.item.call_id == item.call_id


def test_a_call_whose_tokens_run_out_is_incomplete(client: Any) -> None:
    cut = {"max_output_tokens": CALL.index("Paris")}
    response = ask_tools(client, f"say {CALL}", **cut)
    *_, done, last = ask_tools(client, f"say {CALL}", stream=True, **cut)

    (item,) = response.output
    assert (response.status, item.status) == ("incomplete", "incomplete")
    assert response.incomplete_details.reason == "max_output_tokens"
    assert item.arguments in json.dumps(PARIS)
    assert (last.type, done.item.status) == ("response.incomplete", "incomplete")
    again = ask_tools(client, [*response.output, {"role": "user", "content": "say so"}])
    assert again.output_text == "so"  # a call that was cut off was never made
    assert ask_tools(client, "say so", previous_response_id=response.id).output_text == "so"


@pytest.mark.parametrize("keeps", ["nothing", "responses", "conversation"])
@pytest.mark.parametrize("stream", [False, True])
def test_an_agent_goes_three_turns(client: Any, keeps: str, stream: bool) -> None:
    conversation = client.conversations.create() if keeps == "conversation" else None
    fields: dict[str, Any] = {} if conversation is None else {"conversation": conversation.id}
    said: list[Any] = []
    new: list[Any] = [{"role": "user", "content": f"say {call(city='Oslo', days=1)}"}]
    for result in (f"say {CALL}", f"say {call('clock')}", "count to 3", None):
        content = [*said, *new] if keeps == "nothing" else new
        last = ask_tools(client, content, stream=stream, **fields)
        if stream:
            last = list(last)[-1].response
        if result is None:
            break
        (item,) = last.output
        said += [*new, item]
        new = [output_of(item, result)]
        if keeps == "responses":
            fields = {"previous_response_id": last.id}

    assert last.output_text.startswith("1 2 3")
    items = list(client.responses.input_items.list(last.id, order="asc"))
    assert [item.type for item in items] == [
        "message",
        *["function_call", "function_call_output"] * 3,
    ]
    calls = [item for item in items if item.type == "function_call"]
    assert [item.name for item in calls] == ["weather", "weather", "clock"]
    assert [item.call_id for item in items[2::2]] == [item.call_id for item in calls]
    if conversation is not None:
        kept = list(client.conversations.items.list(conversation.id, order="asc"))
        assert [item.id for item in kept[:-1]] == [item.id for item in items]


def test_a_call_may_be_sent_back_however_the_client_writes_it(client: Any) -> None:
    (item,) = ask_tools(client, f"say {CALL}").output

    for written in (item, item.to_dict(), item.model_dump(), item.model_dump(by_alias=True)):
        response = ask_tools(client, [written, output_of(item, "count to 2")])
        assert response.output_text.startswith("1 2")


def test_what_a_function_returned_is_read_by_the_model(client: Any) -> None:
    first = ask_tools(client, f"say {CALL}")

    parts = [{"type": "input_text", "text": "count "}, {"type": "input_text", "text": "to 4"}]
    outputs = [output_of(first.output[0], "count to 4"), output_of(first.output[0], "")]
    outputs[1]["output"] = parts  # type: ignore[assignment]

    for output in outputs:
        second = ask_tools(client, [output], previous_response_id=first.id)
        assert second.output_text.startswith("1 2 3 4")
    stored = client.responses.input_items.list(second.id, limit=1).data[0]
    assert (stored.output, stored.status) == ("count to 4", "completed")


def test_a_stored_call_is_read_as_it_was_answered(client: Any) -> None:
    response = ask_tools(client, f"say Well.{CALL}")

    assert client.responses.retrieve(response.id) == response
    again = ask(client, "say x", previous_response_id=response.id)
    items = list(client.responses.input_items.list(again.id, order="asc"))
    assert [item.to_dict() for item in items[1:3]] == [o.to_dict() for o in response.output]


def test_a_call_in_the_background_is_polled_and_streamed_again(client: Any) -> None:
    order = f"slowly say {CALL}"
    begun = ask_tools(client, order, background=True)
    wait_until(lambda: client.responses.retrieve(begun.id).status == "completed", "it ends")
    events = list(ask_tools(client, order, background=True, stream=True))

    (item,) = client.responses.retrieve(begun.id).output
    assert json.loads(item.arguments) == PARIS
    response_id = events[0].response.id
    assert list(client.responses.retrieve(response_id, stream=True)) == events
    assert events[-1].response.output[0].arguments == item.arguments


def test_a_cancelled_call_keeps_what_was_said(mock_server: LiveServer, client: Any) -> None:
    order = f"slowly say {call(city='x' * 10_000)}"
    begun = ask_tools(client, order, background=True, stream=True)
    response_id = next(begun).response.id
    next(event for event in begun if event.type.endswith("arguments.delta"))

    with unharmed_neighbour(mock_server):
        cancelled = client.responses.cancel(response_id)

    (item,) = cancelled.output
    assert (cancelled.status, item.status, item.name) == ("cancelled", "incomplete", "weather")
    assert '{"city": "x'.startswith(item.arguments[:11])


class BrokenEngine(MockEngine):
    """A mock that breaks in the middle of a call."""

    def _decode(self, sequence: Sequence) -> FinishReason:
        for token_id in CALL[: CALL.index("days")].encode():
            sequence.emit(TokenDelta(token_ids=(token_id,)))
        raise EngineFailure("broken on purpose")


def test_a_failure_amid_a_call_keeps_what_was_said() -> None:
    with (
        running_server(load=Spy(make_engine=BrokenEngine).load) as server,
        sdk(server) as client,
    ):
        *_, error, failed = ask_tools(client, "Go.", stream=True)
        with pytest.raises(openai.InternalServerError):
            ask_tools(client, "Go.")
        again = ask_tools(client, "Go.", background=True)
        wait_until(lambda: client.responses.retrieve(again.id).status == "failed", "it fails")

    assert (error.type, error.code, failed.type) == ("error", "engine_error", "response.failed")
    (item,) = failed.response.output
    assert (item.type, item.status) == ("function_call", "incomplete")
    assert item.arguments.startswith('{"city": "Paris"')


def test_the_clients_parser_makes_models_of_calls(client: Any) -> None:
    tools = [pydantic_responses_function_tool(Weather, name="weather")]
    fields = {"model": "mock", "tools": tools}

    response = client.responses.parse(**fields, input=f"say {CALL}")
    with client.responses.stream(**fields, input=f"say {CALL}") as stream:
        snapshots = [e.snapshot for e in stream if e.type.endswith("arguments.delta")]
        final = stream.get_final_response()

    for parsed in (response, final):
        assert parsed.output[0].parsed_arguments == Weather(city="Paris", days=3)
    assert snapshots[-1] == final.output[0].arguments
    answered = [*response.output, output_of(response.output[0], "count to 2")]
    again = client.responses.parse(**fields, input=answered)
    assert again.output_text.startswith("1 2")


def test_tools_that_are_not_to_be_called_are_not(client: Any) -> None:
    none = ask_tools(client, f"say {CALL}", tool_choice="none")

    assert none.output_text == CALL
    assert none.usage.input_tokens == ask(client, f"say {CALL}").usage.input_tokens
    assert ask_tools(client, "hi").usage.input_tokens > ask(client, "hi").usage.input_tokens
    one = {
        "type": "allowed_tools",
        "mode": "auto",
        "tools": [{"type": "function", "name": "clock"}],
    }
    allowed = ask_tools(client, "hi", tool_choice=one).usage.input_tokens
    assert allowed == ask(client, "hi", tools=[CLOCK]).usage.input_tokens


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", {"weather", "clock"}),
        ({"type": "function", "name": "weather"}, {"weather"}),
        ({"type": "function", "name": "clock"}, {"clock"}),
        (
            {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "function", "name": "clock"}],
            },
            {"clock"},
        ),
    ],
)
def test_a_call_that_is_demanded_is_made(palmita: Any, choice: Any, names: set[str]) -> None:
    asked = {"tools": [WEATHER, CLOCK], "tool_choice": choice, "max_output_tokens": 200}
    for parallel in (True, False):
        whole = ask_palmita(palmita, "Hello", parallel_tool_calls=parallel, **asked)
        *_, last = ask_palmita(palmita, "Hello", parallel_tool_calls=parallel, stream=True, **asked)

        assert whole.status == "completed"
        assert without_ids(whole.to_dict()) == without_ids(last.response.to_dict())
        assert {item.type for item in whole.output} == {"function_call"}
        assert {item.name for item in whole.output} <= names
        assert parallel or len(whole.output) == 1
        for item in whole.output:
            arguments = json.loads(item.arguments)
            assert arguments == {} if item.name == "clock" else Weather(**arguments)


@pytest.mark.parametrize("seed", range(3))
def test_with_a_form_and_tools_it_is_a_call_or_text_of_that_form(palmita: Any, seed: int) -> None:
    form = {"type": "json_schema", "name": "n", "schema": {"const": {"n": 7}}}
    fields = {"text": {"format": form}, "tools": [CLOCK], "parallel_tool_calls": False}

    response = ask(palmita, "Hello", model="palmita", extra_body={"seed": seed}, **fields)

    (item,) = response.output
    made = item.arguments if item.type == "function_call" else response.output_text
    assert json.loads(made) == ({} if item.type == "function_call" else {"n": 7})


def test_a_conversation_takes_calls_and_their_outputs(client: Any, mock_server: LiveServer) -> None:
    made = {"type": "function_call", "call_id": "c1", "name": "clock", "arguments": ""}
    output = {"type": "function_call_output", "call_id": "c1", "output": "noon"}
    conversation = client.conversations.create(items=[made])
    path = f"/v1/conversations/{conversation.id}/items"

    added = client.conversations.items.create(conversation.id, items=[output])

    (item,) = added.data
    assert (item.type, item.call_id, item.output) == ("function_call_output", "c1", "noon")
    found = client.conversations.items.retrieve(item.id, conversation_id=conversation.id)
    assert found.to_dict() == item.to_dict()
    for refused in (
        mock_server.post(path, {"items": [{**output, "call_id": "c2"}]}),
        mock_server.post("/v1/conversations", {"items": [output]}),
    ):
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "items.0.call_id"


def test_a_conversation_whose_call_was_deleted_says_what_is_wrong(client: Any) -> None:
    made = {"type": "function_call", "call_id": "c1", "name": "clock", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "c1", "output": "noon"}
    conversation = client.conversations.create(items=[made, output])
    items = list(client.conversations.items.list(conversation.id, order="asc"))
    client.conversations.items.delete(items[0].id, conversation_id=conversation.id)

    with pytest.raises(openai.BadRequestError, match=items[1].id):
        ask(client, "say x", conversation=conversation.id)


def test_turns_with_calls_are_dropped_as_a_whole() -> None:
    made = {"type": "function_call", "call_id": "c1", "name": "clock", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "c1", "output": "x" * 100}
    question = {"role": "user", "content": "y" * 100}
    with running_server(max_model_len=400) as server, sdk(server) as client:
        whole = ask(client, [question, made, output, question, question], truncation="auto")
        items = list(client.responses.input_items.list(whole.id, order="asc"))

    assert whole.truncated_items == [item.id for item in items[:3]]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tools": [{"type": "file_search", "vector_store_ids": ["x"]}]}, "tools.0.type"),
        ({"tools": [{"type": "mcp", "server_label": "x"}]}, "tools.0.type"),
        ({"tools": [{"type": "custom", "name": "x"}]}, "tools.0.type"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools.0.name"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools.0.name"),
        ({"tools": [{**CLOCK, "parameters": {"type": "string"}}]}, "tools.0.parameters"),
        ({"tools": [{**CLOCK, "defer_loading": True}]}, "tools.0.defer_loading"),
        ({"tools": [{**CLOCK, "async": True}]}, "tools.0.async"),
        ({"tools": [CLOCK, CLOCK]}, "tools.1"),
        ({"tools": [{**CLOCK, "name": f"clock_{n}"} for n in range(1000)]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [CLOCK], "tool_choice": "some"}, "tool_choice"),
        ({"tools": [CLOCK], "tool_choice": {"type": "mcp"}}, "tool_choice.type"),
        ({"tools": [CLOCK], "tool_choice": {"type": "function", "name": "x"}}, "tool_choice"),
        ({"tools": [CLOCK], "tool_choice": {"type": "function"}}, "tool_choice"),
        ({"tools": [CLOCK], "tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
        ({"tools": [CLOCK], "max_tool_calls": 1}, "max_tool_calls"),
        (
            {"input": [{"type": "function_call_output", "call_id": "x", "output": "y"}]},
            "input.0.call_id",
        ),
        (
            {
                "input": [
                    {"type": "function_call", "call_id": "x", "name": "f", "arguments": "[1]"},
                ]
            },
            "input.0.arguments",
        ),
        (
            {
                "input": [
                    {
                        "type": "function_call_output",
                        "call_id": "x",
                        "output": [{"type": "input_image", "image_url": "x"}],
                    }
                ]
            },
            "input.0.output.0.type",
        ),
        (
            {"input": [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "x"}]}]},
            "input.0.summary",
        ),
        ({"input": [{"type": "reasoning", "encrypted_content": "x"}]}, "input.0.encrypted_content"),
        ({"input": [{"type": "web_search_call", "id": "x"}]}, "input.0.type"),
    ],
)
def test_what_cannot_be_called_is_refused_by_name(
    mock_server: LiveServer, fields: dict[str, Any], param: str
) -> None:
    assert_refused_by_name(mock_server, fields, param)


def test_a_schema_that_cannot_be_held_is_refused_by_its_tools_name(palmita: Any) -> None:
    endless = {"type": "object", "properties": {"x": {"$ref": "https://example.org/x.json"}}}

    with pytest.raises(openai.BadRequestError, match="clock"):
        ask_palmita(palmita, "hi", tools=[WEATHER, {**CLOCK, "parameters": endless}])
