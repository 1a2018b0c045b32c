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
    MESSAGES,
    MODEL,
    URL,
    assert_is_city,
)

GREEDY = {"strategy": {"type": "greedy"}, "max_tokens": 64}
TEXT = "The capital of Japan is"


def new_client(api_key: str = API_KEY, *, is_strict: bool = True) -> Any:
    return llama_stack_client.LlamaStackClient(
        base_url=URL, api_key=api_key, max_retries=0, _strict_response_validation=is_strict
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
