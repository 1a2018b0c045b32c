"""What the form of an answer means: constraints that agree, as one grammar of llguidance."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING

from palma.core.errors import InvalidRequest
from palma.core.types import Constraint, SamplingParams

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

REGULAR = frozenset({"regex", "choice", "regex_prefix", "prefix_strings"})
"""Kinds that are regular expressions in the end, so that several can hold at once."""

PREFIXES = frozenset({"regex_prefix", "prefix_strings"})
"""Kinds that bind the beginning only."""

REGEXES = frozenset({"regex", "regex_prefix"})
JSON_KINDS = frozenset({"json_object", "json_schema"})

ANY_OBJECT = '{"type":"object"}'

ANYTHING = "/(?s:.*)/"

JSON_OPTIONS: JsonCompileOptions = {
    "whitespace_pattern": r"( |\r?\n[ \t]{0,32})",
    "coerce_one_of": False,
    "lenient": False,
}
"""White space as JSON's writers put it: a weak model must not fill its answer with blanks."""


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


def to_grammar(constraints: tuple[Constraint, ...]) -> str:
    """Return the grammar of the answers that fulfil all of the constraints.

    Args:
        constraints: At least one; `check_constraints` has passed.

    Raises:
        InvalidRequest: A text is not even of its kind's outer form.
    """
    from llguidance import LLMatcher

    first = constraints[0]
    if first.kind in JSON_KINDS:
        schema = first.text or ANY_OBJECT
        try:
            return LLMatcher.grammar_from_json_schema(schema, overrides=JSON_OPTIONS)
        except ValueError as error:
            message = f"{first.param} is no JSON schema: {error}"
            raise InvalidRequest(message, param=first.param) from None
    if first.kind == "grammar":
        return LLMatcher.grammar_from_lark(first.text)
    return LLMatcher.grammar_from_lark(_intersection(constraints))


def _check_pair(first: Constraint, second: Constraint) -> None:
    """Refuse two that each bind the whole answer, or whose overlap no grammar can say."""
    kinds = {first.kind, second.kind}
    if kinds <= REGULAR and (kinds & PREFIXES):
        return
    raise InvalidRequest(
        f"{first.param} and {second.param} cannot be combined; send one of them",
        param=second.param,
    )


def _intersection(constraints: tuple[Constraint, ...]) -> str:
    """Return a Lark grammar with one terminal: what matches all of the regular constraints."""
    lines = [f"T{number}: {_terminal(c)}" for number, c in enumerate(constraints)]
    together = " & ".join(f"T{number}" for number in range(len(constraints)))
    return "\n".join(["start: WHOLE", *lines, f"WHOLE: {together}"])


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
