"""Random models keep to what comes before an answer, token by token, on every engine."""

from __future__ import annotations

import asyncio
import functools
import itertools
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from palma.core.errors import InvalidRequest
from palma.core.types import Constraint, GenerationRequest, Message, SamplingParams, Thinking
from palma.engine.base import Engine, EngineRequest, TokenMask
from palma.engine.mock import MockTokenizer
from palma.serving.grammars import GrammarCompiler
from palma.serving.reading import Pieces
from palma.serving.thinking.formats import ThinkingFormat
from palma.serving.thinking.mask import ThinkingPrelude, spell_format
from palma.serving.thinking.plan import ThinkingPlan, Vocabularies, thinking_plan
from palma.serving.thinking.slots import spell_template
from palma.serving.thinking.vocabulary import Vocabulary
from tests.engine.suite import Collected, submit
from tests.structured_models import random_engine
from tests.tiny_models import tiny_hf_tokenizer

MAX_RUNNING = 4
OPEN = "assistant\n<think>\n"
MAYBE = "assistant\n"
OVER = "assistant\n<think>\n\n</think>\n\n"
TAGS = "{{ messages }}<think>"
STEPS = """
<plan lang="en">
  <goal>{what is asked}</goal>
  <steps>
    <step>{one}</step>
    <!-- more of them -->
  </steps>
  <check/>
</plan>
"""
NUMBERS = itertools.count()
FILLED = re.compile(
    r'<plan lang="en">\n  <goal>[^<]+</goal>\n  <steps>(\n    <step>[^<]+</step>)+\n  </steps>\n'
    r"  <check>[^<]+</check>\n</plan>"
)


@pytest.fixture(scope="module", params=["threads", "continuous"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    with ThreadPoolExecutor(MAX_RUNNING + 1) as executor:
        engine = random_engine(request.param, executor, MAX_RUNNING)
        yield engine
        engine.close()


@functools.cache
def vocabularies() -> Vocabularies:
    return Vocabularies()


def plan_of(
    thinking: Thinking, template: str = TAGS, constraints: tuple[Constraint, ...] = ()
) -> ThinkingPlan:
    request = GenerationRequest(
        "r", (Message("user", "hi"),), thinking=thinking, constraints=constraints
    )
    plan = thinking_plan(request, template)
    assert plan is not None
    return plan


@pytest.fixture(scope="module", autouse=True)
def compiler() -> Iterator[GrammarCompiler]:
    with ThreadPoolExecutor(1) as executor:
        compiler = GrammarCompiler(executor)
        yield compiler
        compiler.close()


Compile = Callable[[str | None], TokenMask | None]


@pytest.fixture
def mask_of(engine: Engine, compiler: GrammarCompiler) -> Compile:
    """Return a function that makes the mask of an answer from a regular expression."""

    def mask(pattern: str | None) -> TokenMask | None:
        constraints = () if pattern is None else (Constraint("regex", pattern, "regex"),)
        return asyncio.run(compiler.mask(constraints, SamplingParams(), engine))

    return mask


class Answer:
    """What a random model answers behind a prompt, and what a reader makes of it."""

    def __init__(
        self,
        engine: Engine,
        plan: ThinkingPlan,
        *,
        prompt: str = OPEN,
        answer: TokenMask | None = None,
        seed: int = 0,
        max_tokens: int = 200,
    ) -> None:
        self._engine = engine
        self.plan = plan
        params = SamplingParams(max_tokens=max_tokens, seed=seed)
        self.prompt = engine.tokenizer.encode(prompt, parse_special=True)
        mask = plan.mask(answer, self.prompt, params, engine, vocabularies())
        self.collected = Collected()
        name = f"answer-{next(NUMBERS)}"
        engine.submit(EngineRequest(name, self.prompt, params, token_mask=mask), self.collected)

    def wait(self) -> str | None:
        """Wait for the end and return its reason."""
        return self.collected.wait()

    @property
    def token_ids(self) -> list[int]:
        """The completion without its end token."""
        ends = self._engine.info.stop_token_ids
        return [token_id for token_id in self.collected.token_ids if token_id not in ends]

    @property
    def text(self) -> str:
        """The whole of it."""
        return self._engine.tokenizer.decode(self.token_ids)

    def num_tokens_to(self, text: str) -> int:
        """Return how many tokens there are up to the end of a text."""
        ends = range(len(self.token_ids) + 1)
        decode = self._engine.tokenizer.decode
        return next(end for end in ends if text in decode(self.token_ids[:end]))

    @property
    def pieces(self) -> Pieces:
        """What its reader finds."""
        reader = self.plan.reader(self.prompt, self._engine.tokenizer)
        assert reader is not None
        return reader.push(self.text) + reader.flush()


def spelled(engine: Engine, text: str) -> list[int]:
    return vocabularies().of(engine).spell(text, "test")


YES_NO = Constraint("regex", "(Yes|No)!", "regex")


@pytest.mark.parametrize("budget", [0, 1, 7])
def test_a_budget_ends_thinking_after_exactly_so_many_tokens(engine: Engine, budget: int) -> None:
    plan = plan_of(Thinking(budget=budget))
    answers = [Answer(engine, plan, seed=seed, max_tokens=40) for seed in range(4)]

    closing = spelled(engine, "</think>")
    for answer in answers:
        answer.wait()
        assert answer.token_ids[budget : budget + len(closing)] == closing


@pytest.mark.parametrize("prompt", [OPEN, MAYBE])
def test_the_form_begins_behind_the_thinking(engine: Engine, mask_of: Compile, prompt: str) -> None:
    plan = plan_of(Thinking(budget=5), constraints=(YES_NO,))
    answers = [
        Answer(engine, plan, prompt=prompt, answer=mask_of(YES_NO.text), seed=seed)
        for seed in range(4)
    ]

    for answer in answers:
        assert answer.wait() == "stop"
        assert answer.pieces.text in ("Yes!", "No!")
        if prompt == OPEN:
            before = answer.text.removesuffix(answer.pieces.text)
            assert before.endswith("</think>\n\n")


def test_without_a_budget_the_thinking_may_take_all_tokens(
    engine: Engine, mask_of: Compile
) -> None:
    plan = plan_of(Thinking(), constraints=(YES_NO,))

    answer = Answer(engine, plan, answer=mask_of(YES_NO.text), max_tokens=30)

    assert answer.wait() == "length"
    assert len(answer.token_ids) == 30
    assert answer.pieces.text == ""


def test_nothing_is_masked_where_nothing_was_asked_for(engine: Engine) -> None:
    prompt = engine.tokenizer.encode(OPEN, parse_special=True)
    over = engine.tokenizer.encode(OVER, parse_special=True)

    def mask(thinking: Thinking, token_ids: list[int]) -> TokenMask | None:
        plan = plan_of(thinking)
        return plan.mask(None, token_ids, SamplingParams(), engine, vocabularies())

    assert mask(Thinking(), prompt) is None
    assert mask(Thinking(budget=5), over) is None
    assert mask(Thinking(budget=5), prompt) is not None


@pytest.mark.parametrize("budget", [None, 0, 3])
@pytest.mark.parametrize(
    ("template", "prompt"), [(TAGS, OPEN), (TAGS, MAYBE), (TAGS, OVER), ("{{ messages }}", MAYBE)]
)
def test_a_template_is_filled_and_then_the_answer_has_its_form(
    engine: Engine, mask_of: Compile, budget: int | None, template: str, prompt: str
) -> None:
    plan = plan_of(Thinking(template=STEPS), template, constraints=(YES_NO,))
    assert plan.template is not None
    least = spell_template(plan.template, vocabularies().of(engine), "x").num_least_tokens
    if budget is not None:
        plan = plan_of(
            Thinking(template=STEPS, budget=least + budget), template, constraints=(YES_NO,)
        )
    answers = [
        Answer(engine, plan, prompt=prompt, answer=mask_of(YES_NO.text), seed=seed, max_tokens=150)
        for seed in range(2)
    ]

    for answer in answers:
        assert answer.wait() == "stop"
        reasoning, text = answer.pieces.reasoning, answer.pieces.text
        assert FILLED.fullmatch(reasoning)
        assert "\ufffd" not in reasoning
        assert text in ("Yes!", "No!")
        if budget is not None:
            before = answer.num_tokens_to("<plan") - len(spelled(engine, "<plan"))
            assert least <= answer.num_tokens_to("</plan>") - before <= least + budget


def test_a_free_answer_follows_a_template(engine: Engine) -> None:
    answer = Answer(engine, plan_of(Thinking(template=STEPS, budget=90), "x"), max_tokens=200)

    answer.wait()

    assert len(answer.token_ids) > 90
    assert FILLED.match(answer.text)


def test_a_template_takes_no_more_than_its_share_of_max_tokens(engine: Engine) -> None:
    answers = [
        Answer(engine, plan_of(Thinking(template=STEPS), "x"), seed=seed, max_tokens=120)
        for seed in range(4)
    ]

    for answer in answers:
        answer.wait()
        assert FILLED.fullmatch(answer.pieces.reasoning)
        assert answer.num_tokens_to("</plan>") <= 90


def test_a_budget_that_no_template_fits_into_is_refused_with_both_figures(engine: Engine) -> None:
    plan = plan_of(Thinking(template=STEPS, budget=10, param="thinking_budget"), "x")

    with pytest.raises(InvalidRequest, match=r"thinking_budget is 10, and .* take \d+") as caught:
        plan.mask(None, [65], SamplingParams(), engine, vocabularies())

    assert caught.value.param == "thinking_budget"


def test_an_unconstrained_neighbour_does_not_notice(engine: Engine) -> None:
    prompt = engine.tokenizer.encode("Hello", parse_special=False)
    alone = submit(engine, "alone", prompt)
    alone.wait()

    thinking = [
        Answer(engine, plan_of(Thinking(template=STEPS, budget=80), "x"), seed=seed)
        for seed in range(2)
    ]
    beside = submit(engine, "beside", prompt)

    beside.wait()
    for answer in thinking:
        answer.wait()
    assert beside.token_ids == alone.token_ids


def test_a_free_budgeted_answer_that_does_not_think_is_free(engine: Engine) -> None:
    prompt = engine.tokenizer.encode(MAYBE, parse_special=True)
    plan = plan_of(Thinking(budget=3))
    mask = plan.mask(None, prompt, SamplingParams(), engine, vocabularies())
    assert mask is not None

    for token_id in engine.tokenizer.encode(" \n<th", parse_special=True):
        mask.commit(token_id)
        assert not mask.is_free
    mask.commit(engine.tokenizer.encode("e", parse_special=True)[0])

    assert mask.is_free


@pytest.mark.parametrize("pattern", [None, "Yes"])
def test_thinking_that_the_model_ends_itself_is_followed_by_the_answer(
    engine: Engine, mask_of: Compile, pattern: str | None
) -> None:
    prompt = engine.tokenizer.encode(MAYBE, parse_special=True)
    constraints = () if pattern is None else (Constraint("regex", pattern, "regex"),)
    plan = plan_of(Thinking(budget=30), constraints=constraints)
    mask = plan.mask(mask_of(pattern), prompt, SamplingParams(), engine, vocabularies())
    assert mask is not None
    (end,) = engine.info.stop_token_ids
    text = "<think>a < b </thin </think>" + ("" if pattern is None else "\n\nYes")

    for place, token_id in enumerate(spelled(engine, text)):
        assert not mask.is_free
        assert not mask.is_complete
        allowed = int.from_bytes(mask.allowed(), "little")
        assert allowed >> token_id & 1
        if place >= len(spelled(engine, "<think>")):
            assert not allowed >> end & 1
        mask.commit(token_id)

    assert mask.is_free == (pattern is None)
    assert mask.is_complete == (pattern is not None)


def test_a_token_that_reaches_beyond_the_closing_mark_is_not_allowed_before_a_form() -> None:
    tokenizer = ScriptedTokenizer(["<think>", "</", "think", ">", ">\n\n", "think>", ">!", "a"])
    vocabulary = Vocabulary(tokenizer, len(tokenizer.tokens))
    prelude = ThinkingPrelude(
        vocabulary,
        spell_format(ThinkingFormat("<think>", "</think>"), vocabulary, "x"),
        Anything(),
        is_open=True,
        budget=None,
        end_tokens=0,
    )

    def allowed() -> set[str]:
        bits = int.from_bytes(prelude.allowed(), "little")
        return {token for n, token in enumerate(tokenizer.tokens) if bits >> n & 1}

    everything = set(tokenizer.tokens)
    assert allowed() == everything
    prelude.commit(1)
    assert allowed() == everything
    prelude.commit(2)
    assert allowed() == everything - {">\n\n", ">!"}
    prelude.commit(3)
    assert prelude.is_over


@pytest.mark.parametrize("thought", ["a", "ab"])
def test_marks_that_are_control_tokens_open_and_close_the_thinking(thought: str) -> None:
    tokenizer = tiny_hf_tokenizer("")
    vocabulary = Vocabulary(tokenizer, 259)
    spelled = spell_format(ThinkingFormat("<|bos|>", "<|eot_id|>", "\n"), vocabulary, "x")
    prelude = ThinkingPrelude(
        vocabulary, spelled, Anything(), is_open=False, budget=2, end_tokens=0
    )
    (opening,), (closing,), (separator,) = spelled.opening, spelled.closing, spelled.separator

    for token_id in (opening, *tokenizer.encode(thought, parse_special=False), closing, separator):
        assert not prelude.is_over
        assert int.from_bytes(prelude.allowed(), "little") >> token_id & 1
        assert prelude.commit(token_id)

    assert prelude.is_over
    assert len(spelled.marks) == 2


class Anything:
    """A mask that lets everything come."""

    is_complete = False
    is_free = False

    def allowed(self) -> bytes:
        return b"\xff"

    def commit(self, token_id: int) -> None:
        pass

    def prepare(self) -> None:
        pass


class ScriptedTokenizer(MockTokenizer):
    """A vocabulary of these texts, which takes the longest that fits."""

    special_tokens: tuple[str, ...] = ()

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens

    def encode(self, text: str, *, parse_special: bool) -> list[int]:
        token_ids = []
        while text:
            fitting = [token for token in self.tokens if text.startswith(token)]
            token = max(fitting, key=len)
            token_ids.append(self.tokens.index(token))
            text = text.removeprefix(token)
        return token_ids

    def token_bytes(self, token_id: int) -> bytes:
        return self.tokens[token_id].encode()
