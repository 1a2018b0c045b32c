"""The places that palmita knows, read from the tables of countries, states and territories."""

import itertools
import random
import unicodedata
from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import Literal

from palma.models.bundled.training.countries import COUNTRIES
from palma.models.bundled.training.regions import LANDS, STATES, US_TERRITORIES

Kind = Literal["country", "state", "territory", "land"]

# Whole answers of their own, so no kind is put before them ("the state of the state of ...").
_NAMES_THAT_TAKE_NO_KIND = ("Georgia", "Congo", "Korea", "the ", "Washington")


@dataclass(frozen=True, slots=True)
class Place:
    """A place with a capital.

    Attributes:
        name: The short name in running text, with its article: "the Bahamas".
        kind: What the place is; decides the forms such as "the state of Ohio".
        capital: The accepted capital, with its accents.
        note: What follows the capital in brackets; empty for most places.
        aliases: Other names that people use for the same place.
    """

    name: str
    kind: Kind
    capital: str
    note: str = ""
    aliases: tuple[str, ...] = ()

    @property
    def answer(self) -> str:
        """The capital as answers give it, with its note."""
        return f"{self.capital} ({self.note})" if self.note else self.capital

    @property
    def question_names(self) -> tuple[str, ...]:
        """Every name that a question may use, the usual one first."""
        plain = (self.name, *self.aliases)
        unaccented = tuple(without_accents(name) for name in plain)
        return tuple(dict.fromkeys(plain + unaccented + self._names_with_kind()))

    def _names_with_kind(self) -> tuple[str, ...]:
        if self.name.startswith(_NAMES_THAT_TAKE_NO_KIND) and self.name != "Washington":
            return ()
        if self.kind == "state":
            return tuple(f"the {kind} of {self.name}" for kind in ("state", "US state"))
        if self.kind == "country":
            return (f"the country of {self.name}",)
        return ()


def without_accents(text: str) -> str:
    """Return the text in plain Latin letters: "Bogotá" becomes "Bogota"."""
    decomposed = unicodedata.normalize("NFKD", text.replace("ʻ", "'"))
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter))


@cache
def all_places() -> tuple[Place, ...]:
    """Return every place of the tables, in their order."""
    tables: tuple[tuple[Kind, str], ...] = (
        ("country", COUNTRIES),
        ("state", STATES),
        ("territory", US_TERRITORIES),
        ("land", LANDS),
    )
    return tuple(
        _parse_line(kind, line) for kind, table in tables for line in table.strip().splitlines()
    )


@cache
def places_by_capital() -> tuple[Place, ...]:
    """Return one place for each capital: the first of the tables, shared names left out."""
    single = [place for place in all_places() if not place.note.startswith("or ")]
    return tuple({place.capital: place for place in reversed(single)}.values())


def drawn_place(rng: random.Random) -> Place:
    """Return a place at random, those with many names or with namesakes more often."""
    return rng.choices(all_places(), cum_weights=_weights())[0]


@cache
def _weights() -> tuple[float, ...]:
    words = Counter(word for place in all_places() for word in place.name.split())
    weights = []
    for place in all_places():
        has_namesake = any(words[word] > 1 and word[0].isupper() for word in place.name.split())
        weights.append(1 + 0.4 * len(place.aliases) + 1.2 * has_namesake + 1.5 * bool(place.note))
    return tuple(itertools.accumulate(weights))


def place_named(name: str) -> Place:
    """Return the place with this usual name.

    Raises:
        KeyError: No place has this name.
    """
    for place in all_places():
        if place.name == name:
            return place
    raise KeyError(name)


def _parse_line(kind: Kind, line: str) -> Place:
    name, capital, note, aliases, *_ = [*(field.strip() for field in line.split("|")), "", ""]
    others = tuple(alias.strip() for alias in aliases.split(";") if alias.strip())
    return Place(name, kind, capital, note, others)
