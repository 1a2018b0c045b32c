"""LangChain's client of OpenAI's routes."""

from __future__ import annotations

from typing import Any, Literal

import openai
import pytest
from langchain_core.messages import AIMessageChunk, HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel, Field

from tests.conformance.clients.suites.subject import (
    API_KEY,
    CAPITAL,
    FIRST_CALL,
    LAST_WORDS,
    MOCK,
    MOCK_URL,
    MODEL,
    QUESTION,
    URL,
    length,
    look_up,
)

SERVER: dict[str, Any] = {"base_url": f"{URL}/v1", "api_key": API_KEY, "max_retries": 0}


class City(BaseModel):
    """A city that is a capital."""

    city: Literal["Lima", "Paris", "Tokyo"]
    districts: int = Field(ge=1, le=99)


class Guess(BaseModel):
    """What any object can be read as."""

    city: str = "nowhere"


def new_chat(**kwargs: Any) -> Any:
    """Return a greedy one; unasked it counts no streams of servers that are not OpenAI's."""
    fields = {"model": MODEL, "temperature": 0, "stream_usage": True}
    return ChatOpenAI(**{**SERVER, **fields, **kwargs})


@pytest.fixture(scope="module", params=[False, True], ids=["chat", "responses"])
def chat(request: pytest.FixtureRequest) -> Any:
    return new_chat(use_responses_api=request.param)


def test_a_message_is_answered_whole(chat: Any) -> None:
    message = chat.invoke(QUESTION)

    assert CAPITAL in message.text
    usage = message.usage_metadata
    assert usage["output_tokens"] > 1
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


def test_a_message_streams_what_it_answers_whole(chat: Any) -> None:
    whole = chat.invoke(QUESTION)

    parts = list(chat.stream(QUESTION))

    assert "".join(part.text for part in parts) == whole.text
    assert parts[0].usage_metadata is None
    counted = [part.usage_metadata for part in parts if part.usage_metadata]
    assert [usage["output_tokens"] for usage in counted] == [whole.usage_metadata["output_tokens"]]


def test_a_conversation_goes_on(chat: Any) -> None:
    pirate = ("system", "You are a pirate chatbot who always responds in pirate speak!")

    first = chat.invoke([pirate, ("human", QUESTION)])
    second = chat.invoke([pirate, ("human", QUESTION), first, ("human", "And of Peru?")])

    assert first.text != chat.invoke(QUESTION).text
    assert second.usage_metadata["input_tokens"] > first.usage_metadata["input_tokens"]


def test_a_batch_is_answered_in_its_order(chat: Any) -> None:
    answers = chat.batch([QUESTION, "What is the capital of Peru?"])

    assert CAPITAL in answers[0].text
    assert answers[1].text != answers[0].text


@pytest.mark.parametrize("method", ["function_calling", "json_schema"])
@pytest.mark.parametrize("seed", [None, 1, 2])
def test_an_answer_is_an_instance_of_the_model(chat: Any, method: str, seed: int | None) -> None:
    drawn = {} if seed is None else {"temperature": 1.5, "extra_body": {"seed": seed}}

    city = chat.with_structured_output(City, method=method).invoke(QUESTION, **drawn)

    assert isinstance(city, City)


def test_json_mode_gives_an_object_whatever_the_model_would_say(chat: Any) -> None:
    braces = {"logit_bias_type": "tokens", "logit_bias": {"{": 100, "}": 100}}
    reader = chat.with_structured_output(Guess, method="json_mode")

    assert reader.invoke(QUESTION, extra_body=braces) == Guess()


@pytest.mark.parametrize("method", ["function_calling", "json_schema"])
def test_a_stream_grows_into_the_same_instance(chat: Any, method: str) -> None:
    reader = chat.with_structured_output(City, method=method)

    parts = list(reader.stream(QUESTION))

    assert parts[-1] == reader.invoke(QUESTION)


@pytest.mark.parametrize("choice", ["City", "any", "required"])
def test_a_tool_is_called_with_what_it_takes(chat: Any, choice: str) -> None:
    caller = chat.bind_tools([City], tool_choice=choice, parallel_tool_calls=False)

    whole = caller.invoke(QUESTION)
    added = AIMessageChunk(content="")
    for part in caller.stream(QUESTION):
        added += part

    (call,) = whole.tool_calls
    assert call["name"] == "City"
    assert City(**call["args"])
    assert [made["args"] for made in added.tool_calls] == [call["args"]]
    assert not whole.invalid_tool_calls


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("use_responses_api", [False, True])
def test_an_agent_goes_three_turns(use_responses_api: bool, is_streamed: bool) -> None:
    mock = {"base_url": f"{MOCK_URL}/v1", "model": MOCK, "use_responses_api": use_responses_api}
    agent = new_chat(**mock).bind_tools([look_up])
    turns: list[Any] = [HumanMessage(FIRST_CALL)]

    for city in ("Lima", "Oslo", "Rome"):
        if is_streamed:
            turn: Any = AIMessageChunk(content="")
            for part in agent.stream(turns):
                turn += part
        else:
            turn = agent.invoke(turns)
        (made,) = turn.tool_calls
        assert (made["name"], made["args"]) == ("look_up", {"city": city})
        turns += [turn, ToolMessage(look_up(city), tool_call_id=made["id"])]

    assert LAST_WORDS in agent.invoke(turns).text


def test_log_probabilities_cover_the_text() -> None:
    message = new_chat(logprobs=True, top_logprobs=2).invoke(QUESTION)

    tokens = message.response_metadata["logprobs"]["content"]
    assert "".join(token["token"] for token in tokens).startswith(message.text)
    assert all(len(token["top_logprobs"]) == 2 for token in tokens)


def test_a_text_is_completed_whole_and_as_a_stream() -> None:
    model = OpenAI(**SERVER, model=MODEL, temperature=0, max_tokens=5)

    whole = model.invoke("The capital of Japan is")

    assert whole
    assert "".join(model.stream("The capital of Japan is")) == whole


def test_texts_are_embedded() -> None:
    embeddings = OpenAIEmbeddings(**SERVER, model=MODEL, check_embedding_ctx_length=False)

    vectors = embeddings.embed_documents(["Tokyo", "the capital of Japan"])

    assert [length(vector) for vector in vectors] == pytest.approx([1, 1], abs=1e-3)
    assert embeddings.embed_query("Tokyo") == pytest.approx(vectors[0], abs=1e-3)


@pytest.mark.parametrize("use_responses_api", [False, True])
def test_an_unknown_model_is_not_found(use_responses_api: bool) -> None:
    chat = new_chat(model="gpt-9", use_responses_api=use_responses_api)

    with pytest.raises(openai.NotFoundError, match="gpt-9"):
        chat.invoke(QUESTION)
    with pytest.raises(openai.NotFoundError, match="gpt-9"):
        list(chat.stream(QUESTION))


def test_a_bad_field_is_refused_by_name(chat: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        chat.invoke(QUESTION, extra_body={"temprature": 0})

    assert caught.value.param == "temprature"


def test_a_wrong_key_is_refused() -> None:
    with pytest.raises(openai.AuthenticationError):
        new_chat(api_key="wrong").invoke(QUESTION)
