"""Chat completions, judged by the official client with strict validation of every response."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from palma.api.dialects.openai_chat.bodies import ChatBody
from palma.api.fields import NeutralOnly
from tests.live_server import LiveServer, user

PATH = "/v1/chat/completions"

NEUTRAL_VALUES = {
    name: mark.values
    for name, field in ChatBody.model_fields.items()
    for mark in field.metadata
    if isinstance(mark, NeutralOnly)
}


@pytest.fixture(scope="module")
def client(strict_openai: openai.OpenAI) -> openai.OpenAI:
    return strict_openai


def ask(client: openai.OpenAI, content: str, **kwargs: Any) -> Any:
    return client.chat.completions.create(
        model="mock", messages=[{"role": "user", "content": content}], **kwargs
    )


def test_a_whole_answer_has_text_reason_and_measured_usage(client: openai.OpenAI) -> None:
    completion = ask(client, "count to 3")

    choice = completion.choices[0]
    assert choice.message.content == "1 2 3 "
    assert choice.finish_reason == "stop"
    assert completion.model == "mock"
    assert completion.usage.completion_tokens == 4  # three numbers and the end token
    assert completion.usage.prompt_tokens == len(b"user: count to 3") + 1 + len(b"assistant: ")
    total = completion.usage.prompt_tokens + completion.usage.completion_tokens
    assert completion.usage.total_tokens == total


def test_finish_reason_is_length_when_max_tokens_runs_out(client: openai.OpenAI) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        completion = ask(client, "count to 100", **{name: 2})

        assert completion.choices[0].message.content == "1 2 "
        assert completion.choices[0].finish_reason == "length"
        assert completion.usage.completion_tokens == 2


def test_without_max_tokens_the_answer_may_be_longer_than_any_default(
    client: openai.OpenAI,
) -> None:
    completion = ask(client, "count to 1000")

    assert completion.usage.completion_tokens == 1001


def test_a_stream_joins_to_the_whole_answer(client: openai.OpenAI) -> None:
    for content, kwargs in (
        ("count to 12", {}),
        ("say añb🏴‍☠️", {}),
        ("count to 9", {"max_tokens": 4}),
    ):
        whole = ask(client, content, **kwargs)

        chunks = list(ask(client, content, stream=True, **kwargs))

        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert text == whole.choices[0].message.content
        assert chunks[0].choices[0].delta.role == "assistant"
        assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
        assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None] * (len(chunks) - 1)
        assert len({chunk.id for chunk in chunks}) == 1


def test_usage_comes_in_a_last_chunk_of_its_own_and_only_when_asked_for(
    client: openai.OpenAI,
) -> None:
    chunks = list(ask(client, "count to 3", stream=True, stream_options={"include_usage": True}))

    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 4
    assert all(chunk.usage is None for chunk in chunks[:-1])
    without = list(ask(client, "count to 3", stream=True))
    assert all(chunk.usage is None and chunk.choices for chunk in without)


@pytest.mark.parametrize("stop", ["5", ["5", "3 4"]])
def test_stop_strings_end_the_answer_and_are_not_in_it(client: openai.OpenAI, stop: Any) -> None:
    expected = "1 2 3 4 " if stop == "5" else "1 2 "

    whole = ask(client, "count to 9", stop=stop)
    chunks = list(ask(client, "count to 9", stop=stop, stream=True))

    assert whole.choices[0].message.content == expected
    assert whole.choices[0].finish_reason == "stop"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected


def test_text_parts_are_joined_and_developer_is_system(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(
        model="mock",
        messages=[
            {"role": "developer", "content": "be brief"},
            {
                "role": "user",
                "content": [{"type": "text", "text": "say a"}, {"type": "text", "text": "b"}],
            },
        ],
    )

    assert completion.choices[0].message.content == "ab"


def test_an_answer_may_be_sent_back_as_it_came(client: openai.OpenAI) -> None:
    """The client's message has all of OpenAI's fields, most of them null."""
    answer = ask(client, "count to 3").choices[0].message

    completion = client.chat.completions.create(
        model="mock", messages=[answer.model_dump(), {"role": "user", "content": "say more"}]
    )

    assert completion.choices[0].message.content == "more"


def test_labels_and_neutral_values_are_taken(mock_server: LiveServer) -> None:
    neutral = {name: values[0] for name, values in NEUTRAL_VALUES.items() if values}
    body = {"model": "mock", "messages": user("count to 1"), "user": "me", **neutral}

    assert mock_server.post(PATH, body).status_code == 200
    nulls = dict.fromkeys([*NEUTRAL_VALUES, "stop", "seed", "max_tokens", "stream_options"])
    assert mock_server.post(PATH, {**body, **nulls}).status_code == 200


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", True),
        ("audio", {"voice": "x"}),
        ("tool_choice", "required"),
        ("response_format", {"type": "json_object"}),
        ("service_tier", "flex"),
        ("reasoning_effort", "high"),
        ("no_such_field", 1),
    ],
)
def test_what_would_have_no_effect_is_refused_by_name(
    mock_server: LiveServer, field: str, value: Any
) -> None:
    body = {"model": "mock", "messages": user("count to 1"), field: value}

    response = mock_server.post(PATH, body)

    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == field
    assert field in error["message"]
    assert error["type"] == "invalid_request_error"


def test_each_of_n_choices_has_its_number_streamed_or_not(client: openai.OpenAI) -> None:
    completion = ask(client, "count to 2", n=3)
    stream = list(
        ask(client, "count to 2", n=3, stream=True, stream_options={"include_usage": True})
    )

    assert [(c.index, c.message.content) for c in completion.choices] == [
        (0, "1 2 "),
        (1, "1 2 "),
        (2, "1 2 "),
    ]
    assert completion.usage.completion_tokens == 9
    texts = ["", "", ""]
    reasons = []
    for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            reasons += [choice.finish_reason] if choice.finish_reason else []
    assert texts == ["1 2 ", "1 2 ", "1 2 "]
    assert reasons == ["stop"] * 3
    assert stream[-1].usage == completion.usage


def test_logprobs_cover_the_text_streamed_or_not(client: openai.OpenAI) -> None:
    asked = {"logprobs": True, "top_logprobs": 1}

    (choice,) = ask(client, "say h\u00e9!", **asked).choices
    stream = ask(client, "say h\u00e9!", stream=True, **asked)

    tokens = choice.logprobs.content
    assert b"".join(bytes(token.bytes) for token in tokens) == "h\u00e9!".encode()
    assert [token.logprob for token in tokens] == [0.0] * 4
    assert [token.top_logprobs[0].token for token in tokens] == [token.token for token in tokens]
    streamed = [
        token
        for chunk in stream
        for part in chunk.choices
        if part.logprobs is not None
        for token in part.logprobs.content
    ]
    assert [token.to_dict() for token in streamed] == [token.to_dict() for token in tokens]


def test_no_rivals_come_where_none_are_asked_for(client: openai.OpenAI) -> None:
    (choice,) = ask(client, "count to 2", logprobs=True).choices

    assert [token.top_logprobs for token in choice.logprobs.content] == [[], []]


def test_models_are_listed_and_retrieved(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data

    assert model.id == "mock"
    assert client.models.retrieve("mock").id == "mock"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("org/other")


def test_an_unknown_model_is_404_with_its_code(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-9", messages=[{"role": "user", "content": "hi"}])

    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"
