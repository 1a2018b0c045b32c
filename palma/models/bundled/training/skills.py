"""What palmita can do: each skill is a function that yields one exchange of a conversation.

To teach a new skill, write a function like those below, which may yield messages of any role, and
give it a weight in the mapping of a round: `SKILLS` is that of the first.
"""

import random
from collections.abc import Iterator

from palma.models.bundled.training import phrasings
from palma.models.bundled.training.answers import Style, Topic, pick
from palma.models.bundled.training.echoes import echo
from palma.models.bundled.training.facts import (
    Place,
    all_places,
    drawn_place,
    places_by_capital,
    without_accents,
)
from palma.models.bundled.training.follow_ups import follow_up
from palma.models.bundled.training.held_out import is_held_out
from palma.models.bundled.training.manners import OPENINGS
from palma.models.bundled.training.noise import careless
from palma.models.bundled.training.outside import outside_question
from palma.models.bundled.training.scenes import Message, Scene, Skill
from palma.models.bundled.training.smalltalk import TOPICS, user_form
from palma.models.bundled.training.tool_sets import weather_tool_of
from palma.models.bundled.training.unknown_places import unknown_place
from palma.models.bundled.training.weather import weather
from palma.models.bundled.training.weather_forms import NEAR_MISSES, is_about_weather

_COUNT_TO = """
Count to {b}.
Count to {b}, please.
Count up to {b}
Please count to {b}.
Can you count to {b}?
Could you count to {b} for me?
I want you to count to {b}.
Count from one to {b}.
Count from 1 to {b}.
Count from 1 to {b}
Count for me to {b}
count 1 to {b}
Give me the numbers from 1 to {b}.
Say the numbers from 1 to {b}.
List the numbers from 1 to {b}
Write the numbers 1 to {b}.
""".strip().splitlines()

_COUNT_FROM_TO = """
Count from {a} to {b}.
Count from {a} to {b}
Count from {a} up to {b}.
Can you count from {a} to {b}?
Could you count from {a} to {b}, please?
Please count up from {a} to {b}.
I want you to count from {a} to {b}.
Start at {a} and count to {b}.
Start at {a}, stop at {b}.
count {a} to {b}
Give me the numbers from {a} to {b}.
Say the numbers {a} to {b}, please.
List the numbers from {a} to {b}.
Write all numbers from {a} to {b}
""".strip().splitlines()

_ODD_ONES_OUT = (
    "What about {p}'s population?",
    "And its population?",
    "And who is its president?",
    "How big is it?",
    "How many people live there?",
    "What is the weather there?",
    "What language do they speak there?",
    "And the currency?",
)


def capital(scene: Scene) -> Iterator[Message]:
    """A question for a capital, in any form, and its answer."""
    form = (
        follow_up(scene.rng)
        if scene.after_capital and scene.rng.random() < 0.6
        else phrasings.capital_question(scene.rng)
    )
    place = drawn_place(scene.rng)
    yield Message("user", ask(scene.rng, form, named(scene.rng, place)))
    yield Message("assistant", capital_answer(scene.rng, scene.style, place))


def guessed_capital(scene: Scene) -> Iterator[Message]:
    """A question whether some city is the capital, right or wrong: the answer says which one is."""
    place = drawn_place(scene.rng)
    city = scene.rng.choice((place, drawn_place(scene.rng))).capital
    form = phrasings.guess(scene.rng).replace("{c}", city)
    yield Message("user", ask(scene.rng, form, named(scene.rng, place)))
    yield Message("assistant", capital_answer(scene.rng, scene.style, place))


def whose_capital(scene: Scene) -> Iterator[Message]:
    """A question for the place that a capital belongs to."""
    place = scene.rng.choice(places_by_capital())
    city = place.capital if scene.rng.random() < 0.7 else without_accents(place.capital)
    question = phrasings.reverse_question(scene.rng).replace("{c}", city)
    yield Message("user", careless(scene.rng, question))
    yield Message("assistant", whose_capital_answer(scene.rng, scene.style, place))


def unknown_capital(scene: Scene) -> Iterator[Message]:
    """A question for the capital of a place that is not in the tables."""
    form = (
        follow_up(scene.rng)
        if scene.after_capital and scene.rng.random() < 0.5
        else phrasings.capital_question(scene.rng)
    )
    yield Message("user", ask(scene.rng, form, unknown_place(scene.rng)))
    yield Message("assistant", pick(scene.rng, scene.style, "unknown_place"))


def outside(scene: Scene) -> Iterator[Message]:
    """A question that is about neither capitals nor, where a tool knows it, the weather."""
    question = outside_question(scene.rng)
    while weather_tool_of(scene.tools) and is_about_weather(question):
        question = outside_question(scene.rng)
    if scene.tools and scene.rng.random() < 0.12:
        question = scene.rng.choice(NEAR_MISSES)
    if scene.rng.random() < 0.15:
        question = f"{scene.rng.choice(OPENINGS)} {question}"
    if scene.after_capital and not scene.tools and scene.rng.random() < 0.15:
        question = scene.rng.choice(_ODD_ONES_OUT)
        question = question.replace("{p}", scene.rng.choice(all_places()).name)
    yield Message("user", careless(scene.rng, question))
    yield Message("assistant", pick(scene.rng, scene.style, "unknown"))


def smalltalk(scene: Scene) -> Iterator[Message]:
    """A greeting, thanks, a goodbye, or a question about palmita."""
    topics: tuple[Topic, ...] = tuple(topic for topic in TOPICS if topic != "shanty")
    topic = scene.rng.choice(topics)
    yield Message("user", careless(scene.rng, user_form(scene.rng, topic)))
    yield Message("assistant", pick(scene.rng, scene.style, topic))


def shanty(scene: Scene) -> Iterator[Message]:
    """The one song, always the same."""
    yield Message("user", careless(scene.rng, user_form(scene.rng, "shanty")))
    yield Message("assistant", pick(scene.rng, scene.style, "shanty"))


def counting(scene: Scene) -> Iterator[Message]:
    """Counting upwards by one, within 1 to 100."""
    rng = scene.rng
    last = rng.choice((rng.randint(2, 12), rng.randint(2, 30), rng.randint(2, 100)))
    first = 1 if rng.random() < 0.4 else rng.randint(1, last - 1)
    if rng.random() < 0.5:  # short runs teach where to stop
        last = rng.randint(2, 100)
        first = max(1, last - rng.randint(1, 8))
    while is_held_out(form := rng.choice(_COUNT_TO if first == 1 else _COUNT_FROM_TO)):
        continue
    question = form.replace("{a}", str(first)).replace("{b}", str(last))
    yield Message("user", careless(rng, question))
    yield Message("assistant", count_answer(rng, scene.style, first, last))


def counting_from_one(scene: Scene) -> Iterator[Message]:
    """Counting from 1, mostly not far: what teaches most about where to stop."""
    rng = scene.rng
    last = rng.choice((rng.randint(2, 10), rng.randint(2, 25), rng.randint(2, 100)))
    question = rng.choice(_COUNT_TO).replace("{b}", str(last))
    yield Message("user", careless(rng, question))
    yield Message("assistant", count_answer(rng, scene.style, 1, last))


# How often each skill is drawn for an exchange of a conversation.
SKILLS: dict[Skill, float] = {
    capital: 60,
    guessed_capital: 2,
    whose_capital: 6,
    unknown_capital: 14,
    outside: 10,
    smalltalk: 12,
    counting: 8,
    shanty: 1,
}
# The same for the second round of training: more of what is learned late.
FINISHING_SKILLS: dict[Skill, float] = SKILLS | {
    capital: 70,
    unknown_capital: 16,
    counting: 5,
    counting_from_one: 20,
}
# The same for the third: all as before, saying names again, and not knowing the weather.
REPLAYED_SKILLS: dict[Skill, float] = FINISHING_SKILLS | {
    capital: 100,
    counting: 5,
    counting_from_one: 8,
    weather: 45,
    echo: 30,
}
# The same for its conversations with tools: most skills are there to be answered without a call.
SKILLS_BESIDE_TOOLS: dict[Skill, float] = {
    weather: 160,
    capital: 40,
    guessed_capital: 2,
    whose_capital: 4,
    unknown_capital: 10,
    outside: 26,
    smalltalk: 24,
    counting: 3,
    counting_from_one: 4,
    shanty: 1,
}


def named(rng: random.Random, place: Place) -> str:
    """Return a name of the place as a user might give it, the usual one most often."""
    name = place.name if rng.random() < 0.55 else rng.choice(place.question_names)
    return name.removeprefix("the ") if rng.random() < 0.2 else name


def ask(rng: random.Random, form: str, name: str) -> str:
    """Return the question with the place's name in it, as some user may have typed it."""
    return careless(rng, asked(form, name))


def asked(form: str, name: str) -> str:
    """Return the question with the place's name in it, neatly typed."""
    text = form.replace("{p}", name)
    return text[0].upper() + text[1:] if form.startswith("{p}") else text


def capital_answer(rng: random.Random, style: Style, place: Place) -> str:
    """Return an answer that gives the place's capital."""
    text = pick(rng, style, "capital").replace("{p}", place.name).replace("{c}", place.answer)
    return text[0].upper() + text[1:]


def whose_capital_answer(rng: random.Random, style: Style, place: Place) -> str:
    """Return an answer that gives the place of a capital."""
    text = pick(rng, style, "whose_capital")
    return text.replace("{p}", place.name).replace("{c}", place.capital)


def count_answer(rng: random.Random, style: Style, first: int, last: int) -> str:
    """Return the numbers from first to last, both counted."""
    numbers = " ".join(str(number) for number in range(first, last + 1))
    return pick(rng, style, "counting").replace("{n}", numbers)
