"""The corpus of the bundled model is reproducible and keeps what it is measured on apart."""

import hashlib
import itertools
import random

import pytest
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from palma.models.bundled import bundled_model_path
from palma.models.bundled.training import held_out, phrasings
from palma.models.bundled.training.batches import target_weights
from palma.models.bundled.training.cases import all_cases, names_only_the_capital
from palma.models.bundled.training.corpus import conversations, held_out_texts, rendered
from palma.models.bundled.training.evaluate import load, replies_to
from palma.models.bundled.training.facts import all_places, place_named, without_accents
from palma.models.bundled.training.follow_ups import follow_up
from palma.models.bundled.training.held_out import plain_form
from palma.models.bundled.training.noise import careless
from palma.models.bundled.training.scenes import Message, Scene
from palma.models.bundled.training.skills import (
    REPLAYED_SKILLS,
    SKILLS_BESIDE_TOOLS,
)
from palma.models.bundled.training.tokenizer import add_call_tokens
from palma.models.bundled.training.tool_cases import all_tool_cases
from palma.models.bundled.training.tool_sets import place_parameter, weather_tool
from palma.models.bundled.training.tool_text import Parameter, ToolSpec, call_in, call_text
from palma.models.bundled.training.train import ROUNDS
from palma.models.bundled.training.weather import arguments, weather
from palma.models.bundled.training.weather_forms import weather_follow_up, weather_form
from palma.models.bundled.training.weather_results import weather_sentence


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
    trained |= {plain_form(weather_form(rng)) for _ in range(5_000)}
    trained |= {plain_form(weather_follow_up(rng)) for _ in range(2_000)}
    forms = held_out.QUESTIONS + held_out.FOLLOW_UPS + held_out.WEATHER
    measured = {plain_form(form) for form in forms + held_out.WEATHER_FOLLOW_UPS}

    assert len(held_out.QUESTIONS) >= 25
    assert len(held_out.WEATHER) >= 25
    assert not trained & measured


def test_no_held_out_prompt_or_question_enters_the_corpus() -> None:
    talks = [
        talk for each in ROUNDS for talk in itertools.islice(conversations(5, each.mixture), 2_000)
    ]
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


@pytest.mark.parametrize("skill", REPLAYED_SKILLS, ids=lambda skill: skill.__name__)
def test_every_skill_yields_a_question_and_an_answer(skill: object) -> None:
    assert callable(skill)
    roles = [message.role for message in skill(Scene(random.Random(0), "pirate"))]

    assert roles == ["user", "assistant"]


@pytest.mark.parametrize("skill", SKILLS_BESIDE_TOOLS, ids=lambda skill: skill.__name__)
def test_of_all_skills_only_the_weather_calls_a_tool(skill: object) -> None:
    assert callable(skill)
    tool = ToolSpec("get_weather", "Get the weather", (Parameter("city"),))
    scenes = [Scene(random.Random(seed), "plain", tools=(tool,)) for seed in range(50)]

    talks = [list(skill(scene)) for scene in scenes]

    calls = [any(call_in(message.content) for message in talk) for talk in talks]
    assert all(calls) if skill is weather else not any(calls)


def test_a_call_names_the_place_and_the_unit_only_when_asked_for_or_required() -> None:
    place, unit = Parameter("city"), Parameter("unit", "C|F", is_required=False)
    tool = ToolSpec("get_weather", "Get the weather", (unit, place))
    strict = ToolSpec("get_weather", "Get the weather", (place, Parameter("unit", "F|C")))

    assert arguments(tool, "Oslo") == {"city": "Oslo"}
    assert list(arguments(tool, "Oslo", "fahrenheit").items()) == [("unit", "F"), ("city", "Oslo")]
    assert arguments(strict, "Oslo") == {"city": "Oslo", "unit": "F"}


def test_a_call_is_read_as_it_was_written() -> None:
    text = call_text("get_weather", {"city": 'São "X"'})

    assert text.splitlines()[0] == "<tool_call>"
    assert text.splitlines()[1] == '{"name": "get_weather", "arguments": {"city": "São \\"X\\""}}'
    assert text.splitlines()[2:] == ["</tool_call>"]
    assert call_in(text) == ("get_weather", {"city": 'São "X"'})
    assert call_in("The capital of France is Paris.") is None
    assert call_in("<tool_call>\nnonsense</tool_call>") is None


def test_what_is_copied_counts_more_than_what_is_around_it() -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(bundled_model_path())
    model = LlamaForCausalLM.from_pretrained(bundled_model_path())
    add_call_tokens(model, tokenizer)
    call = call_text("get_weather", {"city": "Oslo"})
    talk = [Message("assistant", call), Message("tool", "12"), Message("assistant", "It is 12.")]
    talk += [Message("user", "Thanks!"), Message("assistant", "You are welcome!")]
    ids = tokenizer.encode(rendered(talk))

    heavy = [i for i, weight in zip(ids, target_weights(tokenizer, ids), strict=True) if weight > 1]

    said = "It is 12.<|eot_id|><|start_header_id|>"
    assert tokenizer.decode(heavy).startswith("<tool_call>Oslo")
    assert said in tokenizer.decode(heavy)
    assert "welcome" not in tokenizer.decode(heavy)
    assert "get_" not in tokenizer.decode(heavy)


def test_the_parts_of_a_call_are_tokens_that_change_no_other_text() -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(bundled_model_path())
    model = LlamaForCausalLM.from_pretrained(bundled_model_path())
    texts = [rendered(talk) for talk in itertools.islice(conversations(3), 200)]
    before = tokenizer(texts)["input_ids"]

    add_call_tokens(model, tokenizer)
    add_call_tokens(model, tokenizer)

    call = call_text("get_weather", {"city": "Oslo"})
    assert tokenizer(texts)["input_ids"] == before
    assert tokenizer.decode(tokenizer.encode(call)) == call
    assert tokenizer.decode(tokenizer.encode(call), skip_special_tokens=True) == call
    assert len(tokenizer.encode(call)) < 20
    assert model.lm_head.weight.shape == (len(tokenizer), model.config.hidden_size)


def test_every_weather_tool_takes_a_place() -> None:
    rng = random.Random(0)

    assert {place_parameter(weather_tool(rng)).kind for _ in range(200)} == {"string"}


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        (("12", "Celsius", "sunny"), "It is 12 degrees Celsius and sunny in Oslo."),
        (("12", "", "light rain"), "It is 12 degrees in Oslo, with light rain."),
        (("12", "Celsius", ""), "It is 12 degrees Celsius in Oslo."),
        (("", "", "fog"), "There is fog in Oslo."),
        (("", "", "foggy"), "It is foggy in Oslo."),
    ],
)
def test_a_sentence_says_what_the_tool_returned(told: tuple[str, str, str], sentence: str) -> None:
    assert weather_sentence("plain", "Oslo", *told) == sentence


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


def test_held_out_questions_beside_tools_are_answered_or_call_as_they_should() -> None:
    cases = random.Random(11).sample(all_tool_cases(), 60)

    replies = replies_to(*load(bundled_model_path()), [case.messages for case in cases])

    wrong = [
        (case.group, case.messages[-1].content, reply.text)
        for case, reply in zip(cases, replies, strict=True)
        if not (reply.has_ended and case.is_right(reply.text))
    ]
    assert len(wrong) <= 3, wrong
