"""Tools in Ollama's chats, judged by the official client."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import ollama
import pytest

from tests.live_server import LiveServer, running_server, user
from tests.scripted_agent import call_text, following

CHAT = "/api/chat"


def get_time(zone: int) -> str:
    """Tell the time.

    Args:
        zone: Hours from Greenwich.
    """
    return f"noon in zone {zone}"


def get_weather(place: str, unit: str) -> str:
    """Tell the weather of a place.

    Args:
        place: A town.
        unit: Of the temperature.
    """
    return f"31 {unit} in {place}"


TOOLS: dict[str, Callable[..., str]] = {"get_time": get_time, "get_weather": get_weather}

CLOCK: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_time",
        "parameters": {"type": "object", "properties": {"zone": {"type": "integer"}}},
    },
}


@pytest.fixture(scope="module")
def client(mock_server: LiveServer) -> Iterator[ollama.Client]:
    with ollama.Client(mock_server.url) as client:
        yield client


def body(content: Any, **fields: Any) -> dict[str, Any]:
    messages = content if isinstance(content, list) else user(content)
    return {"model": "mock", "messages": messages, "tools": [CLOCK], **fields}


def lines(server: LiveServer, asked: dict[str, Any]) -> list[Any]:
    with server.client.stream("POST", CHAT, json=asked) as response:
        assert response.status_code == 200, response.read()
        return [json.loads(line) for line in response.iter_lines()]


def without_ids(calls: list[Any]) -> list[Any]:
    """Return calls without their ids, which differ each time; each must have one of its own."""
    assert len({call["id"] for call in calls}) == len(calls)
    return [call["function"] for call in calls]


def ask(server: LiveServer, content: Any, **fields: Any) -> tuple[str, list[Any], str]:
    """Return text, calls and reason of a whole answer; the lines must say the same."""
    whole = server.post(CHAT, body(content, stream=False, **fields)).json()
    *pieces, last = lines(server, body(content, **fields))
    message, messages = whole["message"], [piece["message"] for piece in pieces]
    said = (
        message["content"],
        without_ids(message.get("tool_calls", [])),
        whole["done_reason"],
    )
    assert said == (
        "".join(piece["content"] for piece in messages),
        without_ids([call for piece in messages for call in piece.get("tool_calls", [])]),
        last["done_reason"],
    )
    assert last["message"] == {"role": "assistant", "content": ""}
    return said


def test_calls_are_whole_objects_streamed_or_not(mock_server: LiveServer) -> None:
    calls = [call_text("get_time", zone=zone, place={"a": [1.5, None]}) for zone in (1, 2)]

    text, functions, reason = ask(mock_server, "say Let me look.\n" + "\n".join(calls))

    assert text.rstrip() == "Let me look."
    assert functions == [
        {"index": i, "name": "get_time", "arguments": {"zone": i + 1, "place": {"a": [1.5, None]}}}
        for i in (0, 1)
    ]
    assert reason == "stop"


def test_a_call_that_is_cut_off_is_left_out(mock_server: LiveServer) -> None:
    calls = [call_text("get_time", zone=zone) for zone in (1, 23)]
    text = "\n".join(calls)
    options = {"num_predict": text.index("23") + 1}

    _, functions, reason = ask(mock_server, f"say {text}", options=options)

    assert [function["arguments"] for function in functions] == [{"zone": 1}]
    assert reason == "length"


def test_a_text_that_is_no_call_is_text(mock_server: LiveServer) -> None:
    assert ask(mock_server, "say <tool_call> is a tag") == ("<tool_call> is a tag", [], "stop")


def run_agent(client: ollama.Client, *, stream: bool) -> list[Any]:
    """Ask, run what the model calls, and give it the results until it calls no more."""
    turns: list[Any] = user("How warm is it where it is noon?")
    while True:
        asked: Any = {"model": "mock", "messages": turns, "tools": list(TOOLS.values())}
        answers = list(client.chat(stream=True, **asked)) if stream else [client.chat(**asked)]
        text = "".join(answer.message.content or "" for answer in answers)
        calls = [call for answer in answers for call in answer.message.tool_calls or ()]
        turns.append(ollama.Message(role="assistant", content=text, tool_calls=calls or None))
        if not calls:
            return turns
        turns += [
            {
                "role": "tool",
                "tool_name": call.function.name,
                "content": TOOLS[call.function.name](**call.function.arguments),
            }
            for call in calls
        ]


@pytest.mark.parametrize("stream", [False, True])
def test_an_agent_calls_tools_in_three_turns_and_then_answers(stream: bool) -> None:
    spy = following(
        call_text("get_time", zone=0),
        call_text("get_weather", place="Accra", unit="celsius"),
        "\n".join(call_text("get_weather", place=place, unit="K") for place in ("Oslo", "Rome")),
        "never: two results come at once",
        "31 degrees.",
    )
    with running_server(load=spy.load) as server, ollama.Client(server.url) as client:
        turns = run_agent(client, stream=stream)

    assert turns[-1].content == "31 degrees."
    prompts = [request.prompt for request in spy.submitted]
    assert [prompt.count("<tool_response>") for prompt in prompts] == [0, 1, 2, 4]
    assert "noon in zone 0" in prompts[1]
    assert prompts[3].index("31 K in Oslo") < prompts[3].index("31 K in Rome")


def call(name: str, *, call_id: str | None = None, **arguments: Any) -> dict[str, Any]:
    ids = {} if call_id is None else {"id": call_id}
    return {**ids, "function": {"name": name, "arguments": arguments}}


def test_results_go_to_the_calls_that_they_name() -> None:
    spy = following(*["done"] * 4)
    turns = [
        *user("hi"),
        {
            "role": "assistant",
            "thinking": "Hm.",
            "tool_calls": [call("f", call_id="a"), call("g"), call("f", call_id="c")],
        },
        {"role": "tool", "content": "of c", "tool_call_id": "c"},
        {"role": "tool", "content": "of b", "tool_name": "g"},
        {"role": "tool", "content": "of a"},
    ]
    with running_server(load=spy.load) as server:
        server.post(CHAT, body(turns, stream=False)).raise_for_status()

    assert spy.submitted[0].prompt.count("<tool_response>") == 3


TURNS = [*user("hi"), {"role": "assistant", "tool_calls": [call("f")]}]


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([{"role": "tool", "content": "x"}], "messages.0"),
        ([*TURNS, {"role": "tool", "content": "x", "tool_name": "g"}], "'g'"),
        ([*TURNS, *[{"role": "tool", "content": "x"}] * 2], "messages.3"),
        (TURNS, "wait for their results"),
        ([{"role": "user", "content": "hi", "tool_calls": [call("f")]}], "tool_calls"),
        ([{"role": "user", "content": "hi", "tool_name": "f"}], "tool_name"),
        ([{"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}], "arguments"),
        ([{"role": "robot", "content": "hi"}], "role"),
        ([{"role": "assistant", "tool_calls": [call("f")] * 128}] * 79, "at most 10000"),
    ],
)
def test_impossible_turns_are_refused(
    mock_server: LiveServer, messages: list[Any], words: str
) -> None:
    response = mock_server.post(CHAT, body(messages))

    assert response.status_code == 400
    assert words in response.json()["error"]


def test_a_model_says_that_it_can_call_tools(client: ollama.Client) -> None:
    assert "tools" in (client.show("mock").capabilities or ())
