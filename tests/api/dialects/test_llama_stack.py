"""Llama Stack's inference API, as lines, as events and whole."""

from __future__ import annotations

import json
from concurrent.futures import Executor
from typing import Any

import httpx
import pytest

from palma.api.dialects.llama_stack.bodies import ChatCompletionBody
from palma.api.fields import NeutralOnly
from palma.core.config import Settings
from palma.engine.base import Engine
from palma.engine.mock import END_ID, MockEngine, MockTokenizer
from tests.live_server import (
    LiveServer,
    new_client,
    parse_event,
    running_server,
    unharmed_neighbour,
    user,
)

COMPLETION = "/inference/completion"
CHAT = "/inference/chat_completion"
V1_COMPLETION = "/v1/inference/completion"
V1_CHAT = "/v1/inference/chat-completion"
CHATS = (CHAT, V1_CHAT)
COMPLETIONS = (COMPLETION, V1_COMPLETION)
ALL = (*COMPLETIONS, *CHATS)

CAPITAL = "What is the capital of France?"


def body_for(path: str, content: Any, **fields: Any) -> dict[str, Any]:
    """Return a body; `fields` may name another model."""
    asked = {"content": content} if path in COMPLETIONS else {"messages": user(content)}
    return {"model_id": "mock", **asked, **fields}


def stream(server: LiveServer, path: str, body: dict[str, Any], **kwargs: Any) -> list[Any]:
    """Return the objects of a stream, lines or events."""
    with server.client.stream("POST", path, json={**body, "stream": True}, **kwargs) as response:
        assert response.status_code == 200, response.read()
        is_lines = response.headers["content-type"] == "application/x-ndjson"
        assert is_lines or response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line]
    return [json.loads(line) if is_lines else parse_event(line) for line in lines]


def text_of(objects: list[Any]) -> str:
    """Return the text of a stream of either kind."""
    return "".join(o["event"]["delta"]["text"] if "event" in o else o["delta"] for o in objects)


def reason_of(objects: list[Any]) -> str:
    """Return the stop reason that a stream ends with; no other object may have one."""
    reasons = [o["event"]["stop_reason"] if "event" in o else o["stop_reason"] for o in objects]
    assert reasons[:-1] == [None] * (len(reasons) - 1)
    return str(reasons[-1])


def numbers(metrics: list[Any]) -> dict[str, int]:
    """Return metrics by name."""
    assert {metric["unit"] for metric in metrics} == {"tokens"}
    return {metric["metric"]: metric["value"] for metric in metrics}


@pytest.mark.parametrize("path", CHATS)
def test_a_whole_chat_answer_has_message_reason_and_measured_usage(
    path: str, mock_server: LiveServer
) -> None:
    answer = mock_server.post(path, body_for(path, "count to 3")).json()

    assert answer["completion_message"] == {
        "role": "assistant",
        "content": "1 2 3 ",
        "stop_reason": "end_of_turn",
        "tool_calls": [],
    }
    assert answer["logprobs"] is None
    assert numbers(answer["metrics"]) == {
        "prompt_tokens": len("user: count to 3") + 1 + len("assistant: "),
        "completion_tokens": 4,  # three numbers and the end token
        "total_tokens": len("user: count to 3") + 1 + len("assistant: ") + 4,
    }


@pytest.mark.parametrize("path", COMPLETIONS)
def test_a_whole_completion_says_it_as_text_and_as_message(
    path: str, mock_server: LiveServer
) -> None:
    answer = mock_server.post(path, body_for(path, ": count to 3")).json()

    assert answer["content"] == answer["completion_message"]["content"] == "1 2 3 "
    assert answer["stop_reason"] == answer["completion_message"]["stop_reason"] == "end_of_turn"
    assert numbers(answer["metrics"])["prompt_tokens"] == len(": count to 3")


@pytest.mark.parametrize("path", ALL)
def test_a_stream_joins_to_the_whole_answer(path: str, mock_server: LiveServer) -> None:
    for content, params in (
        (": count to 12", {}),
        (": say añb🏴‍☠️", {}),
        (": say a\u2028b\x85c", {}),
        (": count to 9", {"max_tokens": 4}),
    ):
        body = body_for(path, content, sampling_params=params)
        whole = mock_server.post(path, body).json()["completion_message"]

        objects = stream(mock_server, path, body)

        assert text_of(objects) == whole["content"]
        assert reason_of(objects) == whole["stop_reason"]


@pytest.mark.parametrize("path", CHATS)
def test_a_chat_streams_a_start_then_progress_then_the_end(
    path: str, mock_server: LiveServer
) -> None:
    objects = stream(mock_server, path, body_for(path, "count to 2"))

    assert [o["event"]["event_type"] for o in objects] == [
        "start", "progress", "progress", "complete",
    ]  # fmt: skip
    assert {o["event"]["delta"]["type"] for o in objects} == {"text"}
    assert [o["metrics"] for o in objects[:-1]] == [None] * 3
    assert numbers(objects[-1]["metrics"])["completion_tokens"] == 3


@pytest.mark.parametrize("path", ALL)
def test_running_out_of_tokens_is_said_so(path: str, mock_server: LiveServer) -> None:
    body = body_for(path, ": count to 500")

    by_default = mock_server.post(path, body).json()
    chosen = mock_server.post(path, {**body, "sampling_params": {"max_tokens": 2}}).json()

    assert by_default["completion_message"]["stop_reason"] == "out_of_tokens"
    assert numbers(by_default["metrics"])["completion_tokens"] == 100
    assert chosen["completion_message"]["content"] == "1 2 "


class TokenizerOfLlama(MockTokenizer):
    """Spells the one stop token of the mock engine as Llama spells the end of a message."""

    def token_bytes(self, token_id: int) -> bytes:
        return b"<|eom_id|>" if token_id == END_ID else super().token_bytes(token_id)


def test_the_end_of_a_message_is_told_from_the_end_of_a_turn() -> None:
    def load(settings: Settings, executor: Executor) -> Engine:
        engine = MockEngine(executor, settings.threads_max_workers)
        engine.tokenizer = TokenizerOfLlama()
        return engine

    with running_server(load=load) as server:
        for path in ALL:
            body = body_for(path, ": count to 9")
            whole = server.post(path, body).json()["completion_message"]
            assert whole["stop_reason"] == "end_of_message"
            assert reason_of(stream(server, path, body)) == "end_of_message"
            for params, reason in (
                ({"stop": ["4"]}, "end_of_turn"),
                ({"max_tokens": 4}, "out_of_tokens"),
            ):
                objects = stream(server, path, {**body, "sampling_params": params})
                assert reason_of(objects) == reason


@pytest.mark.parametrize(("path", "media_type"), [
    (CHAT, "application/x-ndjson"), (COMPLETION, "application/x-ndjson"),
    (V1_CHAT, "text/event-stream"), (V1_COMPLETION, "text/event-stream"),
])  # fmt: skip
def test_the_routes_without_v1_stream_lines_and_the_others_events(
    path: str, media_type: str, mock_server: LiveServer
) -> None:
    body = body_for(path, ": count to 3", stream=True)
    headers = {"Accept-Encoding": "gzip"}

    with mock_server.client.stream("POST", path, json=body, headers=headers) as response:
        assert response.headers["content-type"].partition(";")[0] == media_type
        assert response.headers["cache-control"] == "no-cache"
        assert response.headers["x-accel-buffering"] == "no"
        assert "content-encoding" not in response.headers
        first = next(response.iter_raw())

    assert first.endswith(b"\n")


def test_lines_become_events_for_a_client_that_asks_for_them(mock_server: LiveServer) -> None:
    lines = stream(mock_server, CHAT, body_for(CHAT, "count to 3"))
    headers = {"Accept": "text/event-stream"}
    body = body_for(CHAT, "count to 3", stream=True)

    response = mock_server.post(CHAT, body, headers=headers)

    assert response.headers["content-type"].startswith("text/event-stream")
    events = [parse_event(part) for part in response.text.split("\n\n") if part]
    assert events == lines


@pytest.mark.parametrize("path", ALL)
def test_stop_strings_end_the_answer_and_are_not_in_it(path: str, mock_server: LiveServer) -> None:
    body = body_for(path, ": count to 9", sampling_params={"stop": ["5", "3 4"]})

    assert mock_server.post(path, body).json()["completion_message"]["content"] == "1 2 "
    assert text_of(stream(mock_server, path, body)) == "1 2 "


@pytest.mark.parametrize("content", [
    "say ab", {"type": "text", "text": "say ab"},
    [{"type": "text", "text": "say "}, {"type": "text", "text": "ab"}],
])  # fmt: skip
def test_content_is_a_string_or_text_items(content: Any, mock_server: LiveServer) -> None:
    chat = mock_server.post(CHAT, body_for(CHAT, content)).json()
    completion = mock_server.post(COMPLETION, body_for(COMPLETION, content)).json()

    assert chat["completion_message"]["content"] == "ab"
    assert completion["metrics"][0]["value"] == len("say ab")


def test_an_answer_may_be_sent_back_as_it_came(mock_server: LiveServer) -> None:
    first = mock_server.post(CHAT, body_for(CHAT, "count to 3")).json()["completion_message"]
    turns = [{"role": "system", "content": "be brief"}, *user("count to 3"), first]

    body = {"model": "mock", "messages": [*turns, *user("say more")]}

    assert mock_server.post(CHAT, body).json()["completion_message"]["content"] == "more"


@pytest.mark.parametrize("stream_it", [False, True])
def test_logprobs_name_the_chosen_token_and_the_likeliest(
    stream_it: bool, palmita_server: LiveServer
) -> None:
    body = body_for(
        CHAT, CAPITAL, model_id="palmita", logprobs={"top_k": 3}, sampling_params={"max_tokens": 4}
    )

    if stream_it:
        objects = stream(palmita_server, CHAT, body)
        per_token = [p for o in objects for p in o["event"]["logprobs"] or []]
        text = text_of(objects)
    else:
        answer = palmita_server.post(CHAT, body).json()
        per_token, text = answer["logprobs"], answer["completion_message"]["content"]

    assert len(per_token) == 4
    chosen = [next(iter(place["logprobs_by_token"])) for place in per_token]
    assert "".join(chosen).strip() == text.strip()
    for place in per_token:
        logprobs = list(place["logprobs_by_token"].values())
        assert len(logprobs) == 3
        assert logprobs[0] == max(logprobs) <= 0  # greedy: the chosen one is the likeliest


def test_without_a_top_k_only_the_chosen_token_is_scored(palmita_server: LiveServer) -> None:
    body = body_for(CHAT, CAPITAL, model_id="palmita", logprobs={})

    logprobs = palmita_server.post(CHAT, body).json()["logprobs"]

    assert {len(place["logprobs_by_token"]) for place in logprobs} == {1}


def palmita_says(server: LiveServer, **params: Any) -> str:
    body = body_for(CHAT, "Tell me a story.", model_id="palmita", sampling_params=params)
    response = server.post(CHAT, body)
    assert response.status_code == 200, response.text
    return str(response.json()["completion_message"]["content"])


def test_by_default_and_with_the_strategy_greedy_the_likeliest_token_is_taken(
    palmita_server: LiveServer,
) -> None:
    expected = palmita_says(palmita_server, temperature=0)

    for params in (
        {},
        {"strategy": {"type": "greedy"}},
        {"strategy": "greedy", "temperature": 0.0, "top_p": 0.95},
        {"strategy": {"type": "top_k", "top_k": 1}},
        {"strategy": {"type": "top_p", "temperature": 0.9, "top_p": 1e-9}},
    ):
        assert palmita_says(palmita_server, **params) == expected, params


def test_strategies_and_temperature_draw_from_the_distribution(palmita_server: LiveServer) -> None:
    for params in (
        {"temperature": 2.0},
        {"strategy": {"type": "top_p", "temperature": 2.0, "top_p": 1.0}},
        {"strategy": "top_p", "temperature": 2.0, "top_p": 1.0},
        {"strategy": {"type": "top_k", "top_k": 500}, "temperature": 2.0},
    ):
        texts = {palmita_says(palmita_server, **params, seed=seed) for seed in range(4)}

        assert len(texts) > 1, params
        assert texts == {palmita_says(palmita_server, **params, seed=s) for s in range(4)}


def test_a_streamed_greedy_answer_is_the_whole_one(palmita_server: LiveServer) -> None:
    for path in ALL:
        content = "The capital of" if path in COMPLETIONS else CAPITAL
        body = body_for(path, content, model_id="palmita", sampling_params={"max_tokens": 20})

        whole = palmita_server.post(path, body).json()["completion_message"]["content"]

        assert text_of(stream(palmita_server, path, body)) == whole
        assert whole


def test_a_repetition_penalty_changes_the_answer(palmita_server: LiveServer) -> None:
    assert palmita_says(palmita_server, repetition_penalty=100.0) != palmita_says(palmita_server)


NEUTRAL_VALUES = {
    name: mark.values
    for name, field in ChatCompletionBody.model_fields.items()
    for mark in field.metadata
    if isinstance(mark, NeutralOnly)
}


def test_neutral_values_are_taken(mock_server: LiveServer) -> None:
    for number in range(2):
        neutral = {
            name: values[number % len(values)] for name, values in NEUTRAL_VALUES.items() if values
        }
        assert mock_server.post(CHAT, body_for(CHAT, "hi", **neutral)).status_code == 200
    nulls = dict.fromkeys([*NEUTRAL_VALUES, "logprobs", "sampling_params", "stream"])
    assert mock_server.post(CHAT, body_for(CHAT, "hi", **nulls)).status_code == 200


@pytest.mark.parametrize(("fields", "param"), [
    ({"tools": [{"tool_name": "brave_search"}]}, "tools.0"),
    ({"tools": [{"tool_name": "f", "parameters": {"x": {"param_type": "tuple"}}}]},
     "tools.0.parameters.x.param_type"),
    ({"tools": [{"tool_name": "f"}] * 2}, "tools.1"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_config": {"tool_choice": "required"}}, "tool_choice"),
    ({"tools": [{"tool_name": "f"}], "tool_config": {"tool_choice": "g"}}, "tool_choice"),
    ({"tool_choice": "auto", "tool_config": {"tool_choice": "none"}}, "tool_choice"),
    ({"tool_config": {"system_message_behavior": "replace"}},
     "tool_config.system_message_behavior"),
    ({"tool_prompt_format": "python_list"}, "tool_prompt_format"),
    ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format"),
    ({"nonsense": 1}, "nonsense"),
    ({"model": "other"}, "model"),
    ({"model_id": None}, "model_id"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0"),
    ({"messages": [{"role": "user", "content": "x", "call_id": "1"}]}, "messages.0"),
    ({"messages": [{"role": "ipython", "content": "x", "call_id": "1"}]}, "messages.0.role"),
    ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages.0.content"),
    ({"messages": [{"role": "user", "content": "x", "context": "y"}]}, "messages.0.context"),
    ({"stream": "yes"}, "stream"),
    ({"logprobs": {"top_k": 21}}, "logprobs.top_k"),
    ({"sampling_params": {"max_tokens": 0}}, "sampling_params.max_tokens"),
    ({"sampling_params": {"temperature": 2.5}}, "sampling_params.temperature"),
    ({"sampling_params": {"temperature": "1"}}, "sampling_params.temperature"),
    ({"sampling_params": {"frequency_penalty": 1}}, "sampling_params.frequency_penalty"),
    ({"sampling_params": {"strategy": "top_k"}}, "sampling_params.strategy.top_k"),
    ({"sampling_params": {"strategy": {"type": "beam"}}}, "sampling_params.strategy"),
    ({"sampling_params": {"strategy": {"type": "top_p", "top_k": 3}}},
     "sampling_params.strategy.top_p.top_k"),
    ({"sampling_params": {"strategy": {"type": "top_p", "top_p": 0.5}, "top_p": 0.6}},
     "sampling_params.top_p"),
    ({"sampling_params": {"strategy": "greedy", "temperature": 0.7}},
     "sampling_params.temperature"),
])  # fmt: skip
def test_what_is_not_honoured_is_refused_by_name(
    fields: dict[str, Any], param: str, mock_server: LiveServer
) -> None:
    for is_stream in (False, True):
        body = {**body_for(CHAT, "hi"), "stream": is_stream, **fields}
        response = mock_server.post(CHAT, body)

        assert response.status_code == 400
        error = response.json()["error"]
        assert error.keys() == {"detail", "message", "code", "param"}
        assert error["param"] == param
        assert error["detail"] == error["message"]
        assert param.rpartition(".")[2] in error["message"]


@pytest.mark.parametrize("path", ALL)
def test_every_error_of_its_routes_is_in_its_envelope(path: str, mock_server: LiveServer) -> None:
    good = body_for(path, "hi")
    responses = {
        404: mock_server.post(path, {**good, "model_id": "gpt-9"}),
        405: mock_server.get(path),
        415: mock_server.client.post(path, content="hi", headers={"Content-Type": "text/plain"}),
        400: mock_server.client.post(
            path, content="{", headers={"Content-Type": "application/json"}
        ),
    }

    for status, response in responses.items():
        assert response.status_code == status
        assert response.json()["error"].keys() == {"detail", "message", "code", "param"}
        assert response.headers["x-request-id"]


def test_its_envelope_ends_where_its_paths_do(mock_server: LiveServer) -> None:
    """A model of Falcon's API may be called `completions`."""
    response = mock_server.post("/inference/completions", {"text": "hi"})

    assert response.json().keys() == {"status_code", "message"}


def test_a_prompt_that_does_not_fit_is_refused_before_the_stream_begins(
    palmita_server: LiveServer,
) -> None:
    for path in ALL:
        body = body_for(path, "word " * 5000, model_id="palmita", stream=True)

        response = palmita_server.post(path, body)

        assert response.status_code == 400
        assert response.json()["error"]["code"] == "context_length_exceeded"
        expected = "content" if path in COMPLETIONS else "messages"
        assert response.json()["error"]["param"] == expected


@pytest.mark.parametrize("path", ALL)
def test_a_failure_amid_a_stream_is_its_last_object(path: str, mock_server: LiveServer) -> None:
    with unharmed_neighbour(mock_server):
        *before, last = stream(mock_server, path, body_for(path, ": fail after 2"))

    assert text_of(before) == "1 2 "
    assert last.keys() == {"error"}
    assert last["error"]["code"] == "engine_error"
    assert mock_server.post(path, body_for(path, ": fail after 2")).status_code == 500


@pytest.mark.parametrize("path", ALL)
def test_a_client_that_leaves_cancels_the_work(path: str, mock_server: LiveServer) -> None:
    body = body_for(path, ": slowly count to 5000", sampling_params={"max_tokens": 5000})

    with (
        unharmed_neighbour(mock_server),
        new_client(mock_server.url) as client,
        client.stream("POST", path, json={**body, "stream": True}) as response,
    ):
        next(response.iter_raw())
    with new_client(mock_server.url) as client, pytest.raises(httpx.ReadTimeout):
        client.post(path, json=body, timeout=0.2)

    mock_server.wait_until_idle()
