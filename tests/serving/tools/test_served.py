"""Tools over HTTP with palmita: held to their schemas, or refused by the tool's name."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from tests.live_server import LiveServer, Neighbour, unharmed_neighbour, user

PATH = "/v1/chat/completions"
PARAMETERS = {
    "type": "object",
    "properties": {
        "location": {"type": "string", "maxLength": 12},
        "unit": {"enum": ["celsius", "fahrenheit"]},
    },
    "required": ["location"],
}


def tool(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Return a tool in OpenAI's form."""
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


WEATHER = tool("get_weather", PARAMETERS)


def body(*tools: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return a request that offers tools."""
    messages = [{"role": "user", "content": "How is the weather in Oslo?"}]
    return {
        "model": "palmita",
        "messages": messages,
        "tools": list(tools),
        "max_tokens": 200,
        "seed": 3,
        **fields,
    }


def choice(server: LiveServer, request: dict[str, Any]) -> dict[str, Any]:
    """Return the only choice of an answer."""
    response = server.post(PATH, request)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()["choices"][0]
    return found


@pytest.mark.parametrize(
    "tool_choice", ["required", {"type": "function", "function": {"name": "get_weather"}}]
)
def test_a_call_that_must_be_made_is_what_its_schema_describes(
    palmita_server: LiveServer, tool_choice: Any
) -> None:
    answer = choice(palmita_server, body(WEATHER, tool("f", {}), tool_choice=tool_choice))

    assert answer["message"]["content"] is None
    call = answer["message"]["tool_calls"][0]["function"]
    if answer["finish_reason"] == "tool_calls":
        schemas = {"get_weather": {**PARAMETERS, "additionalProperties": False}, "f": {}}
        jsonschema.validate(json.loads(call["arguments"]), schemas[call["name"]])
    else:
        assert answer["finish_reason"] == "length"


def test_a_call_streams_as_it_is_made(palmita_server: LiveServer) -> None:
    request = body(WEATHER, tool_choice="required", parallel_tool_calls=False, temperature=0)
    whole = choice(palmita_server, request)["message"]["tool_calls"][0]["function"]

    events = palmita_server.events(PATH, {**request, "stream": True})

    deltas = [
        event["choices"][0]["delta"].get("tool_calls", [])
        for event in events
        if isinstance(event, dict)
    ]
    functions = [call["function"] for calls in deltas for call in calls]
    assert len(functions) > 2
    assert "".join(function.get("name") or "" for function in functions) == whole["name"]
    assert "".join(function.get("arguments") or "" for function in functions) == whole["arguments"]


def test_no_tools_are_told_of_where_none_may_be_called(palmita_server: LiveServer) -> None:
    plain = {**body(temperature=0), "tools": []}

    told = choice(palmita_server, body(WEATHER, tool_choice="none", temperature=0))

    assert told == choice(palmita_server, plain)


def test_an_answer_is_a_call_or_of_the_form_asked_for(palmita_server: LiveServer) -> None:
    form = {"type": "json_object"}

    answer = choice(palmita_server, body(WEATHER, response_format=form, temperature=0))

    if answer["finish_reason"] == "stop":
        assert isinstance(json.loads(answer["message"]["content"]), dict)
    else:
        assert answer["message"].get("tool_calls") or answer["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"properties": {"a": {"$ref": "http://127.0.0.1:9/x"}}}, "#/properties/a"),
        ({"$ref": "#"}, "circular"),
        ({"properties": {"a": {"type": "whole"}}}, "Invalid type"),
        ({"properties": {"a": {"const": 1, "enum": [2]}}, "required": ["a"]}, "nsatisfiable"),
        ({"properties": {"a": {"type": "string", "pattern": "(a)\\1"}}}, "backreferences"),
        ({"properties": {"a": {"multipleOf": 1_000_007, "type": "integer"}}}, "simpler"),
    ],
)
def test_the_tool_whose_schema_cannot_be_followed_is_named(
    palmita_server: LiveServer, parameters: dict[str, Any], reason: str
) -> None:
    request = {"messages": user("What is the capital of France?"), "temperature": 0}
    neighbour = Neighbour.heard_alone(palmita_server, request)

    with unharmed_neighbour(palmita_server, neighbour):
        response = palmita_server.post(PATH, body(WEATHER, tool("odd", parameters)))

    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, "tools")
    assert "'odd'" in error["message"]
    assert "get_weather" not in error["message"]
    assert reason in error["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"ignore_eos": True}, "ignore_eos"),
        ({"min_tokens": 5}, "min_tokens"),
        ({"grammar": 'start: "a"'}, "tools"),
    ],
)
def test_what_contradicts_tools_is_refused_by_name(
    palmita_server: LiveServer, fields: dict[str, Any], param: str
) -> None:
    response = palmita_server.post(PATH, body(WEATHER, **fields))

    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param)
    assert next(iter(fields)) in error["message"]
    assert "tools" in error["message"]


def test_a_result_of_no_call_is_refused(palmita_server: LiveServer) -> None:
    result = {"role": "tool", "tool_call_id": "call_9", "content": "rain"}
    request = body(WEATHER)

    response = palmita_server.post(PATH, {**request, "messages": [*request["messages"], result]})

    assert response.status_code == 400
    assert "call_9" in response.json()["error"]["message"]
