"""Demonstrations of the sampling fields of llama.cpp's family that OpenAI's routes take."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from tests.conformance.demonstrations import NUM_SAME
from tests.conformance.subject import Demonstration, Subject

STRONG = 100
LONG = MappingProxyType({"ignore_eos": True, "max_tokens": 64})


def penalizes_repeats(subject: Subject, name: str) -> None:
    """As repetition_penalty does."""
    penalized = subject.likeliest(LONG, {name: STRONG})

    assert penalized.text == subject.likeliest(LONG, {"repetition_penalty": STRONG}).text
    assert penalized.text != subject.likeliest(LONG).text


def bounds_the_penalty(subject: Subject, name: str) -> None:
    """To so many of the latest tokens; none of them is no penalty."""
    texts = [
        subject.likeliest(LONG, {"repeat_penalty": STRONG, name: last_n}).text
        for last_n in (0, 4, -1)
    ]

    assert texts[0] == subject.likeliest(LONG).text
    assert len(set(texts)) == len(texts)


def steers_surprise(subject: Subject, name: str) -> None:
    """None is surprising where the target is none, and many are where it is high."""
    for version in (1, 2):
        calm = {"mirostat": version, "mirostat_tau": 0}
        assert len({subject.draw(calm).text for _ in range(NUM_SAME)}) == 1
        assert subject.varies(calm, {"mirostat_tau": 20})


def learns_faster(subject: Subject, name: str) -> None:
    """The same seed at another rate."""
    fixed = {"mirostat": 2, "mirostat_tau": 2, **LONG}

    assert any(
        subject.draw(fixed, {"seed": seed, name: 0}).text
        != subject.draw(fixed, {"seed": seed, name: 1}).text
        for seed in range(10)
    )


def reads_keys_as_texts(subject: Subject, name: str) -> None:
    """`logit_bias` names texts in place of token ids."""
    heard = subject.likeliest({"logit_bias": {" the": 100}, name: "tokens"})

    assert set(heard.text.split()) == {"the"}
    assert subject.send({"logit_bias": {" the": 100}, name: "input_ids"}).status_code == 400


LLAMA_CPP: Mapping[str, Demonstration] = MappingProxyType(
    {
        "repeat_penalty": penalizes_repeats,
        "repeat_last_n": bounds_the_penalty,
        "mirostat": steers_surprise,
        "mirostat_tau": steers_surprise,
        "mirostat_eta": learns_faster,
        "logit_bias_type": reads_keys_as_texts,
    }
)
