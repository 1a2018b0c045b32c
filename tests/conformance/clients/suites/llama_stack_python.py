"""Llama Stack's own routes, by its client with strict validation of every response."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import llama_stack_client
import pytest

from tests.conformance.clients.suites.subject import (
    API_KEY,
    CAPITAL,
    CITY_SCHEMA,
    FIRST_CALL,
    LAST_WORDS,
    MESSAGES,
    MOCK,
    MOCK_URL,
    MODEL,
    URL,
    assert_is_city,
    look_up,
)

GREEDY = {"strategy": {"type": "greedy"}, "max_tokens": 64}
TEXT = "The capital of Japan is"
LOOK_UP = {"tool_name": "look_up", "parameters": {"city": {"param_type": "string"}}}


def new_client(api_key: str = API_KEY, *, is_strict: bool = True, url: str = URL) -> Any:
    return llama_stack_client.LlamaStackClient(
        base_url=url, api_key=api_key, max_retries=0, _strict_response_validation=is_strict
    )


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with new_client() as client:
        yield client


def chat(client: Any, **kwargs: Any) -> Any:
    fields = {"model_id": MODEL, "messages": MESSAGES, "sampling_params": GREEDY}
    return client.inference.chat_completion(**{**fields, **kwargs})


def complete(client: Any, **kwargs: Any) -> Any:
    fields = {"model_id": MODEL, "content": TEXT, "sampling_params": {**GREEDY, "max_tokens": 5}}
    return client.inference.completion(**{**fields, **kwargs})


def test_a_chat_is_answered_whole(client: Any) -> None:
    answer = chat(client, logprobs={"top_k": 2})

    assert CAPITAL in answer.completion_message.content
    assert answer.completion_message.stop_reason == "end_of_turn"
    assert all(len(token.logprobs_by_token) == 2 for token in answer.logprobs)


def test_a_chat_streams_what_it_answers_whole(client: Any) -> None:
    whole = chat(client)

    chunks = list(chat(client, stream=True))

    text = "".join(chunk.event.delta.text for chunk in chunks)
    assert text == whole.completion_message.content
    assert (chunks[0].event.event_type, chunks[-1].event.event_type) == ("start", "complete")


def test_a_text_is_completed_whole_and_as_a_stream(client: Any) -> None:
    """The client's type of these chunks is that of whole answers, which no server sends."""
    whole = complete(client)
    with new_client(is_strict=False) as lenient_client:
        chunks = list(complete(lenient_client, stream=True))

    assert whole.content
    assert "".join(chunk.delta for chunk in chunks) == whole.content
    assert chunks[-1].stop_reason == whole.stop_reason


def test_sampling_parameters_are_honoured(client: Any) -> None:
    drawn = {"strategy": {"type": "top_p", "temperature": 1.5, "top_p": 0.9}}

    cut = chat(client, sampling_params={**drawn, "max_tokens": 3})
    *_, last = chat(client, sampling_params={**drawn, "max_tokens": 3}, stream=True)
    stopped = chat(client, sampling_params={**GREEDY, "stop": [CAPITAL]})

    assert cut.completion_message.stop_reason == "out_of_tokens"
    assert last.event.stop_reason == "out_of_tokens"
    assert CAPITAL not in stopped.completion_message.content


def test_a_schema_binds_the_answer(client: Any) -> None:
    form = {"type": "json_schema", "json_schema": CITY_SCHEMA}

    assert_is_city(chat(client, response_format=form).completion_message.content)


@pytest.mark.parametrize("stream", [False, True])
def test_an_unknown_model_is_not_found(client: Any, stream: bool) -> None:
    for ask in (chat, complete):
        with pytest.raises(llama_stack_client.NotFoundError) as caught:
            ask(client, model_id="gpt-9", stream=stream)
        assert "gpt-9" in str(caught.value)


def test_a_bad_field_is_refused_by_name(client: Any) -> None:
    with pytest.raises(llama_stack_client.BadRequestError, match="temprature"):
        chat(client, sampling_params={"strategy": {"type": "greedy"}, "temprature": 0})


def test_a_wrong_key_is_refused() -> None:
    with new_client("wrong") as client, pytest.raises(llama_stack_client.AuthenticationError):
        chat(client)


@pytest.mark.parametrize("stream", [False, True])
def test_an_agent_goes_three_turns(stream: bool) -> None:
    turns: list[Any] = [{"role": "user", "content": FIRST_CALL}]
    fields = {"model_id": MOCK, "tools": [LOOK_UP], "sampling_params": {"max_tokens": 200}}
    with new_client(url=MOCK_URL) as mock:
        for city in ("Lima", "Oslo", "Rome"):
            if stream:
                chunks = list(chat(mock, messages=turns, stream=True, **fields))
                deltas = [chunk.event.delta for chunk in chunks]
                (made,) = (d.tool_call for d in deltas if "succeeded" in d.to_dict().values())
                turn = {"role": "assistant", "content": "", "stop_reason": "end_of_message"}
                turns.append({**turn, "tool_calls": [made.to_dict()]})
            else:
                message = chat(mock, messages=turns, **fields).completion_message
                (made,) = message.tool_calls
                turns.append(message.to_dict())
            assert (made.tool_name, made.arguments) == ("look_up", {"city": city})
            turns.append({"role": "tool", "call_id": made.call_id, "content": look_up(city)})
        last = chat(mock, messages=turns, **fields)

    assert LAST_WORDS in last.completion_message.content
