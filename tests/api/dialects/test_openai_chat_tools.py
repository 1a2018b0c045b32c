"""Tools in chat completions, judged by the official client and its helpers.

The mock engine says what it is told to, so here the calls are in the user's message, in the form
that models are asked for whose chat template knows no tools.
"""

from __future__ import annotations

import json
import re
from typing import Any, Literal

import openai
import pytest
from openai.lib.streaming.chat import ChatCompletionStreamState
from pydantic import BaseModel

from palma.core.errors import EngineFailure
from palma.core.types import FinishReason
from palma.engine.base import TokenDelta
from palma.engine.mock import MockEngine
from palma.engine.thread_scheduler import Sequence
from tests.live_server import LiveServer, new_client, running_server, unharmed_neighbour, user
from tests.spy_engine import Spy

PATH = "/v1/chat/completions"


class GetWeather(BaseModel):
    """How the weather is somewhere."""

    city: str
    unit: Literal["celsius", "fahrenheit"] = "celsius"


class Add(BaseModel):
    """The sum of some numbers."""

    numbers: list[int]


WEATHER = openai.pydantic_function_tool(GetWeather)
TOOLS = [WEATHER, openai.pydantic_function_tool(Add)]
FUNCTIONS = [{k: v for k, v in tool["function"].items() if k != "strict"} for tool in TOOLS]

PARIS = {"city": "Paris", "unit": "celsius"}
SUM = {"numbers": [1, 2]}


def said(*calls: tuple[str, Any], before: str = "") -> str:
    """Return what the mock engine must say to make calls."""
    texts = [json.dumps({"name": name, "arguments": arguments}) for name, arguments in calls]
    return before + "\n".join(f"<tool_call>\n{text}\n</tool_call>" for text in texts)


ASK_ON: Any = {"role": "user", "content": "say fine"}

ONE = said(("GetWeather", PARIS))
TWO = said(("GetWeather", PARIS), ("Add", SUM))


@pytest.fixture(scope="module")
def client(strict_openai: openai.OpenAI) -> openai.OpenAI:
    return strict_openai


def ask(client: openai.OpenAI, text: str, **fields: Any) -> Any:
    """Have the mock say a text."""
    fields = {"tools": TOOLS, **fields}
    return client.chat.completions.create(
        model="mock", messages=[{"role": "user", "content": f"say {text}"}], **fields
    )


def without_ids(message: Any) -> dict[str, Any]:
    """Return what a message says, but for the ids of its calls: they are new each time."""
    found: dict[str, Any] = message.model_dump(exclude_none=True)
    for call in found.get("tool_calls", ()):
        assert re.fullmatch("call_[0-9a-f]{24}", call.pop("id"))
        call.pop("index", None)
    return found


def test_a_call_takes_the_place_of_text(client: openai.OpenAI) -> None:
    (choice,) = ask(client, ONE).choices

    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    (call,) = choice.message.tool_calls
    assert call.type == "function"
    assert call.function.name == "GetWeather"
    assert json.loads(call.function.arguments) == PARIS
    assert re.fullmatch("call_[0-9a-f]{24}", call.id)


def test_text_may_come_before_calls_and_calls_may_be_several(client: openai.OpenAI) -> None:
    message = (
        ask(client, said(("GetWeather", PARIS), ("Add", SUM), before="Let me see."))
        .choices[0]
        .message
    )

    assert message.content.strip() == "Let me see."
    assert [call.function.name for call in message.tool_calls] == ["GetWeather", "Add"]
    assert [json.loads(call.function.arguments) for call in message.tool_calls] == [PARIS, SUM]
    assert len({call.id for call in message.tool_calls}) == 2


@pytest.mark.parametrize("fields", [{}, {"tool_choice": "auto"}, {"parallel_tool_calls": True}])
def test_an_answer_without_a_call_is_text(client: openai.OpenAI, fields: Any) -> None:
    (choice,) = ask(client, "nothing <tool>", **fields).choices

    assert (choice.message.content, choice.finish_reason) == ("nothing <tool>", "stop")
    assert choice.message.tool_calls is None


@pytest.mark.parametrize("fields", [{"tool_choice": "none"}, {"tools": []}])
def test_where_nothing_may_be_called_a_call_is_text(client: openai.OpenAI, fields: Any) -> None:
    (choice,) = ask(client, ONE, **fields).choices

    assert (choice.message.content, choice.finish_reason) == (ONE, "stop")
    assert choice.message.tool_calls is None


def test_a_stream_has_the_shape_of_openais(mock_server: LiveServer) -> None:
    body = {"model": "mock", "messages": user(f"say {TWO}"), "tools": TOOLS, "stream": True}

    events = mock_server.events(PATH, body)

    assert events.pop() == "[DONE]"
    choices = [event["choices"][0] for event in events]
    deltas = [choice["delta"] for choice in choices]
    assert deltas[0] == {"role": "assistant", "content": None, "refusal": None}
    assert (deltas[-1], choices[-1]["finish_reason"]) == ({}, "tool_calls")
    parts = [part for delta in deltas[1:-1] for part in delta["tool_calls"]]
    assert [delta.keys() for delta in deltas[1:-1]] == [{"tool_calls"}] * len(parts)
    assert [part["index"] for part in parts] == sorted(part["index"] for part in parts)
    for index, (name, arguments) in enumerate((("GetWeather", PARIS), ("Add", SUM))):
        first, *rest = [part for part in parts if part["index"] == index]
        assert first.keys() == {"index", "id", "type", "function"}
        assert first["type"] == "function"
        assert first["function"] == {"name": name, "arguments": ""}
        assert all(part.keys() == {"index", "function"} for part in rest)
        assert all(part["function"].keys() == {"arguments"} for part in rest)
        pieces = [part["function"]["arguments"] for part in rest]
        assert json.loads("".join(pieces)) == arguments
        assert len(pieces) > 1
        assert all(pieces)


@pytest.mark.parametrize(
    "text", [ONE, TWO, said(("Add", SUM), before="Hm."), "text only", "a<tool_call", ""]
)
def test_what_the_stream_helper_adds_up_is_the_whole_answer(
    client: openai.OpenAI, text: str
) -> None:
    messages: Any = [{"role": "user", "content": f"say {text}"}]
    whole = client.chat.completions.parse(model="mock", messages=messages, tools=TOOLS)

    with client.chat.completions.stream(model="mock", messages=messages, tools=TOOLS) as stream:
        events = list(stream)
        streamed = stream.get_final_completion()

    assert without_ids(streamed.choices[0].message) == without_ids(whole.choices[0].message)
    assert streamed.choices[0].message.content == whole.choices[0].message.content
    assert streamed.choices[0].finish_reason == whole.choices[0].finish_reason
    done: list[Any] = [
        event for event in events if event.type == "tool_calls.function.arguments.done"
    ]
    calls = whole.choices[0].message.tool_calls or []
    assert [event.parsed_arguments for event in done] == [
        call.function.parsed_arguments for call in calls
    ]


def test_the_parse_helper_gives_the_tools_own_types(client: openai.OpenAI) -> None:
    completion = client.chat.completions.parse(
        model="mock", messages=[{"role": "user", "content": f"say {TWO}"}], tools=TOOLS
    )

    weather, numbers = completion.choices[0].message.tool_calls or []
    assert weather.function.parsed_arguments == GetWeather(city="Paris")
    assert numbers.function.parsed_arguments == Add(numbers=[1, 2])


def test_a_call_that_max_tokens_cuts_ends_with_length(client: openai.OpenAI) -> None:
    (choice,) = ask(client, ONE, max_tokens=len(ONE) - 25).choices
    chunks = list(ask(client, ONE, max_tokens=len(ONE) - 25, stream=True))

    assert choice.finish_reason == chunks[-1].choices[0].finish_reason == "length"
    assert json.dumps(PARIS).startswith(choice.message.tool_calls[0].function.arguments)
    parts = [part for c in chunks for part in c.choices[0].delta.tool_calls or ()]
    arguments = "".join(part.function.arguments for part in parts)
    assert arguments == choice.message.tool_calls[0].function.arguments


def test_each_of_n_choices_has_calls_of_its_own(client: openai.OpenAI) -> None:
    whole = ask(client, TWO, n=3)
    state = ChatCompletionStreamState(input_tools=TOOLS)
    for chunk in ask(client, TWO, n=3, stream=True):
        state.handle_chunk(chunk)

    streamed = state.get_final_completion()
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    for choice, other in zip(whole.choices, streamed.choices, strict=True):
        assert choice.finish_reason == other.finish_reason == "tool_calls"
        assert [call.function.name for call in choice.message.tool_calls] == ["GetWeather", "Add"]
        assert [
            (c.function.name, c.function.arguments) for c in other.message.tool_calls or ()
        ] == [(call.function.name, call.function.arguments) for call in choice.message.tool_calls]
    ids = [call.id for choice in whole.choices for call in choice.message.tool_calls]
    assert len(set(ids)) == 6


def test_logprobs_are_of_all_tokens_those_of_calls_too(client: openai.OpenAI) -> None:
    text = said(("Add", SUM), before="Hm.")
    whole = ask(client, text, logprobs=True)
    state = ChatCompletionStreamState(input_tools=TOOLS)
    for chunk in ask(client, text, logprobs=True, stream=True):
        state.handle_chunk(chunk)

    tokens = whole.choices[0].logprobs.content
    assert "".join(token.token for token in tokens) == text
    streamed = state.get_final_completion().choices[0]
    assert streamed.logprobs is not None
    assert streamed.logprobs.content == tokens
    assert streamed.message.content == whole.choices[0].message.content


def test_functions_are_answered_in_their_own_words(
    client: openai.OpenAI, mock_server: LiveServer
) -> None:
    for fields in ({}, {"function_call": "auto"}, {"function_call": {"name": "GetWeather"}}):
        asked = {"tools": openai.omit, "functions": FUNCTIONS, **fields}
        (choice,) = ask(client, ONE, **asked).choices
        events = list(ask(client, ONE, stream=True, **asked))

        assert choice.finish_reason == "function_call"
        assert choice.message.content is None
        assert choice.message.tool_calls is None
        assert choice.message.function_call.name == "GetWeather"
        assert json.loads(choice.message.function_call.arguments) == PARIS
        deltas = [event.choices[0].delta for event in events]
        called = [delta.function_call for delta in deltas if delta.function_call is not None]
        assert (called[0].name, called[0].arguments) == ("GetWeather", "")
        assert [part.name for part in called[1:]] == [None] * (len(called) - 1)
        arguments = "".join(part.arguments for part in called)
        assert arguments == choice.message.function_call.arguments
        assert events[-1].choices[0].finish_reason == "function_call"


def test_functions_that_must_not_be_called_are_not(client: openai.OpenAI) -> None:
    asked = {"tools": openai.omit, "functions": FUNCTIONS, "function_call": "none"}

    (choice,) = ask(client, ONE, **asked).choices

    assert (choice.message.content, choice.finish_reason) == (ONE, "stop")


def test_an_answer_with_calls_may_be_sent_back_with_the_results(client: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": f"say {TWO}"}]
    whole = client.chat.completions.create(model="mock", messages=messages, tools=TOOLS)
    parsed = client.chat.completions.parse(model="mock", messages=messages, tools=TOOLS)
    with client.chat.completions.stream(model="mock", messages=messages, tools=TOOLS) as stream:
        streamed = stream.get_final_completion()

    for completion in (whole, parsed, streamed):
        message = completion.choices[0].message
        turns: list[Any] = [message, message.to_dict()]
        for turn in turns:
            results: list[Any] = [
                {"role": "tool", "tool_call_id": call.id, "content": "rain"}
                for call in message.tool_calls or ()
            ]
            answer: Any = client.chat.completions.create(
                model="mock", messages=[*messages, turn, *results, ASK_ON], tools=TOOLS
            )
            assert answer.choices[0].message.content == "fine"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools.0.type"),
        ({"tools": [WEATHER, WEATHER]}, "tools.1"),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "Sub"}}}, "tool_choice"),
        ({"tool_choice": "required", "tools": None}, "tool_choice"),
        ({"functions": FUNCTIONS}, "functions"),
        ({"tools": None, "functions": FUNCTIONS * 2}, "functions.2"),
        ({"tools": None, "functions": FUNCTIONS, "function_call": {"name": "x"}}, "function_call"),
        ({"tools": None, "function_call": {"name": "GetWeather"}}, "function_call"),
        ({"tools": None, "functions": FUNCTIONS, "function_call": "required"}, "function_call"),
        ({"tools": None, "functions": FUNCTIONS, "function_call": {}}, "function_call"),
        ({"parallel_tool_calls": "yes"}, "parallel_tool_calls"),
    ],
)
def test_what_says_nothing_sensible_about_tools_is_refused_by_name(
    mock_server: LiveServer, fields: dict[str, Any], param: str
) -> None:
    body = {"model": "mock", "messages": user("say a"), "tools": TOOLS, **fields}

    response = mock_server.post(PATH, body)

    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == param
    assert param in error["message"]
    assert error["type"] == "invalid_request_error"


def test_a_client_that_leaves_amid_a_call_cancels_it(mock_server: LiveServer) -> None:
    numbers = list(range(1000))
    text = said(("Add", {"numbers": numbers}))
    body = {"model": "mock", "messages": user(f"say {text} slowly"), "tools": TOOLS}
    with (
        unharmed_neighbour(mock_server),
        new_client(mock_server.url) as client,
        client.stream("POST", PATH, json={**body, "stream": True}) as response,
    ):
        for line in response.iter_lines():
            if "GetWeather" in line or "Add" in line:
                break
    mock_server.wait_until_idle()


class CutEngine(MockEngine):
    """A mock that breaks in the middle of what it says."""

    def _decode(self, sequence: Sequence) -> FinishReason:
        for token_id in ONE.encode()[:-20]:
            sequence.emit(TokenDelta(token_ids=(token_id,)))
        raise EngineFailure("broken on purpose")


def test_a_failure_amid_a_call_is_an_error_event() -> None:
    body = {"model": "mock", "messages": user("Go."), "tools": TOOLS}
    with running_server(load=Spy(make_engine=CutEngine).load) as server:
        events = server.events(PATH, {**body, "stream": True})
        response = server.post(PATH, body)

    assert any("GetWeather" in json.dumps(event) for event in events)
    assert events[-1]["error"]["code"] == "engine_error"
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "engine_error"
