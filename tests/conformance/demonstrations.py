"""What a field must change to be called honoured, for the fields that many dialects share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from tests.conformance.subject import NOTHING, Demonstration, Subject, token_id
from tests.live_server import running_server, user
from tests.spy_engine import Spy

NUM_SAME = 5
"""So many random answers are not all the same unless something narrows them."""

UNCLEAR = "a"
"""palmita says who it is, or else something: at any temperature its answers differ."""

CAPITALS = "What is the capital of France, and of Norway, and of Spain?"
"""Has the tokens of its answer in it."""

LONG = MappingProxyType({"ignore_eos": True, "max_tokens": 64})
"""Makes answers that repeat themselves."""


def heats(subject: Subject, name: str) -> None:
    """A temperature: greedy at its least, random at its most."""
    likeliest = subject.likeliest({name: subject.way.greedy[name]})

    assert subject.likeliest().text == likeliest.text
    assert subject.varies()


def narrows_to(value: Any) -> Demonstration:
    """Return the demonstration of a cut-off so tight that only one token is left each time."""

    def demonstrate(subject: Subject, name: str) -> None:
        texts = {subject.draw({name: value}).text for _ in range(NUM_SAME)}

        assert len(texts) == 1
        assert subject.varies()

    return demonstrate


def seeds(subject: Subject, name: str) -> None:
    """A seed: the same one gives the same answer, others give others."""
    assert subject.draw({name: 1}).text == subject.draw({name: 1}).text
    assert len({subject.draw({name: seed}).text for seed in range(12)}) > 1


def changes_the_likeliest(
    value: Any, *, beside: Mapping[str, Any] = NOTHING, question: str | None = None
) -> Demonstration:
    """Return the demonstration of a field that changes even the likeliest answer.

    Args:
        value: The field's.
        beside: Other fields of both requests.
        question: Asked in place of the usual one.
    """

    def demonstrate(subject: Subject, name: str) -> None:
        asked = {} if question is None else {subject.way.asks: question}

        changed = subject.likeliest(asked, beside, {name: value})

        assert changed.text != subject.likeliest(asked, beside).text

    return demonstrate


def forces_a_token(subject: Subject, name: str) -> None:
    """A bias on token ids: a great one leaves no other token."""
    heard = subject.likeliest({name: {str(token_id(" the")): 100}})

    assert set(heard.text.split()) == {"the"}


def cuts_at_strings(subject: Subject, name: str) -> None:
    """Stop strings."""
    whole = subject.likeliest().text

    cut = subject.likeliest({name: ["small"]})

    assert cut.text == whole[: whole.index("small")]


def cuts_at_token_ids(subject: Subject, name: str) -> None:
    """Stop token ids."""
    whole = subject.likeliest().text

    cut = subject.likeliest({name: [token_id(" small")]})

    assert cut.text == whole[: whole.index(" small")]


def bounds_tokens(*, beside: Mapping[str, Any] = NOTHING) -> Demonstration:
    """Return the demonstration of a bound on completion tokens."""

    def demonstrate(subject: Subject, name: str) -> None:
        heard = subject.likeliest(beside, {name: 3})
        longer = subject.likeliest(beside, {name: 5})

        assert longer.text.startswith(heard.text)
        assert longer.text != heard.text
        assert heard.num_tokens in (3, None)
        assert heard.is_cut in (True, None)

    return demonstrate


def chooses_the_model(subject: Subject, name: str) -> None:
    """A model's name: another one is nowhere to be found."""
    assert subject.send({name: "palmita"}).status_code == 200
    assert subject.send({name: "another"}).status_code == 404


def lengthens(subject: Subject, name: str) -> None:
    """A least number of completion tokens."""
    num_tokens = subject.likeliest({"max_tokens": 64}).num_tokens
    assert num_tokens is not None

    longer = subject.likeliest({"max_tokens": 64, name: num_tokens + 10})

    assert longer.num_tokens is not None
    assert longer.num_tokens >= num_tokens + 10


def ignores_the_end(subject: Subject, name: str) -> None:
    """Stop tokens that are decoded like any other."""
    assert subject.likeliest({"max_tokens": 64}).is_cut is False

    heard = subject.likeliest({"max_tokens": 64, name: True})

    assert heard.is_cut
    assert heard.num_tokens == 64


def counts_choices(subject: Subject, name: str) -> None:
    """A number of choices, which differ."""
    assert len(subject.draw({name: 12}).texts) == 12
    assert len(set(subject.draw({name: 12}).texts)) > 1


def changes_the_answer(*values: Any, beside: Mapping[str, Any] = NOTHING) -> Demonstration:
    """Return the demonstration of a field that the model reads: each value, another answer.

    Args:
        values: The field's.
        beside: Other fields of every request.
    """

    def demonstrate(subject: Subject, name: str) -> None:
        texts = [subject.likeliest(beside, {name: value}).text for value in values]

        assert len(set(texts)) == len(values)

    return demonstrate


def changes_the_prompt(*values: Any, beside: Mapping[str, Any] = NOTHING) -> Demonstration:
    """Return the demonstration of a field that the engine sees: each value, another prompt.

    Args:
        values: The field's.
        beside: Other fields of every request.
    """

    def demonstrate(subject: Subject, name: str) -> None:
        spy = Spy()
        with running_server(load=spy.load, engine="threads") as server:
            for value in values:
                response = replace(subject, server=server).send({**beside, name: value})
                assert response.status_code == 200, (value, response.text)

        assert len({spied.prompt for spied in spy.submitted}) == len(values)

    return demonstrate


MESSAGES: Mapping[str, Demonstration] = MappingProxyType(
    {
        "messages": changes_the_answer(user("Hello"), user(CAPITALS)),
        "messages.*.role": changes_the_prompt("user", "assistant"),
        "messages.*.content": changes_the_answer("Hello", CAPITALS),
    }
)
"""Of conversations whose messages have a role and a text."""

SAMPLING: Mapping[str, Demonstration] = MappingProxyType(
    {
        "temperature": heats,
        "top_p": narrows_to(1e-6),
        "top_k": narrows_to(1),
        "min_p": narrows_to(1),
        "typical_p": narrows_to(1e-6),
        "repetition_penalty": changes_the_likeliest(100, question=CAPITALS),
        "presence_penalty": changes_the_likeliest(2, beside=LONG),
        "frequency_penalty": changes_the_likeliest(2, beside=LONG),
        "logit_bias": forces_a_token,
        "min_tokens": lengthens,
        "stop_token_ids": cuts_at_token_ids,
        "ignore_eos": ignores_the_end,
        "seed": seeds,
        "stop": cuts_at_strings,
        "model": chooses_the_model,
    }
)
"""Under the names that most dialects give them."""
