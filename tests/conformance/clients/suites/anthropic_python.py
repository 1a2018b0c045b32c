"""Anthropic's messages, by the official client with strict validation of every response."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
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


def new_client(api_key: str = API_KEY, *, url: str = URL) -> Any:
    return anthropic.Anthropic(
        base_url=url, api_key=api_key, max_retries=0, _strict_response_validation=True
    )


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with new_client() as client:
        yield client


def body_of(caught: pytest.ExceptionInfo[anthropic.APIStatusError]) -> Any:
    return caught.value.body


def body(*, extra_body: Any = None, **kwargs: Any) -> dict[str, Any]:
    """Return a greedy request; newer clients know no temperature."""
    extra = {"temperature": 0, **(extra_body or {})}
    return {"model": MODEL, "messages": MESSAGES, "max_tokens": 64, "extra_body": extra, **kwargs}


def test_a_message_is_answered_whole(client: Any) -> None:
    message = client.messages.create(**body())

    assert CAPITAL in message.content[0].text
    assert (message.model, message.role, message.stop_reason) == (MODEL, "assistant", "end_turn")
    assert message.usage.output_tokens > 1


def test_a_message_streams_what_it_answers_whole(client: Any) -> None:
    whole = client.messages.create(**body())

    events = list(client.messages.create(**body(stream=True)))
    with client.messages.stream(**body()) as stream:
        final = stream.get_final_message()

    deltas = [event.delta.text for event in events if event.type == "content_block_delta"]
    assert "".join(deltas) == whole.content[0].text == final.content[0].text
    assert (events[0].type, events[-1].type) == ("message_start", "message_stop")
    assert final.stop_reason == whole.stop_reason
    assert final.usage.output_tokens == whole.usage.output_tokens


def test_a_limit_and_a_stop_string_end_a_message(client: Any) -> None:
    cut = client.messages.create(**body(max_tokens=3))
    stopped = client.messages.create(**body(stop_sequences=[CAPITAL]))

    assert (cut.stop_reason, cut.usage.output_tokens) == ("max_tokens", 3)
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", CAPITAL)
    assert CAPITAL not in stopped.content[0].text


def test_a_turn_of_the_assistant_s_is_continued(client: Any) -> None:
    begun = {"role": "assistant", "content": "The capital of Japan is"}

    message = client.messages.create(**body(messages=[*MESSAGES, begun]))

    assert message.content[0].text.startswith(f" {CAPITAL}")


def test_a_system_prompt_changes_the_answer(client: Any) -> None:
    pirate = "You are a pirate chatbot who always responds in pirate speak!"

    spoken = client.messages.create(**body(system=pirate)).content[0].text

    assert spoken != client.messages.create(**body()).content[0].text


def test_tokens_are_counted_as_a_message_counts_them(client: Any) -> None:
    counted = client.messages.count_tokens(model=MODEL, messages=MESSAGES).input_tokens

    usage = client.messages.create(**body()).usage

    assert counted == usage.input_tokens + usage.cache_read_input_tokens


def test_a_schema_binds_the_answer(client: Any) -> None:
    form = {"format": {"type": "json_schema", "schema": CITY_SCHEMA}}

    message = client.messages.create(**body(output_config=form))

    assert_is_city(message.content[0].text)


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "city"}])
def test_a_tool_that_is_demanded_is_called(client: Any, choice: Any) -> None:
    tools = [{"name": "city", "input_schema": CITY_SCHEMA, "cache_control": {"type": "ephemeral"}}]
    one = {**choice, "disable_parallel_tool_use": True}
    asked = body(tools=tools, tool_choice=one, max_tokens=300)

    whole = client.messages.create(**asked)
    with client.messages.stream(**asked) as stream:
        streamed = stream.get_final_message()

    (used,) = whole.content
    assert (used.type, used.name, whole.stop_reason) == ("tool_use", "city", "tool_use")
    assert_is_city(json.dumps(used.input))
    assert streamed.content[0].input == used.input


@pytest.mark.parametrize("stream", [False, True])
def test_an_agent_goes_three_turns(stream: bool) -> None:
    with new_client(url=MOCK_URL) as mock:
        runner = mock.beta.messages.tool_runner(
            model=MOCK,
            max_tokens=200,
            messages=[{"role": "user", "content": FIRST_CALL}],
            tools=[anthropic.beta_tool(look_up)],
            stream=stream,
        )
        answers = [each.get_final_message() if stream else each for each in runner]

    called = [answer.content[0].input["city"] for answer in answers[:-1]]
    assert called == ["Lima", "Oslo", "Rome"]
    assert LAST_WORDS in answers[-1].content[0].text


@pytest.mark.parametrize("stream", [False, True])
def test_an_unknown_model_is_not_found(client: Any, stream: bool) -> None:
    with pytest.raises(anthropic.NotFoundError) as caught:
        client.messages.create(**body(model="claude-9", stream=stream))

    assert body_of(caught)["error"]["type"] == "not_found_error"
    assert "claude-9" in body_of(caught)["error"]["message"]


@pytest.mark.parametrize(("field", "value"), [("temperature", 2), ("temprature", 0)])
def test_a_bad_field_is_refused_by_name(client: Any, field: str, value: Any) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.messages.create(**body(extra_body={field: value}))

    assert body_of(caught)["error"]["type"] == "invalid_request_error"
    assert field in body_of(caught)["error"]["message"]


def test_a_wrong_key_is_refused() -> None:
    with new_client("wrong") as client, pytest.raises(anthropic.AuthenticationError):
        client.messages.create(**body())
