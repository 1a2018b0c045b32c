"""OpenAI's routes, by the official Python client with strict validation of every response."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_origin

import openai
import pytest
from openai.types import Completion, CompletionChoice, Embedding
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel, Field, ValidationError

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


class City(BaseModel):
    """What the answer shall be."""

    city: Literal["Lima", "Paris", "Tokyo"]
    districts: int = Field(ge=1, le=99)


class LookUp(BaseModel):
    """What is known of a city."""

    city: str


def new_client(api_key: str = API_KEY, *, is_strict: bool = True, url: str = URL) -> Any:
    return openai.OpenAI(
        base_url=f"{url}/v1",
        api_key=api_key,
        max_retries=0,
        _strict_response_validation=is_strict,
    )


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with new_client() as client:
        yield client


@pytest.fixture(scope="module")
def lenient_client() -> Iterator[Any]:
    """For the two answers that strict types forbid OpenAI too: see `forbidden`, below."""
    with new_client(is_strict=False) as client:
        yield client


@pytest.fixture(scope="module")
def mock() -> Iterator[Any]:
    """For calls that are known beforehand."""
    with new_client(url=MOCK_URL) as client:
        yield client


def body_of(caught: pytest.ExceptionInfo[openai.APIStatusError]) -> Any:
    return caught.value.body


def chat(client: Any, **kwargs: Any) -> Any:
    return client.chat.completions.create(
        **{"model": MODEL, "messages": MESSAGES, "temperature": 0, **kwargs}
    )


def respond(client: Any, **kwargs: Any) -> Any:
    return client.responses.create(
        **{"model": MODEL, "input": QUESTION, "temperature": 0, **kwargs}
    )


def test_a_chat_is_answered_whole(client: Any) -> None:
    answer = chat(client)

    assert CAPITAL in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == MODEL
    assert answer.usage.completion_tokens > 1
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_chat_streams_what_it_answers_whole(client: Any) -> None:
    whole = chat(client)

    *chunks, last = chat(client, stream=True, stream_options={"include_usage": True})

    texts = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(texts) == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert (last.choices, last.usage.completion_tokens) == ([], whole.usage.completion_tokens)


def test_the_client_s_own_helper_puts_a_stream_together(client: Any) -> None:
    with client.chat.completions.stream(model=MODEL, messages=MESSAGES, temperature=0) as stream:
        final = stream.get_final_completion()

    assert final.choices[0].message.content == chat(client).choices[0].message.content


def test_fields_of_a_chat_are_honoured(client: Any) -> None:
    answer = chat(client, n=2, logprobs=True, top_logprobs=3, max_completion_tokens=3)

    assert [choice.finish_reason for choice in answer.choices] == ["length", "length"]
    for choice in answer.choices:
        assert len(choice.logprobs.content) == 3
        assert all(len(token.top_logprobs) == 3 for token in choice.logprobs.content)
    assert CAPITAL not in chat(client, stop=[CAPITAL]).choices[0].message.content


def test_a_seed_repeats_an_answer(client: Any) -> None:
    answers = {
        chat(client, temperature=1.5, seed=7, max_tokens=20).choices[0].message.content
        for _ in range(2)
    }

    assert len(answers) == 1


def test_a_chat_is_parsed_into_a_model(client: Any) -> None:
    answer = client.chat.completions.parse(model=MODEL, messages=MESSAGES, response_format=City)

    assert isinstance(answer.choices[0].message.parsed, City)


def test_a_conversation_goes_on_with_the_answer_as_it_came(client: Any) -> None:
    turn = chat(client).choices[0].message.model_dump()

    answer = chat(client, messages=[*MESSAGES, turn, {"role": "user", "content": "And of Peru?"}])

    assert answer.choices[0].message.content


@pytest.mark.parametrize("path", ["/completions_full", "/completions", "/chat/generate"])
def test_a_text_is_completed_at_every_path(client: Any, path: str) -> None:
    body = {"model": MODEL, "prompt": "The capital of Japan is", "max_tokens": 5, "logprobs": 2}

    completion = client.post(path, cast_to=Completion, body={**body, "temperature": 0})

    assert completion.choices[0].text
    assert completion.usage.completion_tokens <= 5
    assert len(completion.choices[0].logprobs.tokens) == completion.usage.completion_tokens


def test_completions_stream_echo_and_count(client: Any, lenient_client: Any) -> None:
    body = {"model": MODEL, "prompt": ["One two", "Three"], "max_tokens": 4, "temperature": 0}
    whole = client.completions.create(**body, echo=True, n=2, best_of=2)

    chunks = list(lenient_client.completions.create(**body, stream=True))

    texts = [
        "".join(c.choices[0].text for c in chunks if c.choices[0].index == index)
        for index in (0, 1)
    ]
    assert [choice.text for choice in whole.choices[::2]] == [
        "One two" + texts[0],
        "Three" + texts[1],
    ]


def forbidden(caught: pytest.ExceptionInfo[BaseException]) -> set[tuple[Any, ...]]:
    """Return where an answer breaks the client's types: field names, list indices left out."""
    assert isinstance(caught.value.__cause__, ValidationError)
    return {
        tuple(part for part in error["loc"] if isinstance(part, str))
        for error in caught.value.__cause__.errors()
    }


def test_strict_types_forbid_text_chunks_without_a_finish_reason(client: Any) -> None:
    """`CompletionChoice` is also the type of a stream's choices, and its `finish_reason` must be a
    word; OpenAI, and Palma, send null there until the last chunk. Nothing else is forbidden."""
    body = {"model": MODEL, "prompt": "One two", "max_tokens": 4, "temperature": 0}

    with pytest.raises(openai.APIResponseValidationError) as caught:
        list(client.completions.create(**body, stream=True))

    assert CompletionChoice.model_fields["finish_reason"].is_required()
    assert forbidden(caught) == {("choices", "finish_reason")}


def test_strict_types_forbid_the_base64_that_the_client_itself_asks_for(client: Any) -> None:
    """`Embedding.embedding` is a list of floats, and answers are validated before `create` decodes
    the base64 that it asks for where nobody says `float`. Nothing else is forbidden."""
    with pytest.raises(openai.APIResponseValidationError) as caught:
        client.embeddings.create(model=MODEL, input="Tokyo")

    assert get_origin(Embedding.model_fields["embedding"].annotation) is list
    assert forbidden(caught) == {("data", "embedding")}


def test_cria_s_paths_answer_whole_and_as_a_stream(client: Any) -> None:
    body = {"model": MODEL, "messages": MESSAGES, "temperature": 0}
    whole = client.post("/chat/completions_full", cast_to=ChatCompletion, body=body)

    chunks = client.post(
        "/chat/completions_stream",
        cast_to=ChatCompletionChunk,
        body=body,
        stream=True,
        stream_cls=openai.Stream[ChatCompletionChunk],
    )

    texts = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(texts) == whole.choices[0].message.content


def test_models_are_listed_and_retrieved(client: Any) -> None:
    assert MODEL in [model.id for model in client.models.list()]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")


def test_embeddings_come_as_base64_and_as_numbers(client: Any, lenient_client: Any) -> None:
    texts = ["Tokyo", "the capital of Japan"]
    packed = lenient_client.embeddings.create(model=MODEL, input=texts)
    numbers = client.embeddings.create(model=MODEL, input=texts, encoding_format="float")
    short = lenient_client.embeddings.create(model=MODEL, input=texts[0], dimensions=8)

    assert [item.index for item in packed.data] == [0, 1]
    for one, other in zip(packed.data, numbers.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
        assert length(one.embedding) == pytest.approx(1, abs=1e-3)
    assert len(short.data[0].embedding) == 8
    assert packed.usage.prompt_tokens == packed.usage.total_tokens > 1


def test_a_response_is_answered_stored_and_deleted(client: Any) -> None:
    response = respond(client, metadata={"who": "me"})

    assert CAPITAL in response.output_text
    assert (response.status, response.metadata) == ("completed", {"who": "me"})
    assert response.usage.output_tokens > 1
    assert client.responses.retrieve(response.id).output_text == response.output_text
    (item,) = client.responses.input_items.list(response.id)
    assert item.content[0].text == QUESTION
    client.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)


def test_a_response_streams_what_it_answers_whole(client: Any) -> None:
    whole = respond(client)

    events = list(respond(client, stream=True))

    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == whole.output_text
    assert (events[0].type, events[-1].type) == ("response.created", "response.completed")
    assert events[-1].response.usage.output_tokens == whole.usage.output_tokens


def test_a_response_is_continued(client: Any) -> None:
    first = respond(client)
    second = respond(client, input="And of Peru?", previous_response_id=first.id)

    assert second.previous_response_id == first.id
    assert second.usage.input_tokens > first.usage.input_tokens


def test_a_background_response_is_polled_and_cancelled(client: Any) -> None:
    response = respond(client, background=True)
    while response.status in ("queued", "in_progress"):
        response = client.responses.retrieve(response.id)

    assert CAPITAL in response.output_text
    assert client.responses.cancel(response.id).status == "completed"


def test_a_response_is_parsed_into_a_model(client: Any) -> None:
    response = client.responses.parse(model=MODEL, input=QUESTION, text_format=City)

    assert isinstance(response.output_parsed, City)
    assert_is_city(response.output_text)


def test_conversations_keep_their_items(client: Any) -> None:
    conversation = client.conversations.create(metadata={"who": "me"})
    response = respond(client, conversation=conversation.id)
    items = list(client.conversations.items.list(conversation.id, order="asc"))
    item_id = items[0].id

    assert [item.role for item in items] == ["user", "assistant"]
    assert items[1].content[0].text == response.output_text
    assert client.conversations.items.retrieve(item_id, conversation_id=conversation.id) == items[0]
    added = client.conversations.items.create(conversation.id, items=MESSAGES)
    assert added.data[0].content[0].text == QUESTION
    client.conversations.items.delete(item_id, conversation_id=conversation.id)
    changed = client.conversations.update(conversation.id, metadata={"who": "you"})
    assert changed == client.conversations.retrieve(conversation.id)
    assert client.conversations.delete(conversation.id).deleted


@pytest.mark.parametrize("stream", [False, True])
def test_an_unknown_model_is_not_found(client: Any, stream: bool) -> None:
    for ask in (chat, respond):
        with pytest.raises(openai.NotFoundError) as caught:
            ask(client, model="gpt-9", stream=stream)
        assert "gpt-9" in body_of(caught)["message"]
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="gpt-9", input="x")


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", 9), ("temprature", 0), ("tools", [{"type": "wrong"}]), ("max_tokens", "1")],
)
def test_a_bad_field_is_refused_by_name(client: Any, field: str, value: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, extra_body={field: value})

    assert (caught.value.param or "").partition(".")[0] == field
    assert field in body_of(caught)["message"]


def test_a_wrong_key_is_refused() -> None:
    with new_client("wrong") as client, pytest.raises(openai.AuthenticationError):
        client.models.list()


def test_a_schema_in_a_chat_binds_a_stream_as_well(client: Any) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY_SCHEMA}}

    chunks = list(chat(client, response_format=form, stream=True))

    assert_is_city("".join(chunk.choices[0].delta.content or "" for chunk in chunks))


def test_a_tool_that_is_demanded_in_a_chat_is_called_and_parsed(client: Any) -> None:
    tools = [openai.pydantic_function_tool(City)]
    choice = {"type": "function", "function": {"name": "City"}}
    fields = {"model": MODEL, "messages": MESSAGES, "temperature": 0}

    whole = client.chat.completions.parse(**fields, tools=tools, tool_choice=choice)
    with client.chat.completions.stream(**fields, tools=tools, tool_choice=choice) as stream:
        streamed = stream.get_final_completion()

    for answer in (whole, streamed):
        made = answer.choices[0].message.tool_calls
        assert all(isinstance(call.function.parsed_arguments, City) for call in made)
    assert made[0].function.arguments == whole.choices[0].message.tool_calls[0].function.arguments


def test_a_tool_that_is_demanded_in_a_response_is_called_and_parsed(client: Any) -> None:
    tools = [openai.pydantic_responses_function_tool(City)]
    fields = {"model": MODEL, "input": QUESTION, "temperature": 0, "tools": tools}

    whole = client.responses.parse(**fields, tool_choice="required")
    with client.responses.stream(**fields, tool_choice="required") as stream:
        streamed = stream.get_final_response()

    for answer in (whole, streamed):
        assert all(isinstance(item.parsed_arguments, City) for item in answer.output)
    assert streamed.output[0].arguments == whole.output[0].arguments


def test_an_agent_goes_three_turns_in_a_chat(mock: Any) -> None:
    tools = [openai.pydantic_function_tool(LookUp, name="look_up")]
    turns: list[Any] = [{"role": "user", "content": FIRST_CALL}]

    for city in ("Lima", "Oslo", "Rome"):
        answer = mock.chat.completions.parse(model=MOCK, messages=turns, tools=tools)
        (choice,) = answer.choices
        (made,) = choice.message.tool_calls
        assert (choice.finish_reason, made.function.parsed_arguments.city) == ("tool_calls", city)
        result = {"role": "tool", "tool_call_id": made.id, "content": look_up(city)}
        turns += [choice.message, result]

    last = mock.chat.completions.create(model=MOCK, messages=turns, tools=tools)
    assert LAST_WORDS in last.choices[0].message.content


def test_an_agent_goes_three_turns_in_responses(mock: Any) -> None:
    tools = [openai.pydantic_responses_function_tool(LookUp, name="look_up")]
    fields: dict[str, Any] = {"model": MOCK, "tools": tools, "input": FIRST_CALL}

    for city in ("Lima", "Oslo", "Rome"):
        response = mock.responses.parse(**fields)
        (made,) = response.output
        assert made.parsed_arguments.city == city
        result = {"type": "function_call_output", "call_id": made.call_id, "output": look_up(city)}
        fields |= {"input": [result], "previous_response_id": response.id}

    assert LAST_WORDS in mock.responses.create(**fields).output_text
