"""Where the server is, and what every suite asks its model."""

from __future__ import annotations

import json
import math
import os
from typing import Any

URL = os.environ.get("PALMA_URL", "http://127.0.0.1:8000")
MOCK_URL = os.environ.get("PALMA_MOCK_URL", "http://127.0.0.1:8001")
API_KEY = os.environ.get("PALMA_API_KEY", "")

MODEL = "palmita"

QUESTION = "What is the capital of Japan?"
CAPITAL = "Tokyo"
MESSAGES = [{"role": "user", "content": QUESTION}]

CITY_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Lima", "Paris", "Tokyo"]},
        "districts": {"type": "integer", "minimum": 1, "maximum": 99},
    },
    "required": ["city", "districts"],
    "additionalProperties": False,
}
"""Of an answer that is short whatever a model of four million parameters makes of it."""

MOCK = "mock"
"""The model at MOCK_URL: it says what it is told to, calls too."""


def call(name: str, **arguments: Any) -> str:
    """Return what makes the mock model call a function."""
    text = json.dumps({"name": name, "arguments": arguments})
    return f"say <tool_call>\n{text}\n</tool_call>"


RESULTS = {"Lima": call("look_up", city="Oslo"), "Oslo": call("look_up", city="Rome")}
"""What an agent's tool returns: the next call, for the mock model to make."""

FIRST_CALL = call("look_up", city="Lima")
LAST_RESULT = "count to 3"
LAST_WORDS = "1 2 3"


def look_up(city: str) -> str:
    """Return what is known of a city."""
    return RESULTS.get(city, LAST_RESULT)


def assert_is_city(text: str) -> None:
    """Fail unless the text is what the schema describes."""
    city = json.loads(text)
    assert city.keys() == {"city", "districts"}
    assert city["city"] in CITY_SCHEMA["properties"]["city"]["enum"]
    assert 1 <= city["districts"] <= 99


def length(vector: list[float]) -> float:
    """Return the Euclidean length of an embedding."""
    return math.sqrt(sum(number * number for number in vector))
