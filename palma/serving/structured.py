"""What the form of an answer means: constraints that agree, as one grammar of llguidance."""

from __future__ import annotations

import itertools
import json

from palma.core.errors import InvalidRequest
from palma.core.types import Constraint, SamplingParams
from palma.serving.schemas import JSON_OPTIONS, close_objects
from palma.serving.tools.grammar import requires_calls, tools_lark, tools_trigger
from palma.serving.tools.spelling import PLAIN, Spelling

REGULAR = frozenset({"regex", "choice", "regex_prefix", "prefix_strings"})
"""Kinds that are regular expressions in the end, so that several can hold at once."""

PREFIXES = frozenset({"regex_prefix", "prefix_strings"})
"""Kinds that bind the beginning only."""

REGEXES = frozenset({"regex", "regex_prefix"})
JSON_KINDS = frozenset({"json_object", "json_schema"})

BESIDE_TOOLS = REGULAR | JSON_KINDS | {"tools"}
"""What an answer may have to be unless it calls a tool."""

ANY_OBJECT = '{"type":"object"}'

ANYTHING = "/(?s:.*)/"


def check_constraints(constraints: tuple[Constraint, ...], params: SamplingParams) -> None:
    """Refuse constraints that exclude one another, or what else the request says.

    Raises:
        InvalidRequest: It names both fields.
    """
    for first, second in itertools.combinations(constraints, 2):
        _check_pair(first, second)
    for constraint in constraints:
        if constraint.kind in PREFIXES:
            continue
        if params.ignore_eos or params.min_tokens:
            name = "ignore_eos" if params.ignore_eos else "min_tokens"
            raise InvalidRequest(
                f"{constraint.param} says where the answer ends, and so does {name}; send one",
                param=name,
            )


def binds_beginning_only(constraints: tuple[Constraint, ...]) -> bool:
    """Return whether anything may follow once the constraints are fulfilled."""
    return all(constraint.kind in PREFIXES for constraint in constraints)


def names(constraints: tuple[Constraint, ...]) -> str:
    """Return the request fields that the constraints come from."""
    return " and ".join(constraint.param for constraint in constraints)


def to_grammar(constraints: tuple[Constraint, ...], spelling: Spelling = PLAIN) -> str:
    """Return the grammar of the answers that fulfil all of the constraints.

    Args:
        constraints: At least one; `check_constraints` has passed.
        spelling: How the vocabulary spells the marks around calls.

    Raises:
        InvalidRequest: A text is not even of its kind's outer form.
    """
    from llguidance import LLMatcher

    tools = next((one for one in constraints if one.kind == "tools"), None)
    if tools is not None:
        others = tuple(one for one in constraints if one is not tools)
        form = _form_rules(others, tools_trigger(tools)) if others else None
        return LLMatcher.grammar_from_lark(tools_lark(tools, form, spelling))
    first = constraints[0]
    if first.kind in JSON_KINDS:
        try:
            return schema_grammar(_schema(first))
        except ValueError as error:
            raise _no_schema(first, error) from None
    if first.kind == "grammar":
        return LLMatcher.grammar_from_lark(first.text)
    return LLMatcher.grammar_from_lark("start: WHOLE\n" + _intersection(constraints))


def schema_grammar(schema: str) -> str:
    """Return the grammar of what a JSON schema describes.

    Raises:
        ValueError: The text is no JSON.
    """
    from llguidance import LLMatcher

    return LLMatcher.grammar_from_json_schema(schema, overrides=JSON_OPTIONS)


def _schema(constraint: Constraint) -> str:
    """Return a schema whose objects are closed, as far as it can be read."""
    try:
        return json.dumps(close_objects(json.loads(constraint.text or ANY_OBJECT)))
    except (ValueError, RecursionError):  # the trial says what is wrong with it
        return constraint.text or ANY_OBJECT


def _no_schema(constraint: Constraint, error: ValueError) -> InvalidRequest:
    return InvalidRequest(f"{constraint.param} is no JSON schema: {error}", param=constraint.param)


def _form_rules(constraints: tuple[Constraint, ...], trigger: str) -> str:
    """Return Lark rules of what an answer must be that calls no tool; `form` is all of it."""
    first = constraints[0]
    if first.kind in JSON_KINDS:
        try:
            schema = json.loads(_schema(first))
        except (ValueError, RecursionError) as error:
            raise _no_schema(first, ValueError(error)) from None
        schema = schema if isinstance(schema, dict) else {"allOf": [schema]}
        return f"form: %json {json.dumps({**schema, 'x-guidance': JSON_OPTIONS})}"
    free = f"FORM: WHOLE & ~({json.dumps(trigger)} {ANYTHING})"
    return "\n".join(["form: FORM", free, _intersection(constraints)])


def _check_pair(first: Constraint, second: Constraint) -> None:
    """Refuse two that each bind the whole answer, or whose overlap no grammar can say."""
    kinds = {first.kind, second.kind}
    if kinds <= REGULAR and (kinds & PREFIXES):
        return
    if "tools" in kinds and kinds <= BESIDE_TOOLS:
        _check_beside_tools(first, second)
        return
    raise InvalidRequest(
        f"{first.param} and {second.param} cannot be combined; send one of them",
        param=second.param,
    )


def _check_beside_tools(first: Constraint, second: Constraint) -> None:
    """Refuse a text's form where no text may come: it would have no effect."""
    tools, form = (first, second) if first.kind == "tools" else (second, first)
    if requires_calls(tools):
        raise InvalidRequest(
            f"the answer must call one of {tools.param}, so that {form.param}, which is for text, "
            "would have no effect; leave it out, or let the model choose whether to call",
            param=form.param,
        )


def _intersection(constraints: tuple[Constraint, ...]) -> str:
    """Return Lark terminals; `WHOLE` is what matches all of the regular constraints."""
    lines = [f"T{number}: {_terminal(c)}" for number, c in enumerate(constraints)]
    together = " & ".join(f"T{number}" for number in range(len(constraints)))
    return "\n".join([*lines, f"WHOLE: {together}"])


def _terminal(constraint: Constraint) -> str:
    from llguidance import regex_to_lark

    if constraint.kind in REGEXES:
        _require_whole_escape(constraint)
        begin = f"/{regex_to_lark(constraint.text, '')}/"
    else:
        strings = json.loads(constraint.text)
        begin = "(" + " | ".join(json.dumps(string) for string in strings) + ")"
    return f"{begin} {ANYTHING}" if constraint.kind in PREFIXES else begin


def _require_whole_escape(constraint: Constraint) -> None:
    text = constraint.text
    if (len(text) - len(text.rstrip("\\"))) % 2:  # llguidance would leave it out
        message = f"{constraint.param}: incomplete escape at its end"
        raise InvalidRequest(message, param=constraint.param)
