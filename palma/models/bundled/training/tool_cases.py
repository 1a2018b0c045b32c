"""The conversations with tools that palmita is measured on: held-out forms."""

import itertools
import random
import re
from collections.abc import Callable, Iterator, Sequence

from palma.models.bundled.training import held_out
from palma.models.bundled.training.answers import Style
from palma.models.bundled.training.cases import Case, all_cases, opening_prompt
from palma.models.bundled.training.corpus import told_of
from palma.models.bundled.training.scenes import Message
from palma.models.bundled.training.tool_sets import (
    drawn_tools,
    place_parameter,
    weather_tool,
    weather_tool_of,
)
from palma.models.bundled.training.tool_text import CALL_START, ToolSpec, call_in, call_text
from palma.models.bundled.training.weather import UNIT_REQUESTS, arguments, drawn_place
from palma.models.bundled.training.weather_forms import is_about_weather
from palma.models.bundled.training.weather_results import weather_sentence

_STYLES: tuple[Style, ...] = ("plain", "pirate")
_NUM_ROUNDS = 8  # how often each form is asked, each time of another place and tool
_SKIES = ("sunny", "cloudy", "light rain", "overcast", "snow", "fog", "partly cloudy", "")

_CALLS, _UNITS, _FOLLOW_UPS = "calls the weather tool", "... in the unit asked for", "... once more"
_NO_CALL, _NO_TOOL = "answers without a call, tools at hand", "weather, without a tool for it"
_TOLD = "says what the weather tool returned"


def all_tool_cases(seed: int = 0) -> list[Case]:
    """Return every case with tools; the seed chooses places, tools and system prompts."""
    rng = random.Random(seed)
    groups = (_call_cases, _unit_cases, _follow_up_cases, _no_call_cases, _no_tool_cases)
    return [*itertools.chain.from_iterable(group(rng) for group in groups), *_told_cases(rng)]


def _call_cases(rng: random.Random) -> Iterator[Case]:
    for at, form in enumerate(held_out.WEATHER * _NUM_ROUNDS):
        tools, place = _tools(rng), drawn_place(rng)
        question = Message("user", form.replace("{c}", place))
        yield Case(_CALLS, _opened(at, tools, [question]), _calls(tools, place))


def _unit_cases(rng: random.Random) -> Iterator[Case]:
    for at, form in enumerate(held_out.WEATHER):
        tools, place, unit = _tools(rng), drawn_place(rng), rng.choice(list(UNIT_REQUESTS))
        text = f"{form.replace('{c}', place)} {rng.choice(UNIT_REQUESTS[unit])}"
        yield Case(_UNITS, _opened(at, tools, [Message("user", text)]), _calls(tools, place, unit))


def _follow_up_cases(rng: random.Random) -> Iterator[Case]:
    for at in range(40):
        tools, before, place = _tools(rng), drawn_place(rng), drawn_place(rng)
        form = held_out.WEATHER_FOLLOW_UPS[at % len(held_out.WEATHER_FOLLOW_UPS)]
        talk = [
            Message("user", rng.choice(held_out.WEATHER).replace("{c}", before)),
            *_call_and_result(tools, before, '{"temperature": 12, "unit": "celsius"}'),
            Message("assistant", weather_sentence(_STYLES[at % 2], before, "12", "Celsius")),
            Message("user", form.replace("{c}", place)),
        ]
        yield Case(_FOLLOW_UPS, _opened(at, tools, talk), _calls(tools, place))


def _no_call_cases(rng: random.Random) -> Iterator[Case]:
    kinds = ("capitals", "follow-ups", "greetings", "says it does not know")
    cases = [case for case in all_cases() if case.group.startswith(kinds)]
    capitals = rng.sample([case for case in cases if "capitals" in case.group], 160)
    others = [case for case in cases if case.group.startswith(kinds[2:])]
    for case in capitals + rng.sample(cases, 60) + others:
        if not is_about_weather(case.messages[-1].content):
            messages = tuple(told_of(_tools(rng), list(case.messages)))
            yield Case(_NO_CALL, messages, case.is_right)


def _no_tool_cases(rng: random.Random) -> Iterator[Case]:
    for at, form in enumerate(held_out.WEATHER * 2):
        tools = [tool for tool in drawn_tools(rng) if weather_tool_of((tool,)) is None]
        question = Message("user", form.replace("{c}", drawn_place(rng)))
        shown = tools if at % 2 else []
        yield Case(_NO_TOOL, _opened(at, shown, [question]), _does_not_know)


def _told_cases(rng: random.Random) -> Iterator[Case]:
    for at, form in enumerate(held_out.WEATHER * 3):
        tools, place, sky = _tools(rng), drawn_place(rng), rng.choice(_SKIES)
        number, unit = rng.randint(-5, 95), rng.choice(("celsius", "fahrenheit"))
        condition = f', "condition": "{sky}"' if sky else ""
        result = f'{{"temperature": {number}, "unit": "{unit}"{condition}}}'
        talk = [
            Message("user", form.replace("{c}", place)),
            *_call_and_result(tools, place, result),
        ]
        said = (str(number), unit.capitalize(), place, sky)
        yield Case(_TOLD, _opened(at, tools, talk), _says_all(said))


def _call_and_result(tools: Sequence[ToolSpec], place: str, result: str) -> tuple[Message, Message]:
    tool = _weather_tool(tools)
    call = call_text(tool.name, arguments(tool, place))
    return Message("assistant", call), Message("tool", result)


def _opened(at: int, tools: Sequence[ToolSpec], talk: list[Message]) -> tuple[Message, ...]:
    return tuple(told_of(tools, [*opening_prompt(_STYLES[at % 2], at // 2), *talk]))


def _tools(rng: random.Random) -> list[ToolSpec]:
    others = [tool for tool in drawn_tools(rng) if weather_tool_of((tool,)) is None]
    return rng.sample([*others[:2], weather_tool(rng)], 1 + len(others[:2]))


def _weather_tool(tools: Sequence[ToolSpec]) -> ToolSpec:
    tool = weather_tool_of(tuple(tools))
    assert tool is not None
    return tool


def _calls(tools: Sequence[ToolSpec], place: str, unit: str = "") -> Callable[[str], bool]:
    """Return whether a reply calls the tool for a place, and in the unit if one was asked for.

    Nothing is said of a unit that nobody asked for: a server's grammar adds one that a tool
    demands.
    """
    tool = _weather_tool(tools)
    wanted = arguments(tool, place, unit).items()
    asked = place_parameter(tool).name
    needed = {name: value for name, value in wanted if unit or name == asked}

    def is_right(reply: str) -> bool:
        call = call_in(reply)
        return call is not None and call[0] == tool.name and needed.items() <= call[1].items()

    return is_right


def _does_not_know(reply: str) -> bool:
    return CALL_START not in reply and "I don't know" in reply


def _says_all(words: Sequence[str]) -> Callable[[str], bool]:
    patterns = [rf"(?<![\w.-]){re.escape(word)}(?!\w)" for word in words if word]
    return lambda reply: all(re.search(pattern, reply) for pattern in patterns)
