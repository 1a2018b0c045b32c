"""The bundled model calls a tool for the weather, through HTTP, asked as training never asked."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from palma.models.bundled.training import held_out
from palma.models.bundled.training.cases import all_cases
from palma.models.bundled.training.tool_sets import (
    drawn_tools,
    place_parameter,
    weather_tool,
    weather_tool_of,
)
from palma.models.bundled.training.tool_text import ToolSpec
from palma.models.bundled.training.weather import drawn_place
from palma.models.bundled.training.weather_forms import is_about_weather
from tests.live_server import LiveServer, running_server

LEAST_SHARE = 0.95
Answer = dict[str, Any]


@dataclass(frozen=True)
class Question:
    """What a client sends, and what a right answer is."""

    messages: list[dict[str, Any]]
    tools: list[ToolSpec]
    is_right: Callable[[Answer], bool]


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with running_server(engine="continuous", device="cpu") as server:
        yield server


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def drawn_set(rng: random.Random) -> tuple[list[ToolSpec], ToolSpec]:
    """Return some tools in any order, one of them for the weather, and that one."""
    others = [tool for tool in drawn_tools(rng) if weather_tool_of((tool,)) is None]
    wanted = weather_tool(rng)
    return rng.sample([*others[:2], wanted], 1 + len(others[:2])), wanted


def calls_of(answer: Answer) -> list[dict[str, Any]]:
    return [call["function"] for call in answer.get("tool_calls") or []]


def asked_for_the_weather(rng: random.Random) -> Iterator[Question]:
    for form in held_out.WEATHER * 2:
        (tools, wanted), place = drawn_set(rng), drawn_place(rng)

        def is_right(answer: Answer, wanted: ToolSpec = wanted, place: str = place) -> bool:
            names = [call["name"] for call in calls_of(answer)]
            given = [json.loads(call["arguments"]) for call in calls_of(answer)]
            asked = place_parameter(wanted).name
            return names == [wanted.name] and given[0].get(asked) == place

        yield Question([user(form.replace("{c}", place))], tools, is_right)


def asked_for_something_else(rng: random.Random) -> Iterator[Question]:
    others = [case for case in all_cases() if case.group.startswith(("capitals", "greet", "says"))]
    for case in rng.sample(others, 80):
        if is_about_weather(case.messages[-1].content):
            continue
        messages = [{"role": each.role, "content": each.content} for each in case.messages]
        yield Question(
            messages,
            drawn_set(rng)[0],
            _without_calls(case.is_right),
        )


def asked_without_a_tool(rng: random.Random) -> Iterator[Question]:
    for form in held_out.WEATHER:
        yield Question(
            [user(form.replace("{c}", drawn_place(rng)))],
            [],
            _without_calls(_says_all(["I don't know"])),
        )


def told_the_result(rng: random.Random) -> Iterator[Question]:
    for form in held_out.WEATHER:
        (tools, wanted), place = drawn_set(rng), drawn_place(rng)
        result = {"temperature": rng.randint(-5, 95), "unit": rng.choice(("celsius", "fahrenheit"))}
        function = {
            "name": wanted.name,
            "arguments": json.dumps({place_parameter(wanted).name: place}),
        }
        talk = [
            user(form.replace("{c}", place)),
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": json.dumps(result)},
        ]
        words = (str(result["temperature"]), str(result["unit"]).capitalize(), place)
        yield Question(talk, tools, _without_calls(_says_all(words)))


def _without_calls(is_right: Callable[[str], bool]) -> Callable[[Answer], bool]:
    return lambda answer: not calls_of(answer) and is_right(answer["content"])


def _says_all(words: Sequence[str]) -> Callable[[str], bool]:
    return lambda text: all(word in text for word in words)


def ask(server: LiveServer, question: Question) -> Answer:
    tools = {"tools": [tool.as_function() for tool in question.tools]} if question.tools else {}
    body = {"model": "palmita", "temperature": 0, "max_tokens": 100, "messages": question.messages}
    response = server.post("/v1/chat/completions", body | tools)
    assert response.status_code == 200, response.text
    answer: Answer = response.json()["choices"][0]["message"]
    return answer


@pytest.mark.parametrize(
    "questions",
    [asked_for_the_weather, asked_for_something_else, asked_without_a_tool, told_the_result],
)
def test_palmita_calls_its_tool_when_it_should_and_only_then(
    server: LiveServer, questions: Callable[[random.Random], Iterator[Question]]
) -> None:
    asked = list(questions(random.Random(0)))

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda question: ask(server, question), asked))

    pairs = zip(asked, answers, strict=True)
    wrong = [(q.messages[-1], a) for q, a in pairs if not q.is_right(a)]
    assert len(wrong) <= (1 - LEAST_SHARE) * len(asked), wrong
