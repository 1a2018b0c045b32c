"""What a response continues: an earlier one, or a conversation; and what fits into the window."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.api.dialects.responses_client import (
    ask,
    ask_palmita,
    sdk,
    texts,
)
from tests.live_server import (
    LiveServer,
    running_server,
)


@pytest.fixture(scope="module")
def client(mock_server: LiveServer) -> Iterator[Any]:
    with sdk(mock_server) as client:
        yield client


@pytest.fixture(scope="module")
def palmita(palmita_server: LiveServer) -> Iterator[Any]:
    with sdk(palmita_server) as client:
        yield client


def test_a_previous_response_is_continued(palmita: Any) -> None:
    first = ask_palmita(palmita, "What is the capital of Italy?")
    second = ask_palmita(palmita, "And of France?", previous_response_id=first.id)
    with palmita.responses.stream(
        model="palmita", input="And of Spain?", previous_response_id=second.id, temperature=0
    ) as stream:
        third = stream.get_final_response()

    assert "Rome" in first.output_text
    assert "Paris" in second.output_text
    assert "Madrid" in third.output_text
    assert second.previous_response_id == first.id
    assert texts(palmita.responses.input_items.list(third.id, order="asc")) == [
        "What is the capital of Italy?",
        first.output_text,
        "And of France?",
        second.output_text,
        "And of Spain?",
    ]


def test_instructions_are_for_one_response_only(client: Any) -> None:
    plain = ask(client, "say a", previous_response_id=ask(client, "say x").id)
    first = ask(client, "say x", instructions="Talk like a pirate.")

    second = ask(client, "say a", previous_response_id=first.id)

    assert second.instructions is None
    assert second.usage.input_tokens == plain.usage.input_tokens


def test_a_response_can_be_continued_in_several_ways_at_once(client: Any) -> None:
    first = ask(client, "say root")
    answers: dict[str, Any] = {}

    def branch(name: str) -> None:
        answers[name] = ask(client, f"slowly say {name}", previous_response_id=first.id)

    threads = [threading.Thread(target=branch, args=[name]) for name in ("left", "right")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    for name, answer in answers.items():
        assert answer.output_text == name
        said = texts(client.responses.input_items.list(answer.id, order="asc"))
        assert said == ["say root", "root", f"slowly say {name}"]


def test_a_conversation_is_continued_and_can_be_read(palmita: Any) -> None:
    conversation = palmita.conversations.create(metadata={"topic": "capitals"})
    first = ask_palmita(palmita, "What is the capital of Italy?", conversation=conversation.id)
    second = ask_palmita(
        palmita, "And of France?", conversation={"id": conversation.id}, stream=True
    )
    *_, completed = second

    assert first.conversation.id == completed.response.conversation.id == conversation.id
    assert "Paris" in completed.response.output_text
    said = list(palmita.conversations.items.list(conversation.id, order="asc"))
    assert texts(said) == [
        "What is the capital of Italy?",
        first.output_text,
        "And of France?",
        completed.response.output_text,
    ]
    assert said[1].id == first.output[0].id
    assert palmita.conversations.retrieve(conversation.id) == conversation


def test_a_conversation_gets_the_turn_of_a_response_that_is_not_stored(
    client: Any,
) -> None:
    conversation = client.conversations.create()

    response = ask(client, "say a", conversation=conversation.id, store=False)

    assert texts(client.conversations.items.list(conversation.id, order="asc")) == ["say a", "a"]
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)


def test_a_failed_turn_does_not_enter_the_conversation(client: Any) -> None:
    conversation = client.conversations.create()

    *_, failed = ask(client, "fail after 1", conversation=conversation.id, stream=True)

    assert failed.type == "response.failed"
    assert list(client.conversations.items.list(conversation.id)) == []


@pytest.mark.parametrize(
    ("fields", "error", "code"),
    [
        ({"previous_response_id": "resp_x"}, openai.BadRequestError, "previous_response_not_found"),
        ({"conversation": "conv_x"}, openai.NotFoundError, "not_found"),
    ],
)
def test_what_cannot_be_continued_is_refused(
    client: Any, fields: dict[str, Any], error: type[openai.APIStatusError], code: str
) -> None:
    with pytest.raises(error, match="_x' not found") as caught:
        ask(client, "hi", **fields)

    assert caught.value.code == code


def test_conversations_are_created_changed_and_deleted(client: Any) -> None:
    conversation = client.conversations.create(
        items=[{"role": "user", "content": "hello"}], metadata={"a": "b"}
    )

    changed = client.conversations.update(conversation.id, metadata={"c": "d"})
    assert changed.metadata == {"c": "d"}
    assert client.conversations.retrieve(conversation.id) == changed
    response = ask(client, "say x", conversation=conversation.id)

    assert client.conversations.delete(conversation.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.conversations.retrieve(conversation.id)
    with pytest.raises(openai.NotFoundError):
        client.conversations.items.list(conversation.id)
    assert texts(client.responses.input_items.list(response.id, order="asc")) == ["hello", "say x"]


def test_items_of_a_conversation_are_added_read_and_deleted(client: Any) -> None:
    conversation = client.conversations.create()

    added = client.conversations.items.create(
        conversation.id,
        items=[{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}],
    )

    first, second = added.data
    assert (added.first_id, added.last_id, added.has_more) == (first.id, second.id, False)
    assert client.conversations.items.retrieve(first.id, conversation_id=conversation.id) == first
    after = client.conversations.items.delete(first.id, conversation_id=conversation.id)
    assert after == conversation
    assert texts(client.conversations.items.list(conversation.id)) == ["two"]
    with pytest.raises(openai.NotFoundError):
        client.conversations.items.retrieve(first.id, conversation_id=conversation.id)


def test_an_item_is_not_found_through_another_conversation(client: Any) -> None:
    mine, other = (
        client.conversations.create(items=[{"role": "user", "content": "x"}]),
        (client.conversations.create()),
    )
    (item,) = client.conversations.items.list(mine.id)

    with pytest.raises(openai.NotFoundError):
        client.conversations.items.retrieve(item.id, conversation_id=other.id)


def test_with_truncation_auto_the_oldest_items_are_dropped_and_named() -> None:
    turns = [
        {"role": "assistant" if n % 2 else "user", "content": f"{n:02} {'x' * 37}"}
        for n in range(8)
    ]
    asked: dict[str, Any] = {"max_output_tokens": 10, "instructions": "Be brief."}
    with running_server(max_model_len=210) as server, sdk(server) as client:
        conversation = client.conversations.create(items=turns)
        with pytest.raises(openai.BadRequestError) as caught:
            ask(client, "say hello", conversation=conversation.id, **asked)
        assert caught.value.code == "context_length_exceeded"

        whole = ask(client, "say hello", conversation=conversation.id, truncation="auto", **asked)
        kept = ask(client, "say hello", truncation="auto", **asked)
        items = list(client.responses.input_items.list(whole.id, order="asc"))

    assert whole.output_text == "hello"
    assert whole.truncation == "auto"
    dropped = [item for item in items if item.id in whole.truncated_items]
    assert dropped == items[: len(dropped)]
    assert len(items) == 9  # what was dropped is still part of the conversation
    assert items[len(dropped)].role == "user"  # not an answer whose question was dropped
    read = items[len(dropped) :]
    num_chars = sum(len(f"{item.role}: {item.content[0].text}") + 1 for item in read)
    prompt_tokens = len("system: Be brief.") + 1 + num_chars + len("assistant: ")
    assert whole.usage.input_tokens == prompt_tokens <= 200
    two_turns_more = 2 * len("user: 00 ") + 2 * 37
    assert prompt_tokens + two_turns_more > 200  # no more was dropped than had to be
    assert kept.truncated_items == []


def test_truncation_never_drops_the_newest_item_nor_the_instructions() -> None:
    with running_server(max_model_len=100) as server, sdk(server) as client:
        for fields in ({"input": "x" * 200}, {"input": "hi", "instructions": "x" * 200}):
            with pytest.raises(openai.BadRequestError) as caught:
                client.responses.create(model="mock", truncation="auto", **fields)
            assert caught.value.code == "context_length_exceeded"


def test_truncation_leaves_room_for_an_answer_of_unknown_length() -> None:
    turns = [{"role": "user", "content": "x" * 20} for _ in range(9)]
    with running_server(max_model_len=200) as server, sdk(server) as client:
        response = ask(
            client, [*turns, {"role": "user", "content": "count to 40"}], truncation="auto"
        )

    assert response.status == "completed"
    assert 150 - len("user: ") - 21 < response.usage.input_tokens <= 150
