"""Thoughts in Anthropic's messages, judged by the official client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from tests.live_server import LiveServer, running_server, user
from tests.scripted_agent import call_text
from tests.spy_engine import Spy
from tests.strict_clients import strict_anthropic_client
from tests.thinking_models import OVER, THOUGHT, load_random_thinker

PATH = "/v1/messages"

ENABLED = {"type": "enabled", "budget_tokens": 10}


@pytest.fixture(scope="module")
def client(thinking_server: LiveServer) -> Iterator[anthropic.Anthropic]:
    with strict_anthropic_client(thinking_server) as client:
        yield client


def body(content: Any, **fields: Any) -> dict[str, Any]:
    messages = content if isinstance(content, list) else user(content)
    return {"model": "mock", "max_tokens": 200, "messages": messages, **fields}


def ask(client: anthropic.Anthropic, content: Any, **fields: Any) -> Any:
    """Return the whole message; the streamed one must be the same."""
    whole = client.messages.create(**body(content, **fields))
    with client.messages.stream(**body(content, **fields)) as stream:
        streamed = stream.get_final_message()
    messages: list[Any] = [whole, streamed]
    found = [message.to_dict(exclude_none=True) for message in messages]
    for each in found:
        each.pop("id")
        for block in each["content"]:
            block.pop("id", None)
    assert found[0] == found[1]
    return whole


def test_a_thought_is_a_block_before_the_answer(client: anthropic.Anthropic) -> None:
    message = ask(client, f"{THOUGHT}Hi.", thinking={"type": "adaptive"})

    thought, text = message.content
    assert (thought.type, thought.thinking.strip(), thought.signature) == (
        "thinking",
        "Hm, hm.",
        "",
    )
    assert (text.type, text.text) == ("text", "Hi.")
    details = message.usage.output_tokens_details
    assert 0 < details.thinking_tokens < message.usage.output_tokens


def test_a_thought_comes_before_a_call_too(client: anthropic.Anthropic) -> None:
    tools = [{"name": "look", "input_schema": {"type": "object"}}]

    message = ask(client, THOUGHT + call_text("look", far=True), tools=tools)

    assert [block.type for block in message.content] == ["thinking", "tool_use"]
    assert message.content[1].input == {"far": True}


def test_a_thought_streams_and_is_signed_with_nothing(thinking_server: LiveServer) -> None:
    events = thinking_server.events(PATH, body(f"{THOUGHT}Hi.", stream=True))

    first = [event for event in events if event.get("index") == 0]
    assert first[0]["content_block"] == {"type": "thinking", "thinking": "", "signature": ""}
    deltas = [event["delta"] for event in first[1:-1]]
    assert {delta["type"] for delta in deltas[:-1]} == {"thinking_delta"}
    assert deltas[-1] == {"type": "signature_delta", "signature": ""}
    assert first[-1]["type"] == "content_block_stop"


def test_thoughts_that_are_omitted_leave_an_empty_block(client: anthropic.Anthropic) -> None:
    shown = ask(client, f"{THOUGHT}Hi.", thinking={"type": "adaptive", "display": "summarized"})
    omitted = ask(client, f"{THOUGHT}Hi.", thinking={"type": "adaptive", "display": "omitted"})

    assert shown.content[0].thinking.strip() == "Hm, hm."
    assert omitted.content[0].thinking == ""
    assert omitted.content[1].text == "Hi."
    assert omitted.usage.output_tokens == shown.usage.output_tokens


def test_thoughts_may_be_sent_back_as_they_came(
    client: anthropic.Anthropic, thinking_spy: Spy
) -> None:
    first = ask(client, f"{THOUGHT}Hi.")

    ask(client, [*user("hi"), first.to_param(), *user("say more")])

    assert "Hm, hm." in thinking_spy.submitted[-1].prompt


def test_thinking_is_turned_off_where_the_request_says_so(
    client: anthropic.Anthropic, thinking_spy: Spy
) -> None:
    for thinking, is_over in (({"type": "adaptive"}, False), ({"type": "disabled"}, True)):
        asked = body("say hi", thinking=thinking)
        message = client.messages.create(**asked)
        del asked["max_tokens"]

        assert thinking_spy.submitted[-1].prompt.endswith(OVER) == is_over
        counted = client.messages.count_tokens(**asked).input_tokens
        assert counted == message.usage.input_tokens
        assert [block.type for block in message.content] == ["text"]


def test_a_budget_bounds_the_thoughts_of_a_model_that_has_no_end() -> None:
    with (
        running_server(load=load_random_thinker) as server,
        strict_anthropic_client(server) as client,
    ):
        for budget in (5, 20):
            thinking = {"type": "enabled", "budget_tokens": budget}
            message = ask(
                client, "hi", thinking=thinking, max_tokens=60, extra_body={"temperature": 0}
            )

            assert message.content[0].type == "thinking"
            assert message.content[1].type == "text"
            assert 0 < message.usage.output_tokens_details.thinking_tokens <= budget


def test_a_model_that_cannot_think_refuses_by_name(mock_server: LiveServer) -> None:
    response = mock_server.post(PATH, body("hi", thinking=ENABLED))

    assert response.status_code == 400
    assert "thinking" in response.json()["error"]["message"]
    for thinking in ({"type": "disabled"}, {"type": "adaptive"}):
        assert mock_server.post(PATH, body("hi", thinking=thinking)).status_code == 200
