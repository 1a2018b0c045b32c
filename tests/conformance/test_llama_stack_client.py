"""Llama Stack's routes, judged by its own client with strict validation, where that is installed.

`pip install llama-stack-client fire requests`: it imports two that it does not name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.live_server import LiveServer, user
from tests.scripted_agent import call_text

llama_stack_client = pytest.importorskip("llama_stack_client", exc_type=ImportError)


@pytest.fixture(scope="module")
def client(mock_server: LiveServer) -> Iterator[Any]:
    with llama_stack_client.LlamaStackClient(
        base_url=mock_server.url, max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


def test_a_chat_is_answered_whole(client: Any) -> None:
    answer = client.inference.chat_completion(
        model_id="mock",
        messages=user("count to 3"),
        sampling_params={"strategy": {"type": "top_p", "temperature": 0.5}, "max_tokens": 9},
        logprobs={"top_k": 1},
    )

    assert answer.completion_message.content == "1 2 3 "
    assert answer.completion_message.stop_reason == "end_of_turn"
    assert [token.logprobs_by_token for token in answer.logprobs] == [
        {"1 ": 0.0},
        {"2 ": 0.0},
        {"3 ": 0.0},
    ]


def test_a_chat_streams(client: Any) -> None:
    chunks = list(
        client.inference.chat_completion(model_id="mock", messages=user("count to 3"), stream=True)
    )

    assert "".join(chunk.event.delta.text for chunk in chunks) == "1 2 3 "
    assert [chunk.event.event_type for chunk in chunks[::4]] == ["start", "complete"]
    assert chunks[-1].event.stop_reason == "end_of_turn"


def test_a_completion_is_answered_whole(client: Any) -> None:
    answer = client.inference.completion(
        model_id="mock",
        content=": count to 9",
        sampling_params={"strategy": {"type": "greedy"}, "max_tokens": 2},
    )

    assert (answer.content, answer.stop_reason) == ("1 2 ", "out_of_tokens")


def test_a_completion_streams(mock_server: LiveServer) -> None:
    """The client's type of these chunks is that of whole answers, which no server sends."""
    with llama_stack_client.LlamaStackClient(base_url=mock_server.url, max_retries=0) as client:
        chunks = list(
            client.inference.completion(model_id="mock", content=": count to 3", stream=True)
        )

    assert "".join(chunk.delta for chunk in chunks) == "1 2 3 "
    assert chunks[-1].stop_reason == "end_of_turn"


def test_errors_are_those_of_the_client(client: Any) -> None:
    with pytest.raises(llama_stack_client.NotFoundError) as caught:
        client.inference.chat_completion(model_id="gpt-9", messages=user("hi"))

    assert "gpt-9" in caught.value.body["error"]["detail"]


def test_calls_come_whole_and_in_pieces(client: Any) -> None:
    asked: dict[str, Any] = {
        "model_id": "mock",
        "messages": user("say " + call_text("get_time", zone=12, notes=["a", None])),
        "tools": [{"tool_name": "get_time", "parameters": {"zone": {"param_type": "int"}}}],
        "tool_config": {"tool_choice": "auto"},
    }

    message = client.inference.chat_completion(**asked).completion_message
    deltas = [chunk.event.delta for chunk in client.inference.chat_completion(stream=True, **asked)]

    (call,) = message.tool_calls
    assert (call.tool_name, call.arguments) == ("get_time", {"zone": 12, "notes": ["a", None]})
    assert message.stop_reason == "end_of_message"
    (end,) = (
        delta.tool_call for delta in deltas if getattr(delta, "parse_status", "") == "succeeded"
    )
    assert (end.tool_name, end.arguments) == (call.tool_name, call.arguments)
    again = [*asked["messages"], message.to_dict()]
    result = {"role": "tool", "call_id": call.call_id, "content": "say noon"}
    answer = client.inference.chat_completion(**{**asked, "messages": [*again, result]})
    assert answer.completion_message.content == "noon"
