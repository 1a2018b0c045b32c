"""The skill of asking a tool about the weather, and of saying that none is there to ask."""

import random
from collections.abc import Iterator

from palma.models.bundled.training.answers import Style, pick
from palma.models.bundled.training.cities import CITIES
from palma.models.bundled.training.facts import all_places, without_accents
from palma.models.bundled.training.noise import careless
from palma.models.bundled.training.scenes import Message, Scene
from palma.models.bundled.training.tool_sets import place_parameter, unit_parameter, weather_tool_of
from palma.models.bundled.training.tool_text import ToolSpec, call_text
from palma.models.bundled.training.weather_forms import (
    PLACES_GIVEN,
    placeless_form,
    weather_follow_up,
    weather_form,
)
from palma.models.bundled.training.weather_results import drawn_result

UNIT_REQUESTS = {
    "celsius": ("in celsius", "In Celsius, please.", "Use celsius.", "in degrees Celsius",
                "Answer in celsius, please.", "in Celsius?", "(celsius)"),
    "fahrenheit": ("in fahrenheit", "In Fahrenheit, please.", "Use fahrenheit.",
                   "in degrees Fahrenheit", "Answer in fahrenheit, please.", "in Fahrenheit?",
                   "(fahrenheit)"),
}  # fmt: skip
_SHORT_UNITS = {"c": "celsius", "f": "fahrenheit", "metric": "celsius", "imperial": "fahrenheit"}


def weather(scene: Scene) -> Iterator[Message]:
    """A question about the weather: a call and mostly its result; or not knowing."""
    rng, tool = scene.rng, weather_tool_of(scene.tools)
    if rng.random() < 0.06 and not scene.after_weather:
        yield Message("user", careless(rng, placeless_form(rng)))
        if tool is None:
            yield Message("assistant", pick(rng, scene.style, "unknown"))
            return
        yield Message("assistant", which_place(scene.style))
        form = rng.choice(PLACES_GIVEN)
    else:
        leans = scene.after_weather and rng.random() < 0.6
        form = weather_follow_up(rng) if leans else weather_form(rng)
    place = drawn_place(rng)
    unit = rng.choice(list(UNIT_REQUESTS)) if rng.random() < 0.2 else ""
    yield Message("user", _question(rng, form, place, unit))
    if tool is None:
        yield Message("assistant", pick(rng, scene.style, "unknown"))
        return
    yield Message("assistant", call_text(tool.name, arguments(tool, place, unit)))
    if rng.random() < 0.7:
        result = drawn_result(rng, scene.style, place)
        yield Message("tool", result.content)
        yield Message("assistant", result.sentence)


def arguments(tool: ToolSpec, place: str, unit: str = "") -> dict[str, str]:
    """Return the arguments of a call: the place, and the unit if it is asked for or demanded."""
    asked, unit_of = place_parameter(tool), unit_parameter(tool)
    given = {asked.name: place}
    if unit_of is not None and (unit or unit_of.is_required):
        values = unit_of.kind.split("|")
        given[unit_of.name] = next((v for v in values if _meaning(v) == unit), values[0])
    return {each.name: given[each.name] for each in tool.parameters if each.name in given}


def which_place(style: Style) -> str:
    """Return what palmita asks when a question about the weather does not say where."""
    return "Which place do ye mean, matey?" if style == "pirate" else "Which place do you mean?"


def drawn_place(rng: random.Random) -> str:
    """Return the name of a place that has weather, mostly a capital."""
    kind = rng.choices(("capital", "city", "land"), (72, 27, 1))[0]
    if kind == "city":
        return rng.choice(CITIES)
    place = rng.choice(all_places())
    return place.capital if kind == "capital" else place.name.removeprefix("the ")


def _question(rng: random.Random, form: str, place: str, unit: str) -> str:
    form = careless(rng, form)
    if unit:
        form = f"{form} {rng.choice(UNIT_REQUESTS[unit])}"
    is_hasty = form[0].islower() and rng.random() < 0.4
    typed = without_accents(place) if rng.random() < 0.3 else place
    return form.replace("{c}", typed.lower() if is_hasty else typed).replace("{C}", typed)


def _meaning(value: str) -> str:
    return _SHORT_UNITS.get(value.lower(), value.lower())
