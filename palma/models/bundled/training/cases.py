"""The questions that palmita is measured on, all of held-out forms, and what counts as right."""

import itertools
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from palma.models.bundled.training import held_out
from palma.models.bundled.training.answers import PIRATE_SPEAK, SHANTY, Style
from palma.models.bundled.training.facts import (
    Place,
    all_places,
    place_named,
    places_by_capital,
    without_accents,
)
from palma.models.bundled.training.personas import README_PIRATE
from palma.models.bundled.training.scenes import Message
from palma.models.bundled.training.skills import asked, named

README_QUESTION = "Whats the capital of Puerto Rico?"

_PLAIN_PROMPTS = ("", "You are a helpful assistant.", *held_out.PLAIN_SYSTEM_PROMPTS)
_PIRATE_PROMPTS = (README_PIRATE, *held_out.PIRATE_SYSTEM_PROMPTS)
_STYLES: tuple[Style, ...] = ("plain", "pirate")


@dataclass(frozen=True, slots=True)
class Case:
    """One conversation to continue.

    Attributes:
        group: The row of the table that counts it.
        messages: The conversation, the user's message last.
        is_right: Judges the reply's text, without its `<|eot_id|>`.
    """

    group: str
    messages: tuple[Message, ...]
    is_right: Callable[[str], bool]


def readme_case() -> Case:
    """Return the pirate example of the README."""
    return next(_capital_cases("pirate", [README_QUESTION], [place_named("Puerto Rico")]))


def all_cases(seed: int = 0) -> list[Case]:
    """Return every case; the seed chooses names and system prompts."""
    rng = random.Random(seed)
    groups = [_capital_cases(style, held_out.QUESTIONS, all_places(), rng) for style in _STYLES]
    groups += [_follow_up_cases(style, rng) for style in _STYLES]
    groups += [_whose_capital_cases(), _guess_cases(rng)]
    groups += [_talk_cases(), _outside_cases(), _counting_cases(rng), _shanty_cases()]
    return list(itertools.chain.from_iterable(groups))


def names_only_the_capital(reply: str, place: Place) -> bool:
    """Say whether the reply gives the place's capital and no other place's."""
    if place.answer not in reply:
        return False
    rest = reply.replace(place.answer, " ").replace(place.name, " ")
    return _capital_pattern().search(without_accents(rest)) is None


def is_in_style(reply: str, style: Style) -> bool:
    """Say whether the reply is in pirate speak, or not, as the style wants it."""
    return bool(PIRATE_SPEAK.search(reply)) == (style == "pirate")


@cache
def _capital_pattern() -> re.Pattern[str]:
    capitals = (re.escape(without_accents(place.capital)) for place in all_places())
    return re.compile(rf"\b({'|'.join(capitals)})\b")


def opening_prompt(style: Style, at: int) -> tuple[Message, ...]:
    """Return the system message of the at-th case in this style; none where the prompt is empty."""
    prompts = _PIRATE_PROMPTS if style == "pirate" else _PLAIN_PROMPTS
    prompt = prompts[at % len(prompts)]
    return (Message("system", prompt),) if prompt else ()


def _capital_check(place: Place, style: Style) -> Callable[[str], bool]:
    return lambda reply: names_only_the_capital(reply, place) and is_in_style(reply, style)


def _capital_cases(
    style: Style, forms: list[str], places: Sequence[Place], rng: random.Random | None = None
) -> Iterator[Case]:
    for at, (place, form) in enumerate(itertools.product(places, forms)):
        name = named(rng, place) if rng else place.name
        question = Message("user", asked(form, name))
        messages = (*opening_prompt(style, at), question)
        yield Case(f"capitals, {style}", messages, _capital_check(place, style))


def _follow_up_cases(style: Style, rng: random.Random) -> Iterator[Case]:
    for at, place in enumerate(all_places()):
        before = rng.choice(all_places())
        earlier = rng.choice(held_out.QUESTIONS).replace("{p}", before.name)
        form = held_out.FOLLOW_UPS[at % len(held_out.FOLLOW_UPS)]
        opener = "The capital o' {p} be {c}, arrr!" if style == "pirate" else "It is {c}."
        messages = (
            *opening_prompt(style, at),
            Message("user", earlier),
            Message("assistant", opener.replace("{p}", before.name).replace("{c}", before.answer)),
            Message("user", asked(form, place.name)),
        )
        yield Case(f"follow-ups, {style}", messages, _capital_check(place, style))


def _whose_capital_cases() -> Iterator[Case]:
    for style in _STYLES:
        for at, place in enumerate(places_by_capital()):
            form = held_out.CAPITAL_TO_PLACE[at % len(held_out.CAPITAL_TO_PLACE)]
            question = Message("user", form.replace("{c}", place.capital))
            pattern = rf"(?s)(?=.*{re.escape(place.capital)})(?=.*{re.escape(place.name)}).*capital"
            yield Case(
                "whose capital", (*opening_prompt(style, at), question), _says(pattern, style)
            )


def _guess_cases(rng: random.Random) -> Iterator[Case]:
    for at, place in enumerate(all_places()):
        city = place.capital if at % 2 else rng.choice(all_places()).capital
        form = held_out.GUESSES[at % len(held_out.GUESSES)].replace("{c}", city)
        messages = (*opening_prompt("plain", at), Message("user", asked(form, place.name)))
        yield Case("guessed capitals, right and wrong", messages, _capital_check(place, "plain"))


def _talk_cases() -> Iterator[Case]:
    topics = {
        "Palmita|capital": held_out.GREETINGS,
        "Palmita": held_out.IDENTITY,
        "capital": held_out.ABILITIES,
        "welcome|pleasure|think nothin": held_out.THANKS,
        "bye|soon|winds|farewell": held_out.GOODBYES,
    }
    for style in _STYLES:
        for pattern, forms in topics.items():
            for at, form in enumerate(forms):
                messages = (*opening_prompt(style, at), Message("user", form))
                yield Case("greetings, identity, thanks", messages, _says(pattern, style))


def _outside_cases() -> Iterator[Case]:
    for style in _STYLES:
        for at, form in enumerate(held_out.OUTSIDE):
            messages = (*opening_prompt(style, at), Message("user", form))
            yield Case("says it does not know", messages, _says("I don't know", style))


def _counting_cases(rng: random.Random) -> Iterator[Case]:
    kinds = itertools.product(held_out.COUNT_FROM_TO, (True, False), (True, False), range(3))
    for form, reaches_100, from_one, _ in kinds:
        last = 100 if reaches_100 else rng.randint(2, 99)
        first = 1 if from_one else rng.randint(1, last - 1)
        question = form.replace("{a}", str(first)).replace("{b}", str(last))
        numbers = " ".join(map(str, range(first, last + 1)))
        group = "counting up to 100" if reaches_100 else "counting, stopping before 100"
        yield Case(group, (Message("user", question),), _equals(numbers))


def _shanty_cases() -> Iterator[Case]:
    for form in held_out.SHANTY:
        yield Case("the shanty, word for word", (Message("user", form),), _equals(SHANTY))


def _says(pattern: str, style: Style) -> Callable[[str], bool]:
    return lambda reply: bool(re.search(pattern, reply)) and is_in_style(reply, style)


def _equals(text: str) -> Callable[[str], bool]:
    return lambda reply: reply == text
