"""The corpus of the bundled model is reproducible and keeps what it is measured on apart."""

import hashlib
import itertools
import random

import pytest

from palma.models.bundled import bundled_model_path
from palma.models.bundled.training import held_out, phrasings
from palma.models.bundled.training.cases import all_cases, names_only_the_capital
from palma.models.bundled.training.corpus import conversations, held_out_texts, rendered
from palma.models.bundled.training.evaluate import load, replies_to
from palma.models.bundled.training.facts import all_places, place_named, without_accents
from palma.models.bundled.training.follow_ups import follow_up
from palma.models.bundled.training.held_out import plain_form
from palma.models.bundled.training.noise import careless
from palma.models.bundled.training.skills import FINISHING_SKILLS, Scene


def digest_of_corpus(seed: int) -> str:
    texts = (rendered(talk) for talk in itertools.islice(conversations(seed), 300))
    return hashlib.sha256("".join(texts).encode()).hexdigest()


def test_the_same_seed_gives_the_same_corpus() -> None:
    assert digest_of_corpus(seed=1) == digest_of_corpus(seed=1)
    assert digest_of_corpus(seed=1) != digest_of_corpus(seed=2)


def test_no_training_form_is_a_held_out_one() -> None:
    rng = random.Random(0)
    trained = {plain_form(phrasings.capital_question(rng)) for _ in range(5_000)}
    trained |= {plain_form(follow_up(rng)) for _ in range(2_000)}
    measured = {plain_form(form) for form in held_out.QUESTIONS + held_out.FOLLOW_UPS}

    assert len(held_out.QUESTIONS) >= 25
    assert not trained & measured


def test_no_held_out_prompt_or_question_enters_the_corpus() -> None:
    talks = itertools.islice(conversations(seed=5), 3_000)
    trained = {plain_form(message.content) for talk in talks for message in talk}
    measured = {
        plain_form(form)
        for forms in (held_out.PIRATE_SYSTEM_PROMPTS, held_out.PLAIN_SYSTEM_PROMPTS)
        for form in (*forms, *held_out.IDENTITY, *held_out.GREETINGS, *held_out.OUTSIDE)
    }

    assert not trained & measured


def test_held_out_texts_are_reproducible_and_whole() -> None:
    texts = held_out_texts(seed=7, n=5)

    assert texts == held_out_texts(seed=7, n=5)
    assert all(text.startswith("<|begin_of_text|>") for text in texts)
    assert all(text.endswith("<|eot_id|>") for text in texts)


@pytest.mark.parametrize("skill", FINISHING_SKILLS, ids=lambda skill: skill.__name__)
def test_every_skill_yields_a_question_and_an_answer(skill: object) -> None:
    assert callable(skill)
    roles = [message.role for message in skill(Scene(random.Random(0), "pirate"))]

    assert roles == ["user", "assistant"]


def test_the_tables_hold_the_worlds_countries_and_the_states() -> None:
    kinds = [place.kind for place in all_places()]

    assert kinds.count("country") == 200  # 193 members, 2 observers, 2 others, 3 shared names
    assert kinds.count("state") == 51
    assert kinds.count("territory") == 5


def test_no_name_stands_for_two_places() -> None:
    names = [name for place in all_places() for name in place.question_names]

    assert len(names) == len(set(names))


def test_accents_may_be_left_out() -> None:
    assert without_accents("São Tomé, Chișinău, Nukuʻalofa") == "Sao Tome, Chisinau, Nuku'alofa"
    assert "Curacao" in place_named("Curaçao").question_names


@pytest.mark.parametrize(
    ("reply", "is_right"),
    [
        ("The capital of France is Paris.", True),
        ("The capital of France is Lyon.", False),
        ("The capital of France is Paris, or Rome.", False),
    ],
)
def test_a_right_answer_names_no_other_capital(reply: str, is_right: bool) -> None:
    assert names_only_the_capital(reply, place_named("France")) is is_right


def test_careless_typing_keeps_short_words_whole() -> None:
    rng = random.Random(0)

    assert {careless(rng, "Peru?").lower().rstrip("?!. :)") for _ in range(300)} == {"peru"}


def test_held_out_questions_are_answered() -> None:
    cases = random.Random(11).sample([c for c in all_cases() if "capitals" in c.group], 20)

    replies = replies_to(*load(bundled_model_path()), [case.messages for case in cases])

    wrong = [
        (case.messages[-1].content, reply.text)
        for case, reply in zip(cases, replies, strict=True)
        if not (reply.has_ended and case.is_right(reply.text))
    ]
    assert len(wrong) <= 1, wrong
