"""Tools and thoughts in Anthropic's messages, judged by the official client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import jsonschema
import pytest

from tests.live_server import LiveServer, running_server, user
from tests.scripted_agent import call_text, following
from tests.strict_clients import strict_anthropic_client
from tests.structured_models import random_engine

PATH = "/v1/messages"

WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "Tells the weather of a place.",
    "input_schema": {
        "type": "object",
        "properties": {
            "place": {"type": "string", "maxLength": 12},
            "unit": {"enum": ["celsius", "fahrenheit"]},
        },
        "required": ["place", "unit"],
        "additionalProperties": False,
    },
}
CLOCK: dict[str, Any] = {
    "name": "get_time",
    "input_schema": {
        "type": "object",
        "properties": {"zone": {"type": "integer", "minimum": -12, "maximum": 14}},
        "required": ["zone"],
        "additionalProperties": False,
    },
}
TOOLS = [WEATHER, CLOCK]


@pytest.fixture(scope="module")
def client(mock_server: LiveServer) -> Iterator[anthropic.Anthropic]:
    with strict_anthropic_client(mock_server) as client:
        yield client


def body(content: Any, **fields: Any) -> dict[str, Any]:
    messages = content if isinstance(content, list) else user(content)
    return {"model": "mock", "max_tokens": 400, "messages": messages, "tools": TOOLS, **fields}


def parts(message: Any) -> dict[str, Any]:
    """Return a message without what differs: its id, those of its calls, and what was cached."""
    found = message.to_dict(exclude_none=True)
    found.pop("id")
    found["usage"]["input_tokens"] += found["usage"].pop("cache_read_input_tokens")
    for block in found["content"]:
        block.pop("id", None)
    return dict(found)


def ask(client: anthropic.Anthropic, content: Any, **fields: Any) -> Any:
    """Return the whole message; the streamed one must be the same."""
    whole = client.messages.create(**body(content, **fields))
    with client.messages.stream(**body(content, **fields)) as stream:
        streamed = stream.get_final_message()
    assert parts(streamed) == parts(whole)
    return whole


def test_a_call_is_a_block_after_the_text_and_the_message_waits_for_its_result(
    client: anthropic.Anthropic,
) -> None:
    call = call_text("get_weather", place="Oslo", unit="celsius")

    message = ask(client, f"say Let me look.\n{call}")

    text, use = message.content
    assert text.text.rstrip() == "Let me look."
    assert (use.type, use.name) == ("tool_use", "get_weather")
    assert use.input == {"place": "Oslo", "unit": "celsius"}
    assert message.stop_reason == "tool_use"


def test_several_calls_are_several_blocks_with_ids_of_their_own(
    client: anthropic.Anthropic,
) -> None:
    calls = [call_text("get_time", zone=zone) for zone in (1, 2)]

    message = ask(client, "say " + "\n".join(calls))

    assert [block.input for block in message.content] == [{"zone": 1}, {"zone": 2}]
    assert len({block.id for block in message.content}) == 2


def test_a_text_that_is_no_call_is_text(client: anthropic.Anthropic) -> None:
    message = ask(client, "say <tool_call> is a tag")

    assert [block.text for block in message.content] == ["<tool_call> is a tag"]
    assert message.stop_reason == "end_turn"


def test_events_open_a_block_fill_it_and_close_it_before_the_next(mock_server: LiveServer) -> None:
    call = call_text("get_time", zone=1)

    events = mock_server.events(PATH, body(f"say Hm.\n{call}", stream=True))

    names = [(event["type"], event.get("index")) for event in events]
    names = [name for i, name in enumerate(names) if name not in names[:i]]
    assert names == [
        ("message_start", None),
        ("ping", None),
        ("content_block_start", 0),
        ("content_block_delta", 0),
        ("content_block_stop", 0),
        ("content_block_start", 1),
        ("content_block_delta", 1),
        ("content_block_stop", 1),
        ("message_delta", None),
        ("message_stop", None),
    ]
    starts = [event["content_block"] for event in events if "content_block" in event]
    assert starts[1] == {
        "type": "tool_use",
        "id": starts[1]["id"],
        "name": "get_time",
        "input": {},
    }
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    assert {delta["type"] for delta in deltas} == {"text_delta", "input_json_delta"}
    text = "".join(delta.get("partial_json", "") for delta in deltas)
    assert json.loads(text) == {"zone": 1}


def test_a_call_that_max_tokens_cut_off_has_what_was_complete(client: anthropic.Anthropic) -> None:
    call = call_text("get_weather", place="Oslo", unit="celsius")
    num_bytes = call.index("cel") + 3  # the mock makes a token for each byte

    message = ask(client, f"say {call}", max_tokens=num_bytes)

    assert message.stop_reason == "max_tokens"
    assert message.content[0].input == {"place": "Oslo"}


def run_agent(client: anthropic.Anthropic, results: dict[str, Any], *, stream: bool) -> list[Any]:
    """Ask, run what the model calls, and give it the results until it calls no more."""
    turns: list[Any] = user("How warm is it where it is noon?")
    while True:
        if stream:
            with client.messages.stream(**body(turns)) as streaming:
                message: Any = streaming.get_final_message()
        else:
            message = client.messages.create(**body(turns))
        turns.append(message.to_param())
        if message.stop_reason != "tool_use":
            return turns
        blocks = [
            {"type": "tool_result", "tool_use_id": block.id, **results[block.name]}
            for block in message.content
            if block.type == "tool_use"
        ]
        turns.append({"role": "user", "content": blocks})


@pytest.mark.parametrize("stream", [False, True])
def test_an_agent_calls_tools_in_three_turns_and_then_answers(stream: bool) -> None:
    spy = following(
        call_text("get_time", zone=0),
        call_text("get_weather", place="Accra", unit="celsius"),
        call_text("get_weather", place="Accra", unit="fahrenheit"),
        "31 degrees.",
    )
    results: dict[str, Any] = {
        "get_time": {"content": "noon in Accra", "cache_control": {"type": "ephemeral"}},
        "get_weather": {
            "content": [{"type": "text", "text": "31 "}, {"type": "text", "text": "degrees"}]
        },
    }
    with running_server(load=spy.load) as server, strict_anthropic_client(server) as client:
        turns = run_agent(client, results, stream=stream)

    assert [turn["role"] for turn in turns] == ["user", "assistant"] * 4
    assert turns[-1]["content"][0].text == "31 degrees."
    assert [request.prompt.count("<tool_response>") for request in spy.submitted] == [0, 1, 2, 3]
    last = spy.submitted[-1].prompt
    assert "noon in Accra" in last
    assert last.count("31 degrees") == 2
    assert last.count('"get_weather", "arguments": {') == 2


@pytest.mark.parametrize("stream", [False, True])
def test_the_clients_own_runner_goes_on_until_nothing_is_called(stream: bool) -> None:
    """It asks for a conversation that the server keeps first, and then for none."""
    spy = following(call_text("get_time", zone=1), call_text("get_time", zone=2), "Late.")

    def get_time(zone: int) -> str:
        """Tell the time."""
        return f"noon in {zone}"

    with running_server(load=spy.load) as server, strict_anthropic_client(server) as client:
        runner: Any = client.beta.messages.tool_runner(
            model="mock",
            max_tokens=200,
            messages=[{"role": "user", "content": "What time is it?"}],
            tools=[anthropic.beta_tool(get_time)],
            stream=stream,
        )
        message = runner.until_done()

    assert message.content[0].text == "Late."
    assert "noon in 1" in spy.submitted[-1].prompt
    assert "noon in 2" in spy.submitted[-1].prompt


def test_a_result_of_several_calls_says_which_failed_and_text_may_follow() -> None:
    spy = following(*["done"] * 3)
    calls = [
        {"type": "tool_use", "id": f"toolu_{zone}", "name": "get_time", "input": {"zone": zone}}
        for zone in (1, 2)
    ]
    results = [
        {"type": "tool_result", "tool_use_id": "toolu_2", "is_error": True, "content": "no clock"},
        {"type": "tool_result", "tool_use_id": "toolu_1"},
    ]
    turns = [
        *user("What time is it?"),
        {"role": "assistant", "content": [{"type": "text", "text": "Wait."}, *calls]},
        {"role": "user", "content": [*results, {"type": "text", "text": "Hurry!"}]},
    ]
    with running_server(load=spy.load) as server, strict_anthropic_client(server) as client:
        ask(client, turns)

    prompt = spy.submitted[0].prompt
    assert "Error: no clock" in prompt
    assert prompt.count("Error: ") == 1
    assert prompt.index("Wait.") < prompt.index('"zone":1') < prompt.index("no clock")
    assert prompt.index("no clock") < prompt.index("Hurry!")


RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "noon"}
USE = {"type": "tool_use", "id": "toolu_1", "name": "get_time", "input": {"zone": 1}}
TEXT = {"type": "text", "text": "hi"}


@pytest.mark.parametrize(
    ("turns", "words"),
    [
        ([("user", [RESULT])], "toolu_1"),
        ([("user", "hi"), ("assistant", [USE])], "wait for tool_result"),
        ([("user", "hi"), ("assistant", [USE, TEXT]), ("user", [RESULT])], "calls last"),
        ([("user", "hi"), ("assistant", [USE]), ("user", [TEXT, RESULT])], "come first"),
        ([("user", "hi"), ("assistant", [RESULT])], "tool_result blocks"),
        ([("user", "hi"), ("assistant", [{**USE, "input": "{}"}])], "input"),
        ([("user", "hi"), ("assistant", [{**USE, "caller": {"type": "other"}}])], "caller"),
        ([("system", [USE])], "tool_use blocks"),
        ([("tool", "hi")], "role"),
    ],
)
def test_impossible_turns_are_refused(
    client: anthropic.Anthropic, turns: list[Any], words: str
) -> None:
    messages = [{"role": role, "content": content} for role, content in turns]

    with pytest.raises(anthropic.BadRequestError, match=words):
        client.messages.create(**body(messages))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "web_search_2025"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "bash_2025"),
        ({"tools": [WEATHER, WEATHER]}, "get_weather"),
        ({"tools": [{**WEATHER, "name": "no name"}]}, "name"),
        ({"tools": [{**WEATHER, "input_schema": {"type": "string"}}]}, "input_schema"),
        ({"tools": [{**WEATHER, "defer_loading": True}]}, "defer_loading"),
        ({"tools": [{**CLOCK, "name": f"tool_{n}"} for n in range(1000)]}, "tools"),
        ({"tool_choice": {"type": "tool", "name": "get_rich"}}, "get_rich"),
        ({"tool_choice": {"type": "tool"}}, "name"),
        ({"tool_choice": {"type": "any"}, "tools": []}, "tool_choice needs tools"),
        ({"thinking": {"type": "enabled", "budget_tokens": 400}}, "budget_tokens"),
        ({"thinking": {"type": "enabled"}}, "budget_tokens"),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(
    client: anthropic.Anthropic, fields: dict[str, Any], words: str
) -> None:
    for stream in (False, True):
        with pytest.raises(anthropic.BadRequestError, match=words):
            client.messages.create(**body("hi", stream=stream, **fields))


def test_too_many_blocks_are_refused_before_each_is_looked_at(mock_server: LiveServer) -> None:
    blocks = [{"type": "text", "text": ""}] * 5001
    results = [{"type": "tool_result", "tool_use_id": "x", "content": blocks}] * 2

    for turns in ([("user", blocks), ("assistant", blocks)], [("user", results)]):
        messages = [{"role": role, "content": content} for role, content in turns]
        response = mock_server.post(PATH, body(messages))

        assert response.status_code == 400
        assert "at most 10000" in response.json()["error"]["message"]


def test_labels_of_tools_are_taken(client: anthropic.Anthropic) -> None:
    labelled = {
        **WEATHER,
        "type": "custom",
        "strict": True,
        "cache_control": {"type": "ephemeral"},
        "eager_input_streaming": True,
        "defer_loading": False,
        "allowed_callers": ["direct"],
        "input_examples": [],
    }

    message = ask(client, "say hi", tools=[labelled], tool_choice={"type": "auto"})

    assert message.content[0].text == "hi"


def test_a_count_has_the_tools_in_it(client: anthropic.Anthropic) -> None:
    def count(**fields: Any) -> int:
        asked = {k: v for k, v in body("hi", **fields).items() if k != "max_tokens"}
        return int(client.messages.count_tokens(**asked).input_tokens)

    assert count() == ask(client, "hi").usage.input_tokens
    assert count() > count(tools=[CLOCK]) > count(tools=[])
    assert count(tool_choice={"type": "none"}) == count(tools=[])


SMALL_TOOLS: list[dict[str, Any]] = [
    CLOCK,
    {"name": "pick", "input_schema": {"properties": {"it": {"enum": ["a", "b"]}}}},
]
"""They fit into the random model's window."""


@pytest.fixture(scope="module", params=["threads", "continuous"])
def random_client(request: pytest.FixtureRequest) -> Iterator[anthropic.Anthropic]:
    """A client of a model that knows nothing: what is right in its answers is the grammar's."""

    def load(settings: Any, executor: Any) -> Any:
        return random_engine(request.param, executor, settings.threads_max_workers)

    with running_server(load=load) as server, strict_anthropic_client(server) as client:
        yield client


@pytest.mark.parametrize(
    "choice",
    [
        {"type": "any"},
        {"type": "any", "disable_parallel_tool_use": True},
        {"type": "tool", "name": "get_time"},
        {"type": "tool", "name": "pick", "disable_parallel_tool_use": True},
    ],
)
def test_a_forced_choice_makes_calls_that_obey_their_schemas(
    random_client: anthropic.Anthropic, choice: dict[str, Any]
) -> None:
    schemas = {tool["name"]: tool["input_schema"] for tool in SMALL_TOOLS}
    fields = {"tool_choice": choice, "extra_body": {"temperature": 0}, "max_tokens": 100}

    message = ask(random_client, "hi", tools=SMALL_TOOLS, **fields)

    names = [block.name for block in message.content]
    assert names
    if choice["type"] == "tool":
        assert set(names) == {choice["name"]}
    if choice.get("disable_parallel_tool_use"):
        assert len(names) == 1
    whole = message.content if message.stop_reason == "tool_use" else message.content[:-1]
    for block in whole:
        jsonschema.validate(block.input, schemas[block.name])
