"""Thoughts in Ollama's chats and completions, judged by the official client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ollama
import pytest

from tests.live_server import LiveServer, user
from tests.scripted_agent import call_text
from tests.spy_engine import Spy
from tests.thinking_models import OVER, THOUGHT


@pytest.fixture(scope="module")
def client(thinking_server: LiveServer) -> Iterator[ollama.Client]:
    with ollama.Client(thinking_server.url) as client:
        yield client


def test_a_chat_says_thoughts_apart_streamed_or_not(client: ollama.Client) -> None:
    asked: Any = {"model": "mock", "messages": user(f"{THOUGHT}Hi.")}

    whole = client.chat(**asked).message
    messages = [part.message for part in client.chat(stream=True, **asked)]

    assert (whole.content, (whole.thinking or "").strip()) == ("Hi.", "Hm, hm.")
    assert "".join(message.content or "" for message in messages) == whole.content
    assert "".join(message.thinking or "" for message in messages) == whole.thinking
    thinks = [bool(message.thinking) for message in messages]
    assert thinks == sorted(thinks, reverse=True)


def test_a_completion_says_thoughts_apart_streamed_or_not(client: ollama.Client) -> None:
    asked: Any = {"model": "mock", "prompt": f"{THOUGHT}Hi."}

    whole = client.generate(**asked)
    parts = list(client.generate(stream=True, **asked))

    assert (whole.response, (whole.thinking or "").strip()) == ("Hi.", "Hm, hm.")
    assert "".join(part.response or "" for part in parts) == whole.response
    assert "".join(part.thinking or "" for part in parts) == whole.thinking


def test_thoughts_come_before_calls_and_may_be_sent_back(
    client: ollama.Client, thinking_spy: Spy
) -> None:
    tool = {"type": "function", "function": {"name": "look"}}
    asked = user(THOUGHT + call_text("look"))
    first = client.chat(model="mock", messages=asked, tools=[tool]).message
    assert first.thinking
    assert first.tool_calls

    result = {"role": "tool", "tool_name": "look", "content": "say seen"}
    second = client.chat(model="mock", messages=[*asked, first, result], tools=[tool])

    assert second.message.content == "seen"
    assert "assistant: <think>\nHm, hm." in thinking_spy.submitted[-1].prompt


@pytest.mark.parametrize(
    ("think", "is_over"),
    [(None, False), (True, False), ("low", False), ("high", False), (False, True)],
)
def test_think_turns_it_on_and_off(
    client: ollama.Client, thinking_spy: Spy, think: Any, is_over: bool
) -> None:
    client.chat(model="mock", messages=user("hi"), think=think)
    client.generate(model="mock", prompt="hi", think=think)

    assert [s.prompt.endswith(OVER) for s in thinking_spy.submitted[-2:]] == [is_over] * 2


def test_a_model_that_cannot_think_refuses_by_name(mock_server: LiveServer) -> None:
    with ollama.Client(mock_server.url) as client:
        with pytest.raises(ollama.ResponseError, match="think") as caught:
            client.chat(model="mock", messages=user("hi"), think=True)
        assert client.chat(model="mock", messages=user("say hi"), think=False).message.content

    assert caught.value.status_code == 400
