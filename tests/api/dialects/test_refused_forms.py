"""Forms of answers that no dialect takes: beside a call that must come, or too costly to follow."""

from __future__ import annotations

from typing import Any

import pytest

from tests.live_server import LiveServer, user

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
COSTLY = {
    "type": "object",
    "properties": {"a": {"type": "string", "pattern": "(a{1,1000}){1,1000}"}},
}

FORM = {"type": "json_schema", "json_schema": {"name": "form", "schema": SCHEMA}}
FLAT_FORM = {"type": "json_schema", "name": "form", "schema": SCHEMA}


def function(parameters: dict[str, Any] = SCHEMA) -> dict[str, Any]:
    return {"name": "zebra", "parameters": parameters}


def chat(**fields: Any) -> tuple[str, dict[str, Any]]:
    offered = [{"type": "function", "function": function()}]
    body = {"model": "palmita", "messages": user("Hi"), "tools": offered}
    return "/v1/chat/completions", {**body, **fields}


def old_chat(**fields: Any) -> tuple[str, dict[str, Any]]:
    body = {"model": "palmita", "messages": user("Hi"), "functions": [function()]}
    return "/v1/chat/completions", {**body, **fields}


def responses(**fields: Any) -> tuple[str, dict[str, Any]]:
    offered = [{"type": "function", **function()}]
    return "/v1/responses", {"model": "palmita", "input": "Hi", "tools": offered, **fields}


def anthropic(**fields: Any) -> tuple[str, dict[str, Any]]:
    offered = [{"name": "zebra", "input_schema": SCHEMA}]
    body = {"model": "palmita", "max_tokens": 20, "messages": user("Hi"), "tools": offered}
    return "/v1/messages", {**body, **fields}


def llama_stack(**fields: Any) -> tuple[str, dict[str, Any]]:
    offered = [{"tool_name": "zebra", "parameters": {"a": {"param_type": "int"}}}]
    body = {"model_id": "palmita", "messages": user("Hi"), "tools": offered}
    form = {"type": "json_schema", "json_schema": SCHEMA}
    return "/v1/inference/chat-completion", {**body, "response_format": form, **fields}


NAMED = {"type": "function", "function": {"name": "zebra"}}
ALLOWED = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [NAMED]}}
ANTHROPIC_FORM = {"format": {"type": "json_schema", "schema": SCHEMA}}

CASES = [
    (chat(tool_choice="required", response_format=FORM), "response_format.json_schema.schema"),
    (chat(tool_choice=NAMED, response_format={"type": "json_object"}), "response_format"),
    (chat(tool_choice=ALLOWED, response_format=FORM), "response_format.json_schema.schema"),
    (chat(tool_choice="required", choice=["a"]), "choice"),
    (old_chat(function_call={"name": "zebra"}, response_format=FORM), "response_format"),
    (responses(tool_choice="required", text={"format": FLAT_FORM}), "text.format.schema"),
    (
        anthropic(tool_choice={"type": "any"}, output_config=ANTHROPIC_FORM),
        "output_config.format.schema",
    ),
    (
        anthropic(tool_choice={"type": "tool", "name": "zebra"}, output_config=ANTHROPIC_FORM),
        "output_config.format.schema",
    ),
    (llama_stack(tool_choice="required"), "response_format"),
    (llama_stack(tool_config={"tool_choice": "zebra"}), "response_format"),
]


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("asked", "named"), CASES, ids=range(len(CASES)))
def test_a_form_of_text_is_refused_by_name_where_a_call_is_required(
    palmita_server: LiveServer,
    asked: tuple[str, dict[str, Any]],
    named: str,
    streams: bool,
) -> None:
    path, body = asked

    response = palmita_server.post(path, {**body, "stream": streams})

    assert response.status_code == 400
    assert named in response.text
    assert "leave it out" in response.text


def test_the_same_form_beside_a_free_choice_is_taken(palmita_server: LiveServer) -> None:
    path, body = chat(tool_choice="auto", response_format=FORM, max_tokens=40)

    assert palmita_server.post(path, body).status_code == 200


COSTLY_TOOLS = [
    chat(tools=[{"type": "function", "function": function(COSTLY)}]),
    old_chat(functions=[function(COSTLY)]),
    responses(tools=[{"type": "function", **function(COSTLY)}]),
    anthropic(tools=[{"name": "zebra", "input_schema": COSTLY}]),
    ("/api/chat", {**chat()[1], "tools": [{"type": "function", "function": function(COSTLY)}]}),
    chat(tools=None, response_format={**FORM, "json_schema": {"name": "form", "schema": COSTLY}}),
]


@pytest.mark.parametrize(("path", "body"), COSTLY_TOOLS)
def test_a_pattern_that_is_too_costly_is_refused_wherever_it_stands(
    palmita_server: LiveServer, path: str, body: dict[str, Any]
) -> None:
    response = palmita_server.post(path, body)

    assert response.status_code == 400
    assert "(a{1,1000}){1,1000}" in response.text
