"""Tools in Llama Stack's chat completion, as lines, as events and whole."""

from __future__ import annotations

import json
from typing import Any

import pytest

from palma.api.dialects.llama_stack.tools import ToolBody
from tests.live_server import LiveServer, parse_event, running_server, user
from tests.scripted_agent import call_text, following

CHATS = ("/inference/chat_completion", "/v1/inference/chat-completion")

CLOCK: dict[str, Any] = {
    "tool_name": "get_time",
    "description": "Tells the time.",
    "parameters": {"zone": {"param_type": "int", "description": "From Greenwich."}},
}


def body(content: Any, **fields: Any) -> dict[str, Any]:
    messages = content if isinstance(content, list) else user(content)
    params = {"max_tokens": 400}
    return {"model_id": "mock", "messages": messages, "tools": [CLOCK], **fields} | (
        {} if "sampling_params" in fields else {"sampling_params": params}
    )


def objects(server: LiveServer, path: str, asked: dict[str, Any]) -> list[Any]:
    with server.client.stream("POST", path, json={**asked, "stream": True}) as response:
        assert response.status_code == 200, response.read()
        is_lines = response.headers["content-type"] == "application/x-ndjson"
        lines = [line for line in response.iter_lines() if line]
    return [json.loads(line) if is_lines else parse_event(line) for line in lines]


def without_ids(calls: list[Any]) -> list[Any]:
    assert len({call["call_id"] for call in calls}) == len(calls)
    return [{**call, "call_id": None} for call in calls]


def ask(server: LiveServer, path: str, content: Any, **fields: Any) -> dict[str, Any]:
    """Return the message of a whole answer; the streamed pieces must add up to the same."""
    asked = body(content, **fields)
    message: dict[str, Any] = server.post(path, asked).json()["completion_message"]
    events = [each["event"] for each in objects(server, path, asked)]
    deltas = [event["delta"] for event in events]
    ends = [d for d in deltas if d.get("parse_status") in ("succeeded", "failed")]
    assert "".join(delta.get("text", "") for delta in deltas) == message["content"]
    assert without_ids([end["tool_call"] for end in ends]) == without_ids(message["tool_calls"])
    assert events[-1]["stop_reason"] == message["stop_reason"]
    return message


@pytest.mark.parametrize("path", CHATS)
def test_calls_are_in_the_message_with_their_arguments_twice(
    path: str, mock_server: LiveServer
) -> None:
    calls = "\n".join(call_text("get_time", zone=zone) for zone in (1, 2))

    message = ask(mock_server, path, f"say Well.\n{calls}")

    assert message["content"].rstrip() == "Well."
    assert message["stop_reason"] == "end_of_message"
    assert [call["tool_name"] for call in message["tool_calls"]] == ["get_time"] * 2
    for zone, call in zip((1, 2), message["tool_calls"], strict=True):
        assert call["arguments"] == json.loads(call["arguments_json"]) == {"zone": zone}


@pytest.mark.parametrize("path", CHATS)
def test_a_call_streams_its_beginning_its_arguments_and_all_of_it(
    path: str, mock_server: LiveServer
) -> None:
    chunks = objects(mock_server, path, body("say " + call_text("get_time", zone=12)))

    assert chunks[0]["event"]["event_type"] == "start"
    assert chunks[-1]["event"]["event_type"] == "complete"
    assert chunks[-1]["event"]["delta"] == {"type": "text", "text": ""}
    deltas = [chunk["event"]["delta"] for chunk in chunks[1:-1]]
    assert {delta["type"] for delta in deltas} == {"tool_call"}
    statuses = [delta["parse_status"] for delta in deltas]
    assert statuses == ["started", *["in_progress"] * (len(deltas) - 2), "succeeded"]
    assert deltas[0]["tool_call"] == ""
    text = "".join(delta["tool_call"] for delta in deltas[1:-1])
    assert text == deltas[-1]["tool_call"]["arguments_json"]
    assert json.loads(text) == {"zone": 12}


@pytest.mark.parametrize("path", CHATS)
def test_a_call_that_max_tokens_cut_off_has_failed_and_is_text(
    path: str, mock_server: LiveServer
) -> None:
    call = call_text("get_time", zone=12)
    params = {"max_tokens": call.index("12") + 1}

    message = ask(mock_server, path, f"say {call}", sampling_params=params)

    assert message["stop_reason"] == "out_of_tokens"
    (cut,) = message["tool_calls"]
    assert cut["arguments"] == cut["arguments_json"] == '{"zone": 1'


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", CHATS)
def test_an_agent_calls_tools_in_three_turns_and_then_answers(path: str, stream: bool) -> None:
    spy = following(*(call_text("get_time", zone=zone) for zone in (1, 2, 3)), "All late.")
    turns: list[Any] = user("Where is it early?")
    with running_server(load=spy.load) as server:
        for _ in range(4):
            if stream:
                deltas = [o["event"]["delta"] for o in objects(server, path, body(turns))]
                calls = [d["tool_call"] for d in deltas if d.get("parse_status") == "succeeded"]
                content = "".join(delta.get("text", "") for delta in deltas)
                message = {"role": "assistant", "content": content, "tool_calls": calls}
            else:
                message = server.post(path, body(turns)).json()["completion_message"]
            turns.append(message)
            turns += [
                {
                    "role": "tool",
                    "call_id": call["call_id"],
                    "content": {"type": "text", "text": f"late in {call['arguments']['zone']}"},
                }
                for call in message["tool_calls"]
            ]

    assert turns[-1]["content"] == "All late."
    assert [request.prompt.count("<tool_response>") for request in spy.submitted] == [0, 1, 2, 3]
    last = spy.submitted[-1].prompt
    assert last.index("late in 1") < last.index('"zone":2') < last.index("late in 3")


def test_arguments_may_be_sent_as_text_or_as_an_object() -> None:
    spy = following(*["done"] * 3)
    call: dict[str, Any] = {"call_id": "a", "tool_name": "get_time"}
    calls: list[dict[str, Any]] = [
        {**call, "arguments": {"zone": 1}, "arguments_json": '{"zone":1}'},
        {**call, "call_id": "b", "arguments": '{"zone":2}'},
    ]
    turns = [
        *user("hi"),
        {"role": "assistant", "content": "", "tool_calls": calls},
        *({"role": "tool", "call_id": each["call_id"], "content": "late"} for each in calls),
    ]
    with running_server(load=spy.load) as server:
        server.post(CHATS[0], body(turns)).raise_for_status()

    prompt = spy.submitted[0].prompt
    assert '{"zone":1}' in prompt
    assert '{"zone":2}' in prompt


def test_a_result_of_no_call_is_refused(mock_server: LiveServer) -> None:
    turns = [*user("hi"), {"role": "tool", "call_id": "call_7", "content": "late"}]

    response = mock_server.post(CHATS[0], body(turns))

    assert response.status_code == 400
    assert response.json()["error"]["param"] == "messages"
    assert "call_7" in response.json()["error"]["message"]


def test_types_of_parameters_become_json_schemas() -> None:
    words = {
        "a": ("str", {"type": "string"}),
        "b": ("Integer", {"type": "integer"}),
        "c": ("list[float]", {"type": "array", "items": {"type": "number"}}),
        "d": ("dict", {"type": "object"}),
        "e": ("boolean", {"type": "boolean", "description": "Or not.", "default": True}),
    }
    parameters: dict[str, Any] = {name: {"param_type": word} for name, (word, _) in words.items()}
    parameters["e"] |= {"description": "Or not.", "default": True, "required": False}

    tool = ToolBody.model_validate({"tool_name": "f", "parameters": parameters}).tool

    assert json.loads(tool.parameters) == {
        "type": "object",
        "properties": {name: schema for name, (_, schema) in words.items()},
        "required": ["a", "b", "c", "d"],
        "additionalProperties": False,
    }


@pytest.mark.parametrize("fields", [
    {"tool_choice": "required"},
    {"tool_config": {"tool_choice": "required"}},
    {"tool_config": {"tool_choice": "look"}},
])  # fmt: skip
def test_a_forced_choice_makes_a_call_that_obeys_its_parameters(
    palmita_server: LiveServer, fields: dict[str, Any]
) -> None:
    tool = {"tool_name": "look", "parameters": {"far": {"param_type": "bool"}}}

    message = ask(palmita_server, CHATS[0], "hi", model_id="palmita", tools=[tool], **fields)

    assert message["tool_calls"]
    for call in message["tool_calls"]:
        assert call["tool_name"] == "look"
        assert call["arguments"] in ({"far": True}, {"far": False})
