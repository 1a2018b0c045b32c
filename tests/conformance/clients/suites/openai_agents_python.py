"""OpenAI's Agents SDK: its own loop of calls and results, over chats and over responses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Literal

import openai
import pytest
from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
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
    look_up,
)

set_tracing_disabled(True)  # else it tells OpenAI

LIKELIEST = ModelSettings(temperature=0)


class City(BaseModel):
    """A city that is a capital."""

    city: Literal["Lima", "Paris", "Tokyo"]
    districts: int = Field(ge=1, le=99)


@pytest.fixture(
    params=[OpenAIChatCompletionsModel, OpenAIResponsesModel], ids=["chat", "responses"]
)
def agent(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Make an agent that speaks to a server through one of the routes."""

    def make(model: str = MODEL, url: str = URL, api_key: str = API_KEY, **kwargs: Any) -> Any:
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=api_key, max_retries=0)
        fields = {"name": "agent", "model_settings": LIKELIEST, **kwargs}
        return Agent(model=request.param(model, client), **fields)

    return make


LOOK_UP = function_tool(look_up)


def kinds(result: Any) -> list[str]:
    return [item.type for item in result.new_items]


THREE_TURNS = [*["tool_call_item", "tool_call_output_item"] * 3, "message_output_item"]


def test_a_question_is_answered(agent: Callable[..., Any]) -> None:
    result = Runner.run_sync(agent(), QUESTION)

    assert CAPITAL in result.final_output
    assert result.context_wrapper.usage.output_tokens > 1


def test_the_sdk_s_own_loop_goes_three_turns(agent: Callable[..., Any]) -> None:
    result = Runner.run_sync(agent(MOCK, MOCK_URL, tools=[LOOK_UP]), FIRST_CALL)

    assert kinds(result) == THREE_TURNS
    assert LAST_WORDS in result.final_output


def test_it_goes_as_many_as_a_stream(agent: Callable[..., Any]) -> None:
    async def run() -> Any:
        result = Runner.run_streamed(agent(MOCK, MOCK_URL, tools=[LOOK_UP]), FIRST_CALL)
        async for _ in result.stream_events():
            pass
        return result

    result = asyncio.run(run())

    assert kinds(result) == THREE_TURNS
    assert LAST_WORDS in result.final_output


def test_what_was_done_is_sent_back_for_the_next_question(agent: Callable[..., Any]) -> None:
    one = agent(MOCK, MOCK_URL, tools=[LOOK_UP])
    first = Runner.run_sync(one, FIRST_CALL)

    question = {"role": "user", "content": "count to 5"}
    second = Runner.run_sync(one, [*first.to_input_list(), question])

    assert second.final_output.split() == ["1", "2", "3", "4", "5"]


def test_an_answer_is_an_instance_of_the_model(agent: Callable[..., Any]) -> None:
    result = Runner.run_sync(agent(output_type=City), QUESTION)

    assert isinstance(result.final_output, City)


def test_a_tool_that_is_demanded_is_called(agent: Callable[..., Any]) -> None:
    cities: list[str] = []

    def note(city: Literal["Lima", "Tokyo"]) -> str:
        """Note a city."""
        cities.append(city)
        return "noted"

    settings = ModelSettings(temperature=0, tool_choice="required", parallel_tool_calls=False)
    one = agent(
        tools=[function_tool(note)], model_settings=settings, tool_use_behavior="stop_on_first_tool"
    )

    assert Runner.run_sync(one, QUESTION).final_output == "noted"
    assert cities in (["Lima"], ["Tokyo"])


def test_an_unknown_model_is_not_found(agent: Callable[..., Any]) -> None:
    with pytest.raises(openai.NotFoundError, match="gpt-9"):
        Runner.run_sync(agent("gpt-9"), QUESTION)


def test_a_wrong_key_is_refused(agent: Callable[..., Any]) -> None:
    with pytest.raises(openai.AuthenticationError):
        Runner.run_sync(agent(api_key="wrong"), QUESTION)
