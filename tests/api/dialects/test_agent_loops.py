"""Agents that go three turns of calls and results, through OpenAI's two routes and its client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from openai import pydantic_function_tool, pydantic_responses_function_tool
from pydantic import BaseModel, Field

from tests.live_server import LiveServer, user
from tests.scripted_agent import call_text
from tests.strict_clients import strict_openai_client

QUESTION = "How high are they?"


class LookUp(BaseModel):
    """Look a mountain up."""

    mountain: Literal["Eiger", "Mönch", "Jungfrau"]
    page: int = Field(ge=1, le=9)


RESULTS = {
    "Eiger": f"say Next: {call_text('look_up', mountain='Mönch', page=2)}",
    "Mönch": f"say {call_text('look_up', mountain='Jungfrau', page=3)}",
    "Jungfrau": "say That is all.",
}
"""What the tool returns: orders for the mock engine."""

FIRST_ORDER = f"say {call_text('look_up', mountain='Eiger', page=1)}"


class ChatAgent:
    """Remembers all turns, and sends them all each time."""

    def __init__(self, client: Any, question: str, **fields: Any) -> None:
        self._client = client
        self._turns: list[Any] = user(question)
        tools = [pydantic_function_tool(LookUp, name="look_up")]
        self._fields = {"tools": tools, "temperature": 0, **fields}

    def calls(self, *, stream: bool, **fields: Any) -> list[tuple[str, Any]]:
        """Ask, and return the ids and the arguments of the calls."""
        asked = {**self._fields, "messages": self._turns, **fields}
        if stream:
            with self._client.chat.completions.stream(**asked) as events:
                completion = events.get_final_completion()
        else:
            completion = self._client.chat.completions.parse(**asked)
        (choice,) = completion.choices
        made = choice.message.tool_calls or []
        assert choice.finish_reason == ("tool_calls" if made else "stop")
        self.text = choice.message.content
        self._turns = [*self._turns, choice.message]
        return [(call.id, call.function.parsed_arguments) for call in made]

    def answer(self, call_id: str, result: str) -> None:
        """Give the result of a call."""
        self._turns += [{"role": "tool", "tool_call_id": call_id, "content": result}]


class ResponsesAgent:
    """Lets the server remember, and sends what is new."""

    def __init__(self, client: Any, question: str, **fields: Any) -> None:
        self._client = client
        self._new: list[Any] = user(question)
        self._before: dict[str, str] = {}
        tools = [pydantic_responses_function_tool(LookUp, name="look_up")]
        self._fields = {"tools": tools, "temperature": 0, **fields}

    def calls(self, *, stream: bool, **fields: Any) -> list[tuple[str, Any]]:
        """Ask, and return the ids and the arguments of the calls."""
        asked = {**self._fields, **self._before, "input": self._new, **fields}
        if stream:
            with self._client.responses.stream(**asked) as events:
                response = events.get_final_response()
        else:
            response = self._client.responses.parse(**asked)
        assert response.status == "completed"
        self.text = response.output_text
        self._new, self._before = [], {"previous_response_id": response.id}
        made = [item for item in response.output if item.type == "function_call"]
        return [(item.call_id, item.parsed_arguments) for item in made]

    def answer(self, call_id: str, result: str) -> None:
        """Give the result of a call."""
        output = {"type": "function_call_output", "call_id": call_id, "output": result}
        self._new = [*self._new, output]


AGENTS = [ChatAgent, ResponsesAgent]


@pytest.fixture(scope="module")
def mock(mock_server: LiveServer) -> Iterator[openai.OpenAI]:
    with strict_openai_client(mock_server) as client:
        yield client


@pytest.fixture(scope="module")
def palmita(palmita_server: LiveServer) -> Iterator[openai.OpenAI]:
    with strict_openai_client(palmita_server) as client:
        yield client


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", AGENTS)
def test_results_lead_from_call_to_call_to_the_answer(
    mock: openai.OpenAI, kind: Any, stream: bool
) -> None:
    agent = kind(mock, FIRST_ORDER, model="mock")

    for page, mountain in enumerate(RESULTS, start=1):
        ((call_id, arguments),) = agent.calls(stream=stream)
        assert arguments == LookUp(mountain=mountain, page=page)
        agent.answer(call_id, RESULTS[mountain])

    assert agent.calls(stream=stream) == []
    assert agent.text == "That is all."


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", AGENTS)
def test_a_small_model_is_held_to_the_tool_for_as_long_as_it_must_call(
    palmita: openai.OpenAI, kind: Any, stream: bool
) -> None:
    agent = kind(palmita, QUESTION, model="palmita", parallel_tool_calls=False)

    for number in range(3):
        ((call_id, arguments),) = agent.calls(stream=stream, tool_choice="required")
        assert isinstance(arguments, LookUp)
        agent.answer(call_id, json.dumps({"metres": 4000 + number}))

    assert agent.calls(stream=stream, tool_choice="none") == []
    assert agent.text
