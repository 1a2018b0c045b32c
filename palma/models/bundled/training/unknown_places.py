"""Names of places that palmita does not know: invented ones, and some that have no capital here."""

import random
from difflib import get_close_matches
from functools import cache

from palma.models.bundled.training.facts import all_places
from palma.models.bundled.training.held_out import INVENTED_PLACES

_FICTIONAL = (
    "Narnia", "Middle-earth", "Rohan", "Westeros", "Essos", "Hogwarts", "Oz", "Neverland",
    "Lilliput", "Genovia", "Latveria", "Asgard", "Tatooine", "Alderaan", "El Dorado", "Avalon",
    "Utopia", "Ruritania", "Freedonia", "Sokovia", "Elbonia", "Panem", "Arendelle", "Hyrule",
    "Tamriel", "Skyrim", "Azeroth", "Camelot", "Wonderland", "Gotham", "Pandora", "Vulcan",
    "Arrakis", "Krypton", "the Shire", "Lothlorien", "Isengard", "Themyscira", "Madripoor",
    "the sun", "Mars", "Venus", "Jupiter", "Saturn", "Pluto", "the sea", "the sky", "the ocean",
    "the Earth", "the world", "Europe", "Africa", "Asia", "Antarctica", "South America",
    "the galaxy", "heaven", "my garden", "my house", "nowhere", "Catalonia", "Tuscany", "Sicily",
    "Saxony", "Andalusia", "Crete", "Corsica", "Siberia", "Transylvania", "Ontario", "Quebec",
    "Alberta", "Manitoba", "Queensland", "Tasmania", "Patagonia", "Punjab", "Kerala", "Sumatra",
    "Borneo", "Yorkshire", "Cornwall", "Kent", "Provence", "Normandy", "Brittany", "Flanders",
    "Prussia", "Yugoslavia", "the Soviet Union", "Babylon", "Sparta", "Mesopotamia", "Gaul",
)  # fmt: skip

_STARTS = ("b", "br", "c", "ch", "d", "dr", "f", "fl", "g", "gl", "gr", "h", "j", "k", "kr", "l",
           "m", "n", "p", "pl", "qu", "r", "s", "sh", "st", "t", "th", "tr", "v", "w", "x", "z",
           "zh", "", "bl", "cl", "sk", "sl", "v", "wr")  # fmt: skip
_VOWELS = ("a", "e", "i", "o", "u", "a", "e", "o", "ai", "ee", "ou", "ia")
_ENDS = ("", "", "", "n", "r", "l", "s", "m", "nd", "rn", "x", "th", "rk", "ld", "b", "g", "v")
_SUFFIXES = ("", "", "ia", "land", "stan", "or", "ova", "burg", "ania", "aria", "onia", "istan",
             "elia", "us", "um", "ria", "inia", "mar", "dor", "heim", "ville", "wick")  # fmt: skip


def unknown_place(rng: random.Random) -> str:
    """Return the name of a place that palmita has no capital for, mostly an invented one."""
    return rng.choice(_FICTIONAL) if rng.random() < 0.3 else invented_place(rng)


def invented_place(rng: random.Random) -> str:
    """Return a name that no place has, and that looks like none that palmita knows."""
    while True:
        name = _blended(rng) if rng.random() < 0.3 else _syllables(rng)
        if rng.random() < 0.08:
            name = f"{rng.choice(('New', 'North', 'South', 'Saint', 'West'))} {name}"
        if 4 <= len(name) <= 14 and not _resembles_a_place(name):
            return name


def _blended(rng: random.Random) -> str:
    """Return the front of one known name with the back of another: Denmark, Peru: Denmru."""
    front, back = (rng.choice(all_places()).name.removeprefix("the ").split()[-1] for _ in range(2))
    return (front[: (len(front) + 1) // 2] + back[len(back) // 2 :]).capitalize()


def _syllables(rng: random.Random) -> str:
    syllables = [
        rng.choice(_STARTS) + rng.choice(_VOWELS) + rng.choice(_ENDS)
        for _ in range(rng.choice((1, 2, 2, 2, 3)))
    ]
    return ("".join(syllables) + rng.choice(_SUFFIXES)).capitalize()


def _resembles_a_place(name: str) -> bool:
    return bool(get_close_matches(name, _taken_names(), n=1, cutoff=0.78))


@cache
def _taken_names() -> tuple[str, ...]:
    known = (name for place in all_places() for name in place.question_names)
    return (*dict.fromkeys(name.removeprefix("the ") for name in known), *INVENTED_PLACES)
