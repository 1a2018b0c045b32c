"""Random schemas and regular expressions on a random model: each answer fits, or was cut."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema
import pytest

from palma.core.types import Constraint, SamplingParams
from palma.engine.base import Engine, EngineRequest
from palma.serving.grammars import GrammarCompiler, GrammarMask
from tests.engine.suite import Collected
from tests.generated_forms import random_regex, random_schema
from tests.structured_models import palmita_tokenizer, random_engine

NUM_SCHEMAS, NUM_REGEXES = 500, 200
SAMPLE = slice(0, 30)
MAX_RUNNING = 4
MAX_TOKENS = 60
EAGERNESS = 8.0
"""Added to the end token's logit: a random model seldom ends what may go on for ever."""

PATIENCE_S = 300.0


@pytest.fixture(scope="module", params=["threads", "continuous"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    with ThreadPoolExecutor(MAX_RUNNING + 1) as executor:
        engine = random_engine(request.param, executor, MAX_RUNNING)
        yield engine
        engine.close()


def schema_constraints(chosen: slice) -> list[Constraint]:
    """Return some of the schemas."""
    schemas = [random_schema(seed) for seed in range(NUM_SCHEMAS)[chosen]]
    return [Constraint("json_schema", json.dumps(schema), "schema") for schema in schemas]


def regex_constraints(chosen: slice) -> list[Constraint]:
    """Return some of the regular expressions."""
    return [Constraint("regex", random_regex(seed), "regex") for seed in range(NUM_REGEXES)[chosen]]


def check_schema(text: str, schema: str) -> None:
    """Raise unless a text is JSON that the schema describes."""
    jsonschema.validate(json.loads(text), json.loads(schema))


def check_regex(text: str, pattern: str) -> None:
    """Raise unless a text is all of what a pattern describes."""
    assert re.fullmatch(pattern, text)


def check_answers(
    engine: Engine, constraints: list[Constraint], check: Callable[[str, str], Any]
) -> Counter[str]:
    """Answer under each constraint, each beside the others, and count how the answers end."""
    ends: Counter[str] = Counter()
    with ThreadPoolExecutor(MAX_RUNNING) as executor:
        masks = asyncio.run(compile_all(constraints, engine, executor))
        answers = [start(engine, seed, mask) for seed, mask in enumerate(masks)]
        for constraint, answer in zip(constraints, answers, strict=True):
            assert answer.ended.wait(PATIENCE_S), constraint
            finish_reason = answer.wait()
            ends[str(finish_reason)] += 1
            text = palmita_tokenizer().decode(answer.token_ids, skip_special_tokens=True)
            assert finish_reason in ("stop", "length"), (constraint, text, answer.error)
            if finish_reason == "stop":
                check(text, constraint.text)
    return ends


async def compile_all(
    constraints: list[Constraint], engine: Engine, executor: ThreadPoolExecutor
) -> list[GrammarMask | None]:
    compiler = GrammarCompiler(executor)
    try:
        return [await compiler.mask((one,), SamplingParams(), engine) for one in constraints]
    finally:
        compiler.close()


def start(engine: Engine, seed: int, mask: GrammarMask | None) -> Collected:
    collected = Collected()
    likes_to_end = dict.fromkeys(engine.info.stop_token_ids, EAGERNESS)
    params = SamplingParams(seed=seed, max_tokens=MAX_TOKENS, logit_bias=likes_to_end)
    engine.submit(EngineRequest(f"form-{seed}", [1, 2, 3], params, token_mask=mask), collected)
    return collected


def test_answers_are_what_their_schemas_describe(engine: Engine) -> None:
    ends = check_answers(engine, schema_constraints(SAMPLE), check_schema)

    assert ends["stop"] > 10


def test_answers_match_their_regular_expressions(engine: Engine) -> None:
    ends = check_answers(engine, regex_constraints(SAMPLE), check_regex)

    assert ends["stop"] > 10


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_all_schemas_and_regular_expressions(engine: Engine) -> None:
    of_schemas = check_answers(engine, schema_constraints(slice(None)), check_schema)
    of_regexes = check_answers(engine, regex_constraints(slice(None)), check_regex)

    print(f"{engine.info.engine}: schemas {dict(of_schemas)}, regexes {dict(of_regexes)}")
    assert of_schemas["stop"] > NUM_SCHEMAS / 2
    assert of_regexes["stop"] > NUM_REGEXES / 2
