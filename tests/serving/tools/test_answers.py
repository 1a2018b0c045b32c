"""Random models that may or must call tools: each call is right, or the answer was cut."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jsonschema
import pytest

from palma.core.errors import PalmaError
from palma.core.types import (
    Constraint,
    GenerationRequest,
    SamplingParams,
    TextChunk,
    Tool,
    ToolUse,
)
from palma.engine.base import Engine, EngineRequest, stop_token_ids
from palma.serving.answer import AnswerBuilder, AnswerPlan, marked_decoder
from palma.serving.form import answer_form
from palma.serving.grammars import GrammarCompiler, GrammarMask
from palma.serving.tools.formats import ToolFormat, tool_format
from palma.serving.tools.writer import write_calls
from tests.engine.suite import Collected
from tests.generated_forms import random_schema
from tests.serving.tools.families import CALLS, TEMPLATES, TOOLS, WEATHER, fold, read
from tests.structured_models import random_engine

NUM_TOOLS = 60
NUM_QUICK = 10
MAX_RUNNING = 4
MAX_TOKENS = 90
PATIENCE_S = 300.0
ENGINES = ["threads", "continuous"]
CONTROL_TOKENS = (
    "[TOOL_CALLS]",
    "[ARGS]",
    "<|tool_call|>",
    "<|/tool_call|>",
    "<tool_call>",
    "</tool_call>",
    "<arg_key>",
    "</arg_key>",
    "<arg_value>",
    "</arg_value>",
    "<|python_tag|>",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁sep｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁calls▁end｜>",
    "<|tool_call>",
    "<tool_call|>",
    '<|"|>',
    "<|other|>",
)

SWITCH = Tool(
    "switch",
    "",
    json.dumps(
        {
            "type": "object",
            "properties": {"to": {"enum": ["on", "off"]}, "level": {"type": "integer"}},
            "required": ["to", "level"],
        }
    ),
)


@pytest.fixture(scope="module")
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(MAX_RUNNING + 1) as executor:
        yield executor


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest, executor: ThreadPoolExecutor) -> Iterator[Engine]:
    """An engine whose model knows no tools."""
    engine = random_engine(
        request.param, executor, MAX_RUNNING, tokenizer=tokenizer_of("general", ())
    )
    yield engine
    engine.close()


def tokenizer_of(family: str, control_tokens: tuple[str, ...]) -> Any:
    """Return palmita's tokenizer with a family's template, and more control tokens."""
    from transformers import AutoTokenizer

    from palma.models.bundled import bundled_model_path

    tokenizer = AutoTokenizer.from_pretrained(bundled_model_path())
    tokenizer.chat_template = TEMPLATES[family]
    tokenizer.add_special_tokens({"additional_special_tokens": list(control_tokens)})
    return tokenizer


@dataclass
class Answer:
    """One sequence on its way through an engine and an `AnswerBuilder`."""

    collected: Collected = field(default_factory=Collected)
    chunks: list[TextChunk] = field(default_factory=list)
    errors: list[PalmaError] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(chunk.text for chunk in self.chunks)

    @property
    def calls(self) -> list[tuple[str, str]]:
        return fold(tuple(delta for chunk in self.chunks for delta in chunk.tool_calls))

    @property
    def finish_reason(self) -> str | None:
        return self.chunks[-1].finish_reason


def answer_all(
    engine: Engine, uses: list[ToolUse | None], *, max_tokens: int = MAX_TOKENS, **params: Any
) -> list[Answer]:
    """Answer under each use of tools, each beside the others, as the service would."""
    requests = [
        GenerationRequest(
            f"call-{seed}",
            sampling_params=SamplingParams(seed=seed, max_tokens=max_tokens, **params),
            tool_use=use,
        )
        for seed, use in enumerate(uses)
    ]
    with ThreadPoolExecutor(MAX_RUNNING) as executor:
        answers = asyncio.run(start_all(engine, requests, executor))
        for answer in answers:
            assert answer.collected.ended.wait(PATIENCE_S)
    assert [answer.errors for answer in answers if answer.errors] == []
    return answers


async def start_all(
    engine: Engine, requests: list[GenerationRequest], executor: ThreadPoolExecutor
) -> list[Answer]:
    compiler = GrammarCompiler(executor)
    try:
        return [await start(engine, compiler, request) for request in requests]
    finally:
        compiler.close()


async def start(engine: Engine, compiler: GrammarCompiler, request: GenerationRequest) -> Answer:
    params, name = request.sampling_params, request.request_id
    form = answer_form(request, engine)
    mask = await compiler.mask(form.constraints, params, engine)
    answer = Answer()
    plan = AnswerPlan(
        tokenizer=engine.tokenizer,
        prompt_token_ids=[1, 2, 3],
        echo="",
        prompt_offsets=[],
        scores_end_token=False,
        stop=(),
        stop_token_ids=stop_token_ids(params, engine.info),
        interval_s=0.0,
        reader=form.reader([1, 2, 3]),
        marks=form.marks,
    )
    builder = AnswerBuilder(
        plan,
        emit=answer.chunks.append,
        fail=answer.errors.append,
        cancel=partial(engine.cancel, name),
    )

    def sink(delta: Any) -> None:
        builder(delta)
        answer.collected(delta)

    engine.submit(EngineRequest(name, [1, 2, 3], params, token_mask=mask), sink)
    return answer


def generated_tools(number: int) -> tuple[Tool, ...]:
    """Return three tools, each with a schema of its own."""
    return tuple(
        Tool(f"tool_{seed}", "", json.dumps(object_schema(seed)))
        for seed in range(3 * number, 3 * number + 3)
    )


def object_schema(seed: int) -> dict[str, Any]:
    """Return the schema of an object, a generated one or one that holds it."""
    schema = random_schema(seed)
    if schema.get("type") == "object":
        return schema
    return {"type": "object", "properties": {"value": schema}, "required": ["value"]}


def check_calls(answer: Answer, use: ToolUse) -> None:
    """Raise unless the calls are of tools that there are, with arguments that these describe."""
    schemas = {tool.name: json.loads(tool.parameters) for tool in use.tools}
    finished = answer.calls if answer.finish_reason == "tool_calls" else answer.calls[:-1]
    for name, arguments in finished:
        jsonschema.validate(json.loads(arguments), schemas[name])
    if use.choice == "required":
        assert answer.text == ""
        assert answer.finish_reason in ("tool_calls", "length")
    if use.name is not None:
        assert {name for name, _ in answer.calls} <= {use.name}
    if use.name is not None or not use.parallel:
        assert len(answer.calls) <= 1


def check_streamed(engine: Engine, answer: Answer, use: ToolUse) -> None:
    """Raise unless the answer read at once is what was read token by token."""
    form = answer_form(GenerationRequest("again", tool_use=use), engine)
    ends = engine.info.stop_token_ids
    token_ids = [number for number in answer.collected.token_ids if number not in ends]
    text = marked_decoder(engine.tokenizer, form.marks)(token_ids)
    if "\ufffd" in text:  # cut inside a character
        return
    whole = read(form.reader([1, 2, 3]), text)
    assert (whole.text, fold(whole.tool_calls)) == (answer.text, answer.calls)


def check_uses(
    engine: Engine, uses: list[ToolUse], max_tokens: int = MAX_TOKENS, **params: Any
) -> Counter[str]:
    """Answer under each use, check the answers, and count how they end."""
    answers = answer_all(engine, list(uses), max_tokens=max_tokens, **params)
    for answer, use in zip(answers, uses, strict=True):
        check_calls(answer, use)
        check_streamed(engine, answer, use)
    return Counter(str(answer.finish_reason) for answer in answers)


def required(count: int) -> list[ToolUse]:
    """Return uses that require a call, of one or several, or of a named one."""
    uses = []
    for number in range(count):
        tools = generated_tools(number)
        name = tools[number % 3].name if number % 3 == 0 else None
        uses.append(ToolUse(tools, "required", name, parallel=number % 2 == 0))
    return uses


def test_required_and_named_calls_are_what_the_tools_schemas_describe(engine: Engine) -> None:
    ends = check_uses(engine, required(NUM_QUICK), max_tokens=300)

    assert ends["tool_calls"] > NUM_QUICK / 2


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_required_and_named_calls_of_many_tools(engine: Engine) -> None:
    ends = check_uses(engine, required(NUM_TOOLS), max_tokens=400)

    print(f"{engine.info.engine}: {dict(ends)} of {NUM_TOOLS} uses of {3 * NUM_TOOLS} tools")
    assert ends["tool_calls"] > NUM_TOOLS / 2


def test_an_answer_too_short_for_its_call_says_so(engine: Engine) -> None:
    for max_tokens in (4, 12):
        answer = answer_all(engine, [ToolUse((WEATHER,), "required")], max_tokens=max_tokens)[0]
        assert (answer.text, answer.finish_reason) == ("", "length")


def test_auto_answers_stand_beside_answers_without_tools(engine: Engine) -> None:
    alone = answer_all(engine, [None, None, None])
    uses: list[ToolUse | None] = [None, ToolUse((WEATHER,)), None, ToolUse((WEATHER,))]

    mixed = answer_all(engine, uses)
    again = answer_all(engine, uses)

    assert [answer.text for answer in mixed] == [answer.text for answer in again]
    assert mixed[0].text == alone[0].text
    assert mixed[2].text == alone[2].text
    assert all(answer.text for answer in mixed)


@pytest.mark.parametrize("name", ENGINES)
def test_a_call_that_a_model_chooses_to_make_is_right(
    name: str, executor: ThreadPoolExecutor
) -> None:
    tokenizer = tokenizer_of("mistral", CONTROL_TOKENS)
    engine = random_engine(name, executor, MAX_RUNNING, tokenizer=tokenizer)
    likes_calls = {tokenizer.convert_tokens_to_ids("[TOOL_CALLS]"): 20.0}
    uses = [ToolUse((SWITCH,), parallel=number % 2 == 0) for number in range(6)]
    try:
        ends = check_uses(engine, uses, 200, logit_bias=likes_calls)
    finally:
        engine.close()

    assert ends["tool_calls"] > 2


def check_family(family: str, name: str, executor: ThreadPoolExecutor) -> None:
    """Call with a model of the family that has control tokens for marks, and check the calls."""
    tokenizer = tokenizer_of(family, CONTROL_TOKENS)
    engine = random_engine(name, executor, MAX_RUNNING, tokenizer=tokenizer)
    uses = [ToolUse(tools, "required", parallel=False) for tools in ((WEATHER,), (SWITCH,)) * 3]
    try:
        ends = check_uses(engine, uses, max_tokens=400)
    finally:
        engine.close()
    assert ends["tool_calls"] > 0


@pytest.mark.parametrize(
    ("family", "name"), [("mistral", "threads"), ("glm", "continuous"), ("gemma", "threads")]
)
def test_calls_are_right_where_marks_are_control_tokens(
    family: str, name: str, executor: ThreadPoolExecutor
) -> None:
    check_family(family, name, executor)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("family", TEMPLATES)
def test_calls_of_every_family_are_right(
    family: str, name: str, executor: ThreadPoolExecutor
) -> None:
    check_family(family, name, executor)


@pytest.fixture(scope="module", params=TEMPLATES)
def with_tokens(
    request: pytest.FixtureRequest, executor: ThreadPoolExecutor
) -> Iterator[tuple[ToolFormat, Engine]]:
    """A family's format, and an engine whose model has control tokens for marks."""
    tokenizer = tokenizer_of(request.param, CONTROL_TOKENS)
    engine = random_engine("threads", executor, 1, tokenizer=tokenizer)
    yield tool_format(TEMPLATES[request.param]), engine
    engine.close()


def mask_of(
    engine: Engine, executor: ThreadPoolExecutor, use: ToolUse, *forms: Constraint
) -> GrammarMask:
    """Return the mask of an answer that may call these tools, or is of all these forms."""
    compiler = GrammarCompiler(executor)
    form = answer_form(GenerationRequest("x", tool_use=use, constraints=forms), engine)
    try:
        mask = asyncio.run(compiler.mask(form.constraints, SamplingParams(), engine))
    finally:
        compiler.close()
    assert mask is not None
    return mask


def may_end(mask: GrammarMask, engine: Engine) -> bool:
    """Return whether an end token may come next."""
    allowed = mask.allowed()
    return any(allowed[end // 8] >> end % 8 & 1 for end in engine.info.stop_token_ids)


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_calls_of_control_tokens_are_taken_whole(
    with_tokens: tuple[ToolFormat, Engine], executor: ThreadPoolExecutor, choice: Any
) -> None:
    tool_marks, engine = with_tokens
    mask = mask_of(engine, executor, ToolUse(TOOLS, choice))
    calls = CALLS[:1] if tool_marks.one_call_a_turn else CALLS

    for token_id in engine.tokenizer.encode(write_calls(calls, tool_marks), parse_special=True):
        mask.commit(token_id)  # raises where it is not allowed

    assert mask.is_complete or may_end(mask, engine)


def test_an_answer_is_of_its_form_or_a_call_of_control_tokens(
    with_tokens: tuple[ToolFormat, Engine], executor: ThreadPoolExecutor
) -> None:
    tool_marks, engine = with_tokens
    form = Constraint("json_schema", '{"properties":{"name":{"type":"string"}}}', "format")

    for text in (write_calls(CALLS[:1], tool_marks), '{"name": "Ada"}'):
        mask = mask_of(engine, executor, ToolUse(TOOLS), form)
        for token_id in engine.tokenizer.encode(text, parse_special=True):
            mask.commit(token_id)
        assert mask.is_complete or may_end(mask, engine), text


@pytest.mark.parametrize("parse_special", [True, False])
def test_a_mark_in_free_text_begins_a_call_as_a_token_and_as_text(
    with_tokens: tuple[ToolFormat, Engine], executor: ThreadPoolExecutor, parse_special: bool
) -> None:
    tool_marks, engine = with_tokens
    mask = mask_of(engine, executor, ToolUse(TOOLS))
    told = "" if tool_marks.begins_answer else "Hm. <|other|>"

    say = engine.tokenizer.encode
    begun = say(tool_marks.trigger, parse_special=parse_special)
    for token_id in [*say(told, parse_special=True), *begun]:
        mask.commit(token_id)

    assert not may_end(mask, engine), "a call has begun"
