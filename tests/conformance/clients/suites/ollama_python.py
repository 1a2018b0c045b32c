"""Ollama's routes, by the official client, which validates every response."""

from __future__ import annotations

from typing import Any

import ollama
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
    QUESTION,
    URL,
    assert_is_city,
    length,
    look_up,
)

GREEDY = {"temperature": 0, "repeat_penalty": 1.0}


def new_client(api_key: str = API_KEY, *, url: str = URL) -> Any:
    return ollama.Client(host=url, headers={"Authorization": f"Bearer {api_key}"})


@pytest.fixture(scope="module")
def client() -> Any:
    return new_client()


def test_a_chat_is_answered_whole(client: Any) -> None:
    answer = client.chat(model=MODEL, messages=MESSAGES, options=GREEDY)

    assert CAPITAL in answer.message.content
    assert (answer.model, answer.done, answer.done_reason) == (MODEL, True, "stop")
    assert answer.eval_count > 1
    assert answer.prompt_eval_count > 1
    assert answer.total_duration >= answer.eval_duration > 0


def test_a_chat_streams_what_it_answers_whole(client: Any) -> None:
    whole = client.chat(model=MODEL, messages=MESSAGES, options=GREEDY)

    parts = list(client.chat(model=MODEL, messages=MESSAGES, options=GREEDY, stream=True))

    assert "".join(part.message.content for part in parts) == whole.message.content
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1].eval_count == whole.eval_count


@pytest.mark.parametrize("stream", [False, True])
def test_an_agent_goes_three_turns(stream: bool) -> None:
    mock = new_client(url=MOCK_URL)
    turns: list[Any] = [{"role": "user", "content": FIRST_CALL}]

    for city in ("Lima", "Oslo", "Rome"):
        answer = mock.chat(model=MOCK, messages=turns, tools=[look_up], stream=stream)
        messages = [part.message for part in (answer if stream else [answer])]
        (made,) = [call for message in messages for call in message.tool_calls or ()]
        assert (made.function.name, made.function.arguments) == ("look_up", {"city": city})
        called = ollama.Message(role="assistant", tool_calls=[made])
        turns += [called, {"role": "tool", "tool_name": "look_up", "content": look_up(city)}]

    last = mock.chat(model=MOCK, messages=turns, tools=[look_up])
    assert LAST_WORDS in last.message.content


def test_a_prompt_is_answered_whole_and_as_a_stream(client: Any) -> None:
    whole = client.generate(model=MODEL, prompt=QUESTION, options=GREEDY)

    parts = client.generate(model=MODEL, prompt=QUESTION, options=GREEDY, stream=True)

    assert CAPITAL in whole.response
    assert "".join(part.response for part in parts) == whole.response


def test_options_end_an_answer(client: Any) -> None:
    cut = client.generate(model=MODEL, prompt=QUESTION, options={**GREEDY, "num_predict": 3})
    stopped = client.generate(model=MODEL, prompt=QUESTION, options={**GREEDY, "stop": [CAPITAL]})

    assert (cut.done_reason, cut.eval_count) == ("length", 3)
    assert CAPITAL not in stopped.response


def test_a_schema_binds_the_answer(client: Any) -> None:
    assert_is_city(client.chat(model=MODEL, messages=MESSAGES, format=CITY_SCHEMA).message.content)


def test_texts_are_embedded(client: Any) -> None:
    embeddings = client.embed(model=MODEL, input=["Tokyo", "the capital of Japan"]).embeddings
    single = client.embeddings(model=MODEL, prompt="Tokyo").embedding

    assert len(embeddings) == 2
    assert all(length(list(e)) == pytest.approx(1, abs=1e-3) for e in embeddings)
    assert list(single) == pytest.approx(list(embeddings[0]), abs=1e-3)


def test_models_are_listed_and_described(client: Any) -> None:
    (model,) = client.list().models
    shown = client.show(MODEL)
    (running,) = client.ps().models

    assert model.model.partition(":")[0] == running.model.partition(":")[0] == MODEL
    assert model.size > 0
    assert {"completion", "embedding"} <= set(shown.capabilities)
    assert shown.details.family


def test_what_is_here_is_pulled_at_once(client: Any) -> None:
    assert client.pull(MODEL).status == "success"


@pytest.mark.parametrize("stream", [False, True])
def test_an_unknown_model_is_not_found(client: Any, stream: bool) -> None:
    with pytest.raises(ollama.ResponseError) as caught:
        list(client.chat(model="llama9", messages=MESSAGES, stream=stream))

    assert caught.value.status_code == 404
    assert "llama9" in caught.value.error


def test_a_bad_option_is_refused_by_name(client: Any) -> None:
    with pytest.raises(ollama.ResponseError) as caught:
        client.chat(model=MODEL, messages=MESSAGES, options={"temprature": 0})

    assert caught.value.status_code == 400
    assert "temprature" in caught.value.error


def test_a_wrong_key_is_refused() -> None:
    with pytest.raises(ollama.ResponseError) as caught:
        new_client("wrong").chat(model=MODEL, messages=MESSAGES)

    assert caught.value.status_code == 401
