"""Answers with scored tokens: which scores leave, and with which text."""

from __future__ import annotations

from palma.core.errors import PalmaError
from palma.core.types import TextChunk
from palma.engine.base import TokenDelta, TokenLogprobs
from palma.engine.mock import END_ID, MockTokenizer
from palma.serving.answer import AnswerBuilder, AnswerPlan


class Recorder:
    """Builds an answer and remembers what it says.

    Attributes:
        is_cancelled: Whether the builder wants no more tokens.
    """

    def __init__(
        self,
        *,
        prompt: str = "p",
        echo: bool = False,
        stop: tuple[str, ...] = (),
        interval_s: float = 0.0,
        scores_end_token: bool = False,
    ) -> None:
        self.chunks: list[TextChunk] = []
        self.errors: list[PalmaError] = []
        self.is_cancelled = False
        plan = AnswerPlan(
            tokenizer=MockTokenizer(),
            prompt_token_ids=list(prompt.encode()),
            echo=prompt if echo else "",
            prompt_offsets=list(range(len(prompt))),
            scores_end_token=scores_end_token,
            stop=stop,
            stop_token_ids=frozenset({END_ID}),
            interval_s=interval_s,
        )
        self.builder = AnswerBuilder(
            plan, emit=self.chunks.append, fail=self.errors.append, cancel=self._cancel
        )

    def _cancel(self) -> None:
        self.is_cancelled = True

    def say(self, *token_ids: int) -> None:
        for token_id in token_ids:
            logprobs = (TokenLogprobs(token_id, -1.0, ()),)
            self.builder(TokenDelta(token_ids=(token_id,), logprobs=logprobs))

    def end(self) -> None:
        self.builder(TokenDelta(finish_reason="stop"))

    @property
    def text(self) -> str:
        return "".join(chunk.text for chunk in self.chunks)

    @property
    def scored(self) -> list[str]:
        return [scored.token.text for chunk in self.chunks for scored in chunk.scored_tokens]


def test_each_score_leaves_with_its_own_text() -> None:
    answer = Recorder()

    answer.say(*b"abc")
    answer.end()

    told = [(chunk.text, [s.token.text for s in chunk.scored_tokens]) for chunk in answer.chunks]
    assert told == [("a", ["a"]), ("b", ["b"]), ("c", ["c"]), ("", [])]


def test_scores_of_text_that_waits_wait_with_it() -> None:
    answer = Recorder(interval_s=1000.0)

    answer.say(*b"abc")
    answer.end()

    told = [(chunk.text, len(chunk.scored_tokens)) for chunk in answer.chunks]
    assert told == [("a", 1), ("bc", 2)]


def test_scores_behind_a_stop_string_never_leave() -> None:
    answer = Recorder(stop=("cd",))

    answer.say(*b"abcd")
    answer.say(*b"e")

    assert (answer.text, answer.scored) == ("ab", ["a", "b"])
    assert answer.chunks[-1].finish_reason == "stop"
    assert answer.is_cancelled


def test_scores_of_what_only_began_a_stop_string_leave_at_the_end() -> None:
    answer = Recorder(stop=("cd",))

    answer.say(*b"abc")
    assert answer.scored == ["a", "b"]
    answer.end()

    assert (answer.text, answer.scored) == ("abc", ["a", "b", "c"])


def test_a_token_that_a_stop_string_cuts_in_two_is_scored() -> None:
    answer = Recorder(stop=("2 3",))

    answer.say(*b"1", *b" 1")
    answer.say(257 + 2, 257 + 3)  # "2 " and "3 "

    assert (answer.text, answer.scored) == ("1 1", ["1", " ", "1"])
    half = Recorder(stop=("5 ",))
    half.say(257 + 15)  # "15 "
    assert (half.text, half.scored) == ("1", ["15 "])


def test_a_repeated_prompt_is_no_place_for_stop_strings_and_keeps_its_scores() -> None:
    answer = Recorder(prompt="stop", echo=True, stop=("o",))
    reports = tuple(TokenLogprobs(token_id, -2.0, ()) for token_id in b"top")

    answer.builder(TokenDelta(prompt_logprobs=reports))
    answer.say(*b"o")

    assert (answer.text, answer.scored) == ("stop", ["s", "t", "o", "p"])
    assert answer.chunks[-1].finish_reason == "stop"


def test_the_scores_of_half_a_character_leave_with_its_whole() -> None:
    answer = Recorder()

    answer.say(*"é".encode(), *b"!")
    answer.end()

    told = [(chunk.text, len(chunk.scored_tokens)) for chunk in answer.chunks]
    assert told == [("é", 2), ("!", 1), ("", 0)]


def test_the_end_token_is_scored_only_where_it_is_asked_for() -> None:
    for wanted, expected in ((False, ["a"]), (True, ["a", "<|eot_id|>"])):
        answer = Recorder(scores_end_token=wanted)

        answer.say(*b"a", END_ID)
        answer.end()

        assert (answer.text, answer.scored) == ("a", expected)
        assert answer.chunks[-1].usage is not None
        assert answer.chunks[-1].usage.num_completion_tokens == 2
