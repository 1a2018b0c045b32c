"""Chat by `huggingface_hub.InferenceClient`, whose other tasks are for Hugging Face's own API."""

from __future__ import annotations

from typing import Any

import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from tests.conformance.clients.suites.subject import (
    API_KEY,
    CAPITAL,
    CITY_SCHEMA,
    MESSAGES,
    MODEL,
    URL,
    assert_is_city,
)


def new_client(api_key: str = API_KEY) -> Any:
    return InferenceClient(base_url=f"{URL}/v1", api_key=api_key)


@pytest.fixture(scope="module")
def client() -> Any:
    return new_client()


def chat(client: Any, **kwargs: Any) -> Any:
    return client.chat.completions.create(
        **{"model": MODEL, "messages": MESSAGES, "temperature": 0, **kwargs}
    )


def test_a_chat_is_answered_whole(client: Any) -> None:
    answer = chat(client)

    assert CAPITAL in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens > 1


def test_a_chat_streams_what_it_answers_whole(client: Any) -> None:
    whole = chat(client)

    *chunks, last = chat(client, stream=True, stream_options={"include_usage": True})

    texts = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(texts) == whole.choices[0].message.content
    assert last.usage.completion_tokens == whole.usage.completion_tokens


def test_its_parameters_are_taken(client: Any) -> None:
    answer = client.chat_completion(
        MESSAGES,
        model=MODEL,
        frequency_penalty=0.1,
        presence_penalty=0.1,
        logprobs=True,
        top_logprobs=2,
        max_tokens=5,
        seed=7,
        stop=["!"],
        temperature=0.7,
        top_p=0.9,
    )

    assert answer.usage.completion_tokens <= 5
    assert len(answer.choices[0].logprobs.content[0].top_logprobs) == 2


def test_a_schema_binds_the_answer(client: Any) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY_SCHEMA}}

    assert_is_city(chat(client, response_format=form).choices[0].message.content)


@pytest.mark.parametrize("stream", [False, True])
def test_an_unknown_model_is_not_found(client: Any, stream: bool) -> None:
    with pytest.raises(HfHubHTTPError) as caught:
        list(chat(client, model="gpt-9", stream=stream))

    assert caught.value.response.status_code == 404
    assert "gpt-9" in str(caught.value)


def test_a_bad_field_is_refused_by_name(client: Any) -> None:
    with pytest.raises(HfHubHTTPError) as caught:
        chat(client, extra_body={"temprature": 0})

    assert caught.value.response.status_code == 400
    assert "temprature" in str(caught.value)


def test_a_wrong_key_is_refused() -> None:
    with pytest.raises(HfHubHTTPError) as caught:
        chat(new_client("wrong"))

    assert caught.value.response.status_code == 401
