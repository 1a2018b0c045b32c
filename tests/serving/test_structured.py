"""Forms of answers: what contradicts, what a hostile one costs, what is compiled once."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import pytest

from palma.core.errors import InvalidRequest, QueueFull, UnsupportedParameter
from palma.core.types import MAX_CONSTRAINT_CHARS, Constraint, ConstraintKind, SamplingParams
from palma.engine.base import Engine, EngineInfo
from palma.engine.mock import MockEngine
from palma.models.tokenizer import HFTokenizer
from palma.serving import grammars, mask_batch
from palma.serving.grammar_trial import GrammarTrial
from palma.serving.grammars import GrammarCompiler, GrammarMask
from palma.serving.mask_batch import MaskBatch
from palma.serving.structured import check_constraints, to_grammar
from tests.structured_models import palmita_tokenizer

END_ID = 3067


class SilentEngine:
    """What a compiler asks of an engine: its vocabulary."""

    def __init__(self, **changes: Any) -> None:
        known = EngineInfo("threads", 3088, 512, "cpu", "float32", "", stop_token_ids={END_ID})  # type: ignore[arg-type]
        self.info = dataclasses.replace(known, **changes)
        self.tokenizer = HFTokenizer(palmita_tokenizer())


@pytest.fixture(scope="module")
def engine() -> Any:
    return SilentEngine()


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


@pytest.fixture(scope="module")
def trial() -> Iterator[GrammarTrial]:
    trial = GrammarTrial()
    yield trial
    trial.close()


def form(kind: ConstraintKind, text: str, param: str = "") -> Constraint:
    return Constraint(kind, text, param or kind)


def schema(schema: Any) -> Constraint:
    return form("json_schema", json.dumps(schema))


def strings(kind: ConstraintKind, *values: str) -> Constraint:
    return form(kind, json.dumps(values))


Compile = Callable[..., GrammarMask]


@pytest.fixture
def mask_of(trial: GrammarTrial, executor: Executor) -> Compile:
    """Compile constraints for an engine, all tests in one process of trials."""

    def compile_them(engine: Engine, *constraints: Constraint, on: Executor = executor) -> Any:
        compiled = grammars._EngineGrammars().compile(constraints, engine, trial)
        return GrammarMask(compiled, MaskBatch(on, engine.info.vocab_size, is_on_cpu=True))

    return compile_them


def allows(mask: GrammarMask, text: str) -> bool:
    """Feed a text to a mask, token by token, as long as its tokens are allowed."""
    for token_id in palmita_tokenizer().encode(text, add_special_tokens=False):
        if not (mask.is_free or is_allowed(mask, token_id)):
            return False
        mask.commit(token_id)
    return True


def is_allowed(mask: GrammarMask, token_id: int) -> bool:
    return bool(int.from_bytes(mask.allowed(), "little") >> token_id & 1)


@pytest.mark.parametrize(
    ("constraints", "good", "bad"),
    [
        ([form("json_object", "")], '{"a": [1, null]}', "[1]"),
        ([form("regex", "a/b|[0-9]{2}\\.")], "a/b", "ab"),
        ([form("grammar", 'start: "<" /[a-z]+/ ">"')], "<ab>", "<a b>"),
        ([strings("choice", 'say "a"', "🗺️\n")], "🗺️\n", "say a"),
        ([strings("prefix_strings", "b"), form("regex", "[ab]{2}")], "ba", "ab"),
        ([strings("prefix_strings", "b"), strings("choice", "ab", "bb")], "bb", "ab"),
    ],
)
def test_a_mask_follows_its_form_and_knows_its_end(
    engine: Engine, mask_of: Compile, constraints: list[Constraint], good: str, bad: str
) -> None:
    mask = mask_of(engine, *constraints)

    assert allows(mask, good)
    assert mask.is_complete
    assert not mask.is_free
    assert not allows(mask_of(engine, *constraints), bad)


def test_the_end_token_is_allowed_where_the_form_may_end(engine: Engine, mask_of: Compile) -> None:
    mask = mask_of(engine, form("regex", "a{2,}"))

    assert allows(mask, "a")
    assert not is_allowed(mask, END_ID)
    assert allows(mask, "a")
    assert is_allowed(mask, END_ID)
    assert not mask.is_complete


@pytest.mark.parametrize(
    "constraints",
    [
        [form("regex_prefix", "(Yes|No)\\.")],
        [strings("prefix_strings", "Yes.", "Perhaps")],
        [strings("prefix_strings", "Ye"), form("regex_prefix", "[A-Z]es")],
    ],
)
def test_behind_its_prefix_an_answer_is_free(
    engine: Engine, mask_of: Compile, constraints: list[Constraint]
) -> None:
    mask = mask_of(engine, *constraints)

    assert not is_allowed(mask, END_ID)
    assert allows(mask, "Yes.")
    assert mask.is_free
    assert not mask.is_complete
    assert allows(mask, "\n\x00 🏴‍☠️")


def test_json_has_no_more_white_space_than_a_writer_puts(engine: Engine, mask_of: Compile) -> None:
    integer = {"type": "integer"}
    described = schema({"type": "object", "properties": {"a": integer, "b": integer}})

    assert allows(mask_of(engine, described), json.dumps({"a": 1, "b": 2}, indent=4))
    assert allows(mask_of(engine, described), '{"a":1,"b":2}')
    assert not allows(mask_of(engine, described), '{"a":  1')
    assert not allows(mask_of(engine, described), '{\n\n"a"')


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (form("json_object", "", "format"), form("regex", "a")),
        (form("regex", "a", "one"), form("regex", "a", "other")),
        (form("regex", "a"), strings("choice", "a")),
        (schema({}), strings("prefix_strings", "{")),
        (form("grammar", 'start: "a"'), form("regex_prefix", "a")),
    ],
)
def test_two_forms_that_no_grammar_can_join_are_refused_by_both_names(
    first: Constraint, second: Constraint
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_constraints((first, second), SamplingParams())

    assert f"{first.param} and {second.param}" in refused.value.message


@pytest.mark.parametrize("params", [{"ignore_eos": True}, {"min_tokens": 3}])
def test_a_whole_form_and_another_rule_for_the_end_are_refused(params: dict[str, Any]) -> None:
    check_constraints((form("regex_prefix", "a"),), SamplingParams(**params))

    with pytest.raises(InvalidRequest, match=f"regex .* {next(iter(params))}"):
        check_constraints((form("regex", "a"),), SamplingParams(**params))


def test_a_text_beyond_the_limit_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=str(MAX_CONSTRAINT_CHARS)):
        form("regex", "a" * (MAX_CONSTRAINT_CHARS + 1))


def chain(kind: str, length: int) -> Constraint:
    """Return a schema whose references lead from one to the next."""
    links: dict[str, Any] = {f"a{n}": {kind: {"$ref": f"#/$defs/a{n + 1}"}} for n in range(length)}
    return schema({"$ref": "#/$defs/a0", "$defs": {**links, f"a{length}": {"type": "string"}}})


def text_of(pattern: str) -> dict[str, Any]:
    return {"type": "string", "pattern": pattern}


COSTLY = "(a{1,1000}){1,1000}"

ENDLESS = {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}

HOSTILE = [
    (form("regex", COSTLY), "too many expressions"),
    (schema({"properties": {"a": text_of(COSTLY)}}), f"{COSTLY!r}: lexer error: too many"),
    (schema({"properties": {"a": {}, "b": {"anyOf": [{}, text_of(f"^{COSTLY}$")]}}}), "too many"),
    (schema({"allOf": [text_of(COSTLY)]}), "too many expressions"),
    (
        schema({"type": "object", "patternProperties": {COSTLY: {}}, "additionalProperties": {}}),
        "too many expressions",
    ),
    (form("regex", "a" * 200_000), "too deeply"),
    (form("regex", "(" * 30_000 + ")" * 30_000), "nested parentheses"),
    (form("regex", "(a"), "unclosed group"),
    (form("regex", "a(?=b)"), "look-around"),
    (form("grammar", "start: " + "(" * 30_000 + '"a"' + ")" * 30_000), "too deeply nested"),
    (form("grammar", 'start: s\ns: s s | "a" | "ab" | "b"'), "too deeply, or takes"),
    (form("grammar", "start: nothing"), "unknown name"),
    (schema({"enum": [f"value {n}" for n in range(15_000)]}), None),
    (schema({"$ref": "#"}), "nothing fulfils it"),
    (schema(ENDLESS), "that ends"),
    (schema({"type": "array", "items": {"$ref": "#"}, "minItems": 1}), "that ends"),
    (schema({"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [ENDLESS]}}}), "that ends"),
    (schema({"anyOf": [ENDLESS, {"type": "null"}]}), None),
    (schema({**ENDLESS, "required": []}), None),
    (schema({**ENDLESS, "properties": {"a": {"type": "array", "items": {"$ref": "#"}}}}), None),
    (schema({"$ref": "#/$defs/missing"}), "does not exist"),
    (schema({"$ref": "http://localhost/schema"}), "does not fetch"),
    (schema({"type": "integer", "multipleOf": 1_000_007}), "too deeply, or takes"),
    (schema({"type": "integer", "minimum": 2, "maximum": 1}), "Unsatisfiable"),
    (chain("items", 5000), "too deeply, or takes"),
    (schema({"properties": {"a": {"items": {"type": "sting"}}}}), "at #/properties/a/items"),
    (schema({"anyOf": [{}, {"not": {}}]}), "at #/anyOf/1"),
    (schema({"properties": {"a": {"oneOf": [{}, {}]}}}), "at #/properties/a"),
]


@pytest.mark.parametrize(("constraint", "fault"), HOSTILE, ids=range(len(HOSTILE)))
def test_a_trial_ends_and_says_what_is_wrong(
    trial: GrammarTrial, constraint: Constraint, fault: str | None
) -> None:
    found = trial.find_fault(to_grammar((constraint,)))

    assert (fault or "") in (found or "")
    assert (found is None) == (fault is None)
    assert trial.find_fault(to_grammar((form("regex", "a"),))) is None


@pytest.mark.parametrize(
    ("constraint", "fault"),
    [
        (form("json_schema", "{"), "no JSON schema"),
        (form("regex", "a\\"), "incomplete escape"),
        (form("regex_prefix", "a\\\\\\"), "incomplete escape"),
    ],
)
def test_what_is_not_even_of_its_kind_is_refused(constraint: Constraint, fault: str) -> None:
    with pytest.raises(InvalidRequest, match=fault):
        to_grammar((constraint,))


def test_a_trial_that_is_closed_in_its_middle_ends(trial: GrammarTrial) -> None:
    slow = to_grammar((schema({"type": "integer", "multipleOf": 1_000_007}),))
    with ThreadPoolExecutor(1) as thread:
        found = thread.submit(trial.find_fault, slow)
        while trial._process is None and not found.done():
            time.sleep(0.001)
        trial.close()

    assert found.result() is not None


@pytest.mark.parametrize(
    "told",
    [
        {"properties": {f"a{n}": text_of(f"^{n}.*$") for n in range(200)}},
        {"properties": {"a": text_of("^$"), "b": text_of("(^a|b$)"), "c": text_of("https?://")}},
        {"properties": {"pattern": {"const": 1}, "a": {"default": text_of(COSTLY)}}},
    ],
    ids=["many", "anchored", "none"],
)
def test_harmless_patterns_are_taken(trial: GrammarTrial, told: dict[str, Any]) -> None:
    assert trial.find_fault(to_grammar((schema({"type": "object", **told}),))) is None


async def gather_masks(
    compiler: GrammarCompiler, engine: Engine, wanted: list[Constraint]
) -> list[GrammarMask | BaseException | None]:
    masks = [compiler.mask((one,), SamplingParams(), engine) for one in wanted]
    return await asyncio.gather(*masks, return_exceptions=True)


def test_a_grammar_is_compiled_once_and_its_sequences_are_apart(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    find_fault = GrammarTrial.find_fault

    def counted(trial: GrammarTrial, grammar: str) -> str | None:
        tried.append(grammar)
        return find_fault(trial, grammar)

    monkeypatch.setattr(GrammarTrial, "find_fault", counted)

    async def ask() -> list[GrammarMask | BaseException | None]:
        compiler = GrammarCompiler(executor)
        engine: Any = SilentEngine()
        masks = await gather_masks(compiler, engine, [form("regex", "a{2}")] * 40)
        masks += await gather_masks(compiler, engine, [form("regex", "a{2}")])
        compiler.close()
        return masks

    masks = [mask for mask in asyncio.run(ask()) if isinstance(mask, GrammarMask)]
    assert len(masks) == 41
    assert len(tried) == 1
    assert allows(masks[0], "aa")
    assert not allows(masks[1], "ab")
    assert allows(masks[2], "aa")


def test_the_oldest_grammars_leave_when_the_texts_are_too_long_together(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammars, "MAX_KEPT_CHARS", 10)
    monkeypatch.setattr(grammars, "MAX_KEPT", 3)
    kept: Any = grammars._EngineGrammars()
    for number, text in enumerate(["aaaa", "bbbb", "c", "d", "eeeeee"]):
        kept.keep((form("regex", text),), number)
        kept.find((form("regex", "bbbb"),))

    left = [number for number, t in enumerate(["aaaa", "bbbb", "c", "d", "eeeeee"])
            if kept.find((form("regex", t),)) is not None]  # fmt: skip
    assert left == [1, 4]


def test_too_many_new_grammars_at_once_are_told_to_come_later(
    engine: Engine, executor: Executor
) -> None:
    async def ask() -> list[GrammarMask | BaseException | None]:
        compiler = GrammarCompiler(executor)
        wanted = [form("regex", f"a{{{number}}}") for number in range(1, 25)]
        found = await gather_masks(compiler, engine, wanted)
        found += await gather_masks(compiler, engine, wanted[-1:])
        compiler.close()
        return found

    found = asyncio.run(ask())
    assert [type(one) for one in found[:-1]].count(QueueFull) == 24 - grammars.MAX_PENDING
    assert isinstance(found[-1], GrammarMask)


def test_each_waiting_request_gets_an_error_of_its_own(engine: Engine, executor: Executor) -> None:
    async def ask() -> list[GrammarMask | BaseException | None]:
        compiler = GrammarCompiler(executor)
        found = await gather_masks(compiler, engine, [form("regex", "(")] * 2)
        compiler.close()
        return found

    first, second = asyncio.run(ask())
    assert isinstance(first, InvalidRequest)
    assert isinstance(second, InvalidRequest)
    assert first is not second
    assert first.message == second.message


def test_models_without_a_known_vocabulary_refuse_by_name(
    executor: Executor, mask_of: Compile
) -> None:
    slow: Any = SilentEngine()
    slow.tokenizer.definition = lambda: None
    endless: Any = SilentEngine(stop_token_ids=frozenset())
    mock = MockEngine(executor, 1)
    for engine, reason in ((mock, "mock engine"), (slow, "slow"), (endless, "no end token")):
        with pytest.raises(UnsupportedParameter, match=reason) as refused:
            mask_of(engine, form("regex", "a", "regex_pattern"))
        assert "regex_pattern" in refused.value.message


class BusyExecutor(Executor):
    """Never begins with anything."""

    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
        return Future()


@pytest.mark.parametrize("place", ["between steps", "beside", "no thread is free"])
def test_masks_are_computed_together_and_beside_the_forward_pass_where_a_thread_is_free(
    engine: Engine,
    executor: Executor,
    trial: GrammarTrial,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    monkeypatch.setattr(mask_batch, "WORTH_A_CALL_S", -1.0)
    constraints = (form("regex", "[a-z ]{9}"),)
    compiled = grammars._EngineGrammars().compile(constraints, engine, trial)
    on = BusyExecutor() if place == "no thread is free" else executor
    batch = MaskBatch(on, engine.info.vocab_size, is_on_cpu=place == "between steps")
    masks = [GrammarMask(compiled, batch) for _ in range(3)]

    for token_id in palmita_tokenizer().encode("the paper", add_special_tokens=False):
        assert all(is_allowed(mask, token_id) for mask in masks)
        for mask in masks:
            mask.commit(token_id)
        masks[0].prepare()

    assert all(mask.is_complete for mask in masks)


def test_a_form_that_becomes_too_complex_fails_its_own_request(
    engine: Engine, mask_of: Compile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GrammarTrial, "find_fault", lambda self, grammar: None)
    mask = mask_of(engine, form("regex", "(a{1,1000}){1,1000}"))

    with pytest.raises(InvalidRequest, match="too complex to follow"):
        allows(mask, "a" * 2000)
