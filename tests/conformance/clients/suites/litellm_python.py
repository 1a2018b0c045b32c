"""LiteLLM, which speaks OpenAI's, Anthropic's and Ollama's routes behind one interface."""

from __future__ import annotations

from typing import Any

import litellm
import pytest

from tests.conformance.clients.suites.subject import (
    API_KEY,
    CAPITAL,
    CITY_SCHEMA,
    MESSAGES,
    MODEL,
    QUESTION,
    URL,
    assert_is_city,
    length,
)

OPENAI: dict[str, Any] = {"model": f"openai/{MODEL}", "api_base": f"{URL}/v1", "api_key": API_KEY}
ANTHROPIC: dict[str, Any] = {"model": f"anthropic/{MODEL}", "api_base": URL, "api_key": API_KEY}
OLLAMA: dict[str, Any] = {
    "model": f"ollama_chat/{MODEL}",
    "api_base": URL,
    "api_key": API_KEY,
    # Without it LiteLLM's bodies have no type, and such are refused: any web page can send them.
    "extra_headers": {"Content-Type": "application/json"},
}
ROUTES = [OPENAI, ANTHROPIC, OLLAMA]


def ask(route: dict[str, Any], **kwargs: Any) -> Any:
    fields = {"messages": MESSAGES, "temperature": 0, "max_tokens": 64, "num_retries": 0}
    return litellm.completion(**{**route, **fields, **kwargs})


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route["model"])
def test_a_chat_is_answered_whole(route: dict[str, Any]) -> None:
    answer = ask(route)

    assert CAPITAL in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens > 1
    assert answer.usage.prompt_tokens > 1


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route["model"])
def test_a_chat_streams_what_it_answers_whole(route: dict[str, Any]) -> None:
    whole = ask(route)

    chunks = list(ask(route, stream=True, stream_options={"include_usage": True}))

    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(texts) == whole.choices[0].message.content
    built = litellm.stream_chunk_builder(chunks)
    assert built.choices[0].finish_reason == "stop"
    assert built.usage.completion_tokens == whole.usage.completion_tokens


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route["model"])
def test_an_unknown_model_is_not_found(route: dict[str, Any]) -> None:
    with pytest.raises((litellm.NotFoundError, litellm.APIConnectionError)) as caught:
        ask({**route, "model": route["model"].replace(MODEL, "gpt-9")})

    assert "gpt-9" in str(caught.value)


@pytest.mark.parametrize("route", [OPENAI, ANTHROPIC], ids=lambda route: route["model"])
def test_a_bad_field_is_refused_by_name(route: dict[str, Any]) -> None:
    with pytest.raises(litellm.BadRequestError, match="temprature"):
        ask(route, temprature=0)


@pytest.mark.parametrize("route", [OPENAI, ANTHROPIC], ids=lambda route: route["model"])
def test_a_wrong_key_is_refused(route: dict[str, Any]) -> None:
    with pytest.raises(litellm.AuthenticationError):
        ask({**route, "api_key": "wrong"})


def test_a_schema_binds_the_answer() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY_SCHEMA}}

    assert_is_city(ask(OPENAI, response_format=form).choices[0].message.content)


def test_a_text_is_completed() -> None:
    route = {**OPENAI, "model": f"text-completion-openai/{MODEL}"}

    completion = litellm.text_completion(
        **route, prompt="The capital of Japan is", max_tokens=5, temperature=0
    )

    assert completion.choices[0].text
    assert 0 < completion.usage.completion_tokens <= 5


def test_texts_are_embedded() -> None:
    for encoding_format in ("float", "base64"):
        answer = litellm.embedding(
            **OPENAI, input=["Tokyo", "the capital"], encoding_format=encoding_format
        )
        assert len(answer.data) == 2
        assert answer.usage.prompt_tokens > 1
    numbers = litellm.embedding(**OPENAI, input=["Tokyo"], encoding_format="float")
    assert length(numbers.data[0]["embedding"]) == pytest.approx(1, abs=1e-3)


def test_a_response_is_answered_whole_and_as_a_stream() -> None:
    whole: Any = litellm.responses(**OPENAI, input=QUESTION, temperature=0)

    events: Any = litellm.responses(**OPENAI, input=QUESTION, temperature=0, stream=True)

    text = whole.output[0].content[0].text
    assert CAPITAL in text
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == text
