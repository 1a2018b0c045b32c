"""One operation as the conformance tests use it: a body that asks, and its answer read."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Any

import httpx
from tokenizers import Tokenizer

from palma.models.bundled import bundled_model_path
from tests.live_server import LiveServer

MAX_DRAWS = 100
"""So many answers of a hot model are not all the same by chance."""

NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Heard:
    """An answer, whatever its dialect.

    Attributes:
        texts: Of every choice.
        num_tokens: Of all completions together, where the dialect tells.
        is_cut: Whether the bound on tokens ended it, where the dialect tells.
        raw: The parsed JSON, or the list of events, to look at anything else.
    """

    texts: tuple[str, ...]
    num_tokens: int | None = None
    is_cut: bool | None = None
    raw: Any = None

    @property
    def text(self) -> str:
        """The first choice's."""
        return self.texts[0]


Read = Callable[[httpx.Response], Heard]
Demonstration = Callable[["Subject", str], None]
"""Shows on a server with palmita that the field of this name changes what it should."""


@dataclass(frozen=True)
class Way:
    """How to ask through one operation.

    Attributes:
        body: A whole body; every other one is made from it by setting fields.
        read: Reads a 200.
        demonstrations: For each honoured field.
        asks: The field that has the question.
        greedy: Fields that make the answer the likeliest one.
        hot: Fields that make it as random as the dialect allows.
        around: For nested fields: the values that others have while they are tried, by the name of
            the innermost field around them that is named here.
        settings: Of the server that is asked, where that is not the one with palmita.
        names: What the dialect calls fields that demonstrations set under OpenAI's names.
        url: Where the path has parameters, makes a path on a server with values in their places.
    """

    body: Mapping[str, Any]
    read: Read
    demonstrations: Mapping[str, Demonstration]
    asks: str = "messages.*.content"
    greedy: Mapping[str, Any] = field(default_factory=lambda: {"temperature": 0})
    hot: Mapping[str, Any] = field(default_factory=lambda: {"temperature": 2})
    around: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    url: str | Callable[[LiveServer], str] | None = None


@dataclass(frozen=True)
class Subject:
    """An operation on a running server."""

    server: LiveServer
    path: str
    way: Way

    def send(self, fields: Mapping[str, Any] = NOTHING) -> httpx.Response:
        """POST the body with some fields set; their names are those of the capabilities."""
        body: Any = copy.deepcopy(dict(self.way.body))
        for name, value in fields.items():
            field_name = self.way.names.get(name, name)
            set_field(body, field_name.split("."), copy.deepcopy(value))
        url = self.way.url or self.path
        return self.server.post(url if isinstance(url, str) else url(self.server), body)

    def hear(self, *parts: Mapping[str, Any]) -> Heard:
        """Ask with some fields set, and read the answer, which must be a 200."""
        fields = {name: value for part in parts for name, value in part.items()}
        response = self.send(fields)
        assert response.status_code == 200, (fields, response.text)
        return self.way.read(response)

    def likeliest(self, *parts: Mapping[str, Any]) -> Heard:
        """Ask for the likeliest answer."""
        return self.hear(self.way.greedy, *parts)

    def draw(self, *parts: Mapping[str, Any]) -> Heard:
        """Ask for a random answer."""
        return self.hear(self.way.hot, *parts)

    def varies(self, *parts: Mapping[str, Any]) -> bool:
        """Whether random answers with these fields are not all the same."""
        first = self.draw(*parts).text
        return any(self.draw(*parts).text != first for _ in range(MAX_DRAWS))


def set_field(value: Any, names: list[str], new: Any) -> None:
    """Set a field in a JSON value; `*` is the first item, or key, that has most of the path."""
    key: Any = _deepest(value, names[1:]) if names[0] == "*" else names[0]
    if len(names) == 1:
        value[key] = new
        return
    if isinstance(value, dict) and value.get(key) is None:
        value[key] = [{}] if names[1] == "*" else {}
    set_field(value[key], names[1:], new)


def _deepest(items: Any, names: list[str]) -> Any:
    keys: Iterable[Any] = items if isinstance(items, dict) else range(len(items))
    return max(keys, key=lambda key: _depth(items[key], names), default=0)


def _depth(value: Any, names: list[str]) -> int:
    """Return how many names of a path are there."""
    if not names:
        return 0
    if names[0] == "*":
        items = value.values() if isinstance(value, dict) else value
        return max((1 + _depth(item, names[1:]) for item in items or ()), default=0)
    is_there = isinstance(value, dict) and names[0] in value
    return 1 + _depth(value[names[0]], names[1:]) if is_there else 0


@cache
def _tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(bundled_model_path() / "tokenizer.json"))


def token_id(text: str) -> int:
    """Return palmita's one token for a text."""
    (found,) = _tokenizer().encode(text, add_special_tokens=False).ids
    return int(found)
