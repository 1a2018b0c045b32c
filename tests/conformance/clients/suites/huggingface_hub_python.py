"""Chat by `huggingface_hub.InferenceClient`: whole, streamed, asynchronous, with tools and forms.

Its other tasks, text generation and feature extraction among them, are for Hugging Face's own API:
they post `inputs` to the base URL itself, and are told that nothing is there.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import HfHubHTTPError

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

LOOK_UP = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "What is known of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


def new_client(api_key: str = API_KEY, url: str = URL) -> Any:
    return InferenceClient(base_url=f"{url}/v1", api_key=api_key)


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


@pytest.mark.parametrize("stream", [False, True])
def test_a_schema_binds_the_answer(client: Any, stream: bool) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY_SCHEMA}}

    answer = chat(client, response_format=form, stream=stream)

    assert_is_city(
        "".join(chunk.choices[0].delta.content or "" for chunk in answer)
        if stream
        else answer.choices[0].message.content
    )


def test_an_answer_may_be_asked_to_be_json(client: Any) -> None:
    answer = chat(client, response_format={"type": "json_object"}, max_tokens=200)

    (choice,) = answer.choices
    assert choice.message.content.startswith("{")
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(choice.message.content), dict)


def test_several_choices_come_together(client: Any) -> None:
    answer = chat(client, extra_body={"n": 2}, seed=7, temperature=1, max_tokens=5)

    assert [choice.index for choice in answer.choices] == [0, 1]


def test_a_seed_repeats_an_answer(client: Any) -> None:
    texts = {
        chat(client, temperature=1.5, seed=7, max_tokens=20).choices[0].message.content
        for _ in range(2)
    }

    assert len(texts) == 1


def test_the_asynchronous_client_hears_the_same(client: Any) -> None:
    async def ask() -> tuple[str, str]:
        async with AsyncInferenceClient(base_url=f"{URL}/v1", api_key=API_KEY) as asynchronous:
            whole = await chat(asynchronous)
            chunks = [chunk async for chunk in await chat(asynchronous, stream=True)]
        texts = [chunk.choices[0].delta.content or "" for chunk in chunks]
        return whole.choices[0].message.content, "".join(texts)

    expected = chat(client).choices[0].message.content

    assert asyncio.run(ask()) == (expected, expected)


def test_a_tool_that_is_demanded_is_called(client: Any) -> None:
    tool = {"type": "function", "function": {"name": "City", "parameters": CITY_SCHEMA}}

    for tool_choice in ("required", {"function": {"name": "City"}}):
        answer = chat(client, tools=[tool], tool_choice=tool_choice)
        (made,) = answer.choices[0].message.tool_calls
        assert answer.choices[0].finish_reason == "tool_calls"
        assert made.function.name == "City"
        assert_is_city(made.function.arguments)


@pytest.mark.parametrize("stream", [False, True])
def test_an_agent_goes_three_turns(stream: bool) -> None:
    mock = new_client(url=MOCK_URL)
    turns: list[Any] = [{"role": "user", "content": FIRST_CALL}]

    def ask() -> Any:
        return mock.chat_completion(turns, model=MOCK, tools=[LOOK_UP], stream=stream)

    for city in ("Lima", "Oslo", "Rome"):
        call_id, arguments = streamed_call(ask()) if stream else whole_call(ask())
        assert json.loads(arguments) == {"city": city}
        function = {"name": "look_up", "arguments": arguments}
        call = {"id": call_id, "type": "function", "function": function}
        result = {"role": "tool", "tool_call_id": call_id, "content": look_up(city)}
        turns += [{"role": "assistant", "tool_calls": [call]}, result]

    last = mock.chat_completion(turns, model=MOCK, tools=[LOOK_UP])
    assert LAST_WORDS in last.choices[0].message.content


def whole_call(answer: Any) -> tuple[str, str]:
    """Return the id and the arguments of the only call."""
    (made,) = answer.choices[0].message.tool_calls
    return made.id, made.function.arguments


def streamed_call(chunks: Any) -> tuple[str, str]:
    """Return the same from a stream."""
    pieces = [c for chunk in chunks for c in chunk.choices[0].delta.tool_calls or ()]
    return pieces[0].id, "".join(piece.function.arguments for piece in pieces)


def test_the_server_is_healthy() -> None:
    assert InferenceClient(provider="hf-inference", api_key=API_KEY).health_check(URL)


@pytest.mark.parametrize("task", ["text_generation", "feature_extraction"])
def test_a_task_of_hugging_face_s_own_api_is_not_found(client: Any, task: str) -> None:
    with pytest.raises(HfHubHTTPError) as caught:
        getattr(client, task)("Hi")

    assert caught.value.response.status_code == 404
    assert "nothing at '/v1'" in str(caught.value)


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
