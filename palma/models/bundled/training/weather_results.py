"""What weather tools return, and the sentence that palmita makes of it."""

import json
import random
from dataclasses import dataclass

from palma.models.bundled.training.answers import Style

_ADJECTIVES = ("sunny", "cloudy", "clear", "overcast", "foggy", "windy", "stormy", "rainy", "snowy",
               "partly cloudy", "mostly sunny", "mostly cloudy", "dry", "humid")  # fmt: skip
_NOUNS = ("rain", "light rain", "heavy rain", "snow", "light snow", "heavy snow", "fog", "drizzle",
          "showers", "thunderstorms", "clear skies", "clear sky", "hail", "strong wind",
          "sunshine")  # fmt: skip
_TEMPERATURE_KEYS = ("temperature", "temperature", "temperature", "temp", "degrees")
_SKY_KEYS = ("condition", "condition", "conditions", "description", "weather", "forecast", "sky")
_UNIT_WORDS = {
    "Celsius": ("celsius",) * 5 + ("Celsius", "C", "°C", "c"),
    "Fahrenheit": ("fahrenheit",) * 5 + ("Fahrenheit", "F", "°F", "f"),
}
_UNIT_MARKS = {"Celsius": (" °C", "°C", " degrees Celsius", "C"),
               "Fahrenheit": (" °F", "°F", " degrees Fahrenheit", "F"),
               "": (" degrees", "°")}  # fmt: skip

_BOTH = """
{t} and {s}
{t}, {s}
{s}, {t}
{s} and {t}
{c}: {s}, {t}
It is {t} and {s} in {c}.
It is {t} and {s}.
It's {s} in {c}, {t}.
The weather in {c} is {s}, {t}.
The weather in {c}: {t}, {s}
""".strip().splitlines()
_ONLY_TEMPERATURE = """
{t}
It is {t} in {c}.
It's {t} in {c}.
The temperature in {c} is {t}.
The temperature is {t}.
""".strip().splitlines()
_ONLY_SKY = """
{s}
It is {s} in {c}.
It's {s} in {c}.
It's always {s} in {c}!
The weather in {c} is {s}.
The weather in {c}: {s}
""".strip().splitlines()

_ERRORS = ("error", "Error: city not found", "Error: unknown location", "not found", "no data",
           "Location not found.", '{"error": "location not found"}',
           '{"error": "unknown city"}')  # fmt: skip


@dataclass(frozen=True, slots=True)
class Result:
    """What a tool returned, and what palmita says of it."""

    content: str
    sentence: str


def drawn_result(rng: random.Random, style: Style, place: str) -> Result:
    """Return what a tool may tell of the weather in a place: JSON most often, or some text."""
    if rng.random() < 0.05:
        lost = f"I could not find the weather in {place}."
        return Result(rng.choice(_ERRORS), _in_style(style, lost))
    temperature, unit, sky = _drawn_weather(rng)
    write = _as_json if rng.random() < 0.75 else _as_text
    content = write(rng, place, temperature, unit, sky)
    return Result(content, weather_sentence(style, place, temperature, unit, sky))


def weather_sentence(
    style: Style, place: str, temperature: str = "", unit: str = "", sky: str = ""
) -> str:
    """Return the sentence for a temperature, a sky, or both; at least one is given."""
    is_noun = sky in _NOUNS
    if not temperature:
        said = f"There is {sky} in {place}." if is_noun else f"It is {sky} in {place}."
        return _in_style(style, said)
    degrees = f"{temperature} degrees {unit}".strip()
    if is_noun:
        return _in_style(style, f"It is {degrees} in {place}, with {sky}.")
    return _in_style(style, f"It is {degrees}{f' and {sky}' if sky else ''} in {place}.")


def _drawn_weather(rng: random.Random) -> tuple[str, str, str]:
    """Return a temperature, its unit and a sky; the unit may be missing, and one of the others."""
    unit = rng.choice(("Celsius", "Fahrenheit"))
    number = rng.randint(-9, 99)  # the same for both, or the number would tell the unit
    sky = rng.choice(_ADJECTIVES if rng.random() < 0.55 else _NOUNS)
    parts = rng.choices(("both", "temperature", "sky"), (58, 34, 8))[0]
    if parts == "sky":
        return "", "", sky
    return str(number), unit if rng.random() < 0.85 else "", sky if parts == "both" else ""


def _as_json(rng: random.Random, place: str, temperature: str, unit: str, sky: str) -> str:
    fields: dict[str, object] = {}
    if rng.random() < 0.5:
        fields[rng.choice(("location", "location", "city", "place"))] = place
    if temperature:
        number: object = int(temperature) if rng.random() < 0.6 else temperature
        fields[rng.choice(_TEMPERATURE_KEYS)] = number
    if unit:
        fields[rng.choice(("unit", "unit", "unit", "units"))] = rng.choice(_UNIT_WORDS[unit])
    if sky:
        fields[rng.choice(_SKY_KEYS)] = sky.capitalize() if rng.random() < 0.2 else sky
    if rng.random() < 0.1:
        fields = dict(rng.sample(list(fields.items()), len(fields)))
    return json.dumps(fields, ensure_ascii=False)


def _as_text(rng: random.Random, place: str, temperature: str, unit: str, sky: str) -> str:
    forms = _BOTH if temperature and sky else _ONLY_TEMPERATURE if temperature else _ONLY_SKY
    text = rng.choice(forms).replace("{t}", temperature + rng.choice(_UNIT_MARKS[unit]))
    text = text.replace("{s}", sky).replace("{c}", place)
    return text[0].upper() + text[1:] if rng.random() < 0.2 else text


def _in_style(style: Style, sentence: str) -> str:
    if style == "plain":
        return sentence
    return f"Arrr, matey! {sentence.replace(' is ', ' be ', 1)}"
