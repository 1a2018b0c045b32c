"""Conversations with calls and their results, as OpenAI's clients send them back."""

from __future__ import annotations

from typing import Any

import pytest

from palma.api.dialects.openai_chat.bodies import parse_chat, to_requests
from palma.core.errors import InvalidRequest
from palma.core.types import Message, ToolCall
from tests.live_server import LiveServer, user

PATH = "/v1/chat/completions"


def messages_of(*turns: dict[str, Any]) -> tuple[Message, ...]:
    """Return what the turns after a question mean."""
    body = parse_chat({"model": "m", "messages": [*user("Rain?"), *turns]})
    return to_requests(body, "id")[0].messages[1:]


def call(call_id: str, name: str = "f", arguments: Any = "{}") -> dict[str, Any]:
    return {
        "id": call_id,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def calling(*calls: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": list(calls), **fields}


def result(call_id: str, content: Any = "7", **fields: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content, **fields}


def test_calls_and_their_results_are_messages() -> None:
    messages = messages_of(
        calling(call("a", "f", '{"x": 1}'), call("b", "g"), content=None),
        result("b", "g's", name="g"),
        result("a", [{"type": "text", "text": "f"}, {"type": "text", "text": "'s"}]),
    )

    assert messages == (
        Message(
            "assistant", "", tool_calls=(ToolCall("a", "f", '{"x": 1}'), ToolCall("b", "g", "{}"))
        ),
        Message("tool", "g's", tool_call_id="b"),
        Message("tool", "f's", tool_call_id="a"),
    )


def test_text_and_thoughts_may_stand_beside_calls() -> None:
    (message,) = messages_of(
        calling(call("a"), content="Let me see.", reasoning_content="It may rain.")
    )

    assert message.content == "Let me see."
    assert message.reasoning == "It may rain."
    assert [made.call_id for made in message.tool_calls] == ["a"]


def test_a_later_call_may_have_the_id_of_an_earlier_one() -> None:
    messages = messages_of(calling(call("a")), result("a"), calling(call("a", "g")), result("a"))

    assert [message.role for message in messages] == ["assistant", "tool"] * 2


def test_the_deprecated_words_mean_calls_too() -> None:
    first, its_result, second, third_result = messages_of(
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": ""}},
        {"role": "function", "name": "f", "content": "7"},
        {"role": "assistant", "function_call": {"name": "f", "arguments": '{"x":1}'}},
        {"role": "function", "name": "f", "content": None},
    )

    ids = [message.tool_calls[0].call_id for message in (first, second)]
    assert [message.tool_calls[0].arguments for message in (first, second)] == ["{}", '{"x":1}']
    assert its_result == Message("tool", "7", tool_call_id=ids[0])
    assert third_result == Message("tool", "", tool_call_id=ids[1])
    assert ids[0] != ids[1]


def test_what_only_null_may_be_is_taken_on_every_turn() -> None:
    nulls = dict.fromkeys(["tool_calls", "function_call", "name", "refusal", "audio"])

    (message,) = messages_of({"role": "assistant", "content": "No.", **nulls})

    assert message == Message("assistant", "No.")


@pytest.mark.parametrize(
    ("turns", "param"),
    [
        ([result("a")], "messages.1.tool_call_id"),
        ([calling(call("a")), result("b")], "messages.2.tool_call_id"),
        ([result("a"), calling(call("a"))], "messages.1.tool_call_id"),
        ([{"role": "tool", "content": "7"}], "messages.1.tool_call_id"),
        ([calling(call("a")), result("a", None)], "messages.2.content"),
        ([calling(call("a", "f")), result("a", name="g")], "messages.2.name"),
        ([calling(call("a"), call("a"))], "messages.1.tool_calls"),
        ([calling(call("a", "a b"))], "messages.1.tool_calls.0.function.name"),
        ([calling(call(""))], "messages.1.tool_calls.0.id"),
        (
            [calling({"id": "a", "type": "custom", "custom": {"name": "f", "input": ""}})],
            "messages.1.tool_calls.0.type",
        ),
        ([calling(content=None)], "messages.1.content"),
        ([{"role": "assistant", "content": None}], "messages.1.content"),
        ([{**calling(call("a")), "role": "user"}], "messages.1.tool_calls"),
        ([{"role": "user", "content": "a", "tool_call_id": "a"}], "messages.1.tool_call_id"),
        ([{"role": "user", "content": "a", "name": "me"}], "messages.1.name"),
        ([{"role": "user", "content": "a", "reasoning_content": "b"}], "messages.1."),
        ([{"role": "function", "content": "7"}], "messages.1.name"),
        ([{"role": "function", "name": "f", "content": "7"}], "messages.1.name"),
        (
            [calling(call("a"), function_call={"name": "f", "arguments": "{}"})],
            "messages.1.function_call",
        ),
        *(
            ([calling(call("a", "f", arguments))], "messages.1.tool_calls.0.function.arguments")
            for arguments in ("[]", "7", "{", "x", '{"a": NaN}', {"a": 1}, None)
        ),
    ],
)
def test_turns_that_do_not_fit_are_refused_by_the_name_of_the_field(
    turns: list[dict[str, Any]], param: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        messages_of(*turns)

    assert (caught.value.param or "").startswith(param)
    assert param in caught.value.message


def test_a_refusal_is_a_400_in_openais_envelope(mock_server: LiveServer) -> None:
    for stream in (False, True):
        body = {"model": "mock", "messages": [*user("Rain?"), result("a")], "stream": stream}

        response = mock_server.post(PATH, body)

        assert response.status_code == 400
        assert response.json()["error"]["param"] == "messages.1.tool_call_id"
