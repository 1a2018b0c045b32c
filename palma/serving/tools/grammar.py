"""The grammar of an answer that may, or must, call tools: known names, and their own arguments."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from palma.core.errors import InvalidRequest
from palma.core.types import Constraint, ToolUse
from palma.serving.schemas import JSON_OPTIONS
from palma.serving.tools.arguments import KEY
from palma.serving.tools.formats import BY_FAMILY, PairMarks, ToolFormat
from palma.serving.tools.schemas import NOTES, arguments_schema, choices, kind_of
from palma.serving.tools.spelling import Spelling, quoted

ANYTHING = "/(?s:.*)/"

WHOLE_OBJECT = frozenset({"type", "properties", "required", "additionalProperties"})
"""What can be said of arguments that are written as pairs, beside notes and definitions."""

SHARED = ("$defs", "definitions")
ROOT_NOTES = NOTES | {"$schema", "$id", "strict"}

TO_ITS_ROOT = re.compile(r'"\$ref": "#(/properties|")')
"""A reference that means something else once the schema stands inside another."""


def tools_constraint(use: ToolUse, tool_marks: ToolFormat) -> Constraint:
    """Return what holds an answer to the tools that it may call; `choice` is not `none`.

    A named choice is one call. So is any answer of a model that makes one call a turn.

    Raises:
        InvalidRequest: A tool's parameters are no object's schema, or cannot be written in this
            format.
    """
    tools = [tool for tool in use.tools if use.name in (None, tool.name)]
    schemas: dict[str, Any] = {}
    for tool in tools:
        try:
            schemas[tool.name] = arguments_schema(tool.parameters)
            if tool_marks.pairs is not None:
                _check_pairs(schemas[tool.name])
        except (ValueError, RecursionError) as error:
            message = f"the parameters of {tool.name!r}: {error}"
            raise InvalidRequest(message, param=use.param) from None
    one_call = use.name is not None or not use.parallel or tool_marks.one_call_a_turn
    text = json.dumps(
        {
            "family": tool_marks.family,
            "tools": schemas,
            "is_required": use.choice == "required",
            "is_one": one_call,
        }
    )
    return Constraint("tools", text, use.param)


def one_tool_each(constraint: Constraint) -> Iterator[tuple[str, dict[str, Any], Constraint]]:
    """Yield each tool's name, its schema, and the constraint with that tool alone."""
    asked = json.loads(constraint.text)
    for name, schema in asked["tools"].items():
        text = json.dumps({**asked, "tools": {name: schema}})
        yield name, schema, Constraint("tools", text, constraint.param)


def tools_trigger(constraint: Constraint) -> str:
    """Return the text with which a call has begun."""
    return BY_FAMILY[json.loads(constraint.text)["family"]].trigger


def requires_calls(constraint: Constraint) -> bool:
    """Return whether an answer may be nothing but calls."""
    return bool(json.loads(constraint.text)["is_required"])


def tools_lark(constraint: Constraint, form: str | None, spelling: Spelling) -> str:
    """Return the Lark grammar of an answer that is free text, calls, or both; `start` is all of it.

    Args:
        constraint: What `tools_constraint` returned.
        form: Rules of what an answer without calls must be, `form` is all of it; None for any text.
        spelling: The vocabulary's.
    """
    asked = json.loads(constraint.text)
    tool_marks = BY_FAMILY[asked["family"]]
    grammar = _Grammar(tool_marks, spelling)
    if asked["is_required"]:
        grammar.add_required_start()
    elif form is None:
        grammar.add_free_start()
    else:
        grammar.add_formed_start(form, asked["tools"])
    grammar.add_calls(asked["tools"], is_one=asked["is_one"])
    return grammar.text()


def _check_pairs(schema: dict[str, Any]) -> None:
    """Raise ValueError where arguments cannot be written as one pair for each property."""
    odd = schema.keys() - WHOLE_OBJECT - ROOT_NOTES - set(SHARED)
    if odd:
        raise ValueError(f"calls of this model cannot be held to {min(odd)!r} of all arguments")
    if schema.get("additionalProperties", False) is not False:
        raise ValueError("calls of this model cannot have arguments that are not declared")
    properties = schema.get("properties", {})
    for name in properties:
        if not KEY.fullmatch(name):
            raise ValueError(f"calls of this model cannot spell the argument {name[:64]!r}")
    for name in schema.get("required", []):
        if name not in properties:
            raise ValueError(f"{name[:64]!r} is required and not declared")
    if TO_ITS_ROOT.search(json.dumps(properties)):
        raise ValueError("calls of this model cannot refer to another argument's schema")


class _Grammar:
    """Collects the rules of one grammar."""

    def __init__(self, tool_marks: ToolFormat, spelling: Spelling) -> None:
        self._marks = tool_marks
        self._spelling = spelling.within(tool_marks.literals)
        begins_calls = spelling.within(f"{tool_marks.tag} {tool_marks.trigger}").control
        self._others = sorted(set(spelling.control.values()) - set(begins_calls.values()))
        self._rules: list[str] = []
        self._num_names = 0

    def text(self) -> str:
        return "\n".join(self._rules) + "\n"

    def rule(self, name: str, body: str) -> None:
        self._rules.append(f"{name}: {body}")

    def add_required_start(self) -> None:
        """Calls and nothing else."""
        opening = self._spelling.lark(self._marks.opening + self._marks.before_name)
        self.rule("start", f"{opening} calls")

    def add_free_start(self) -> None:
        """Any text, in which a call begins as soon as its trigger is there."""
        marks = self._marks
        ways = ["free", *self._entries(marks.tag or marks.opening, marks.tag or marks.trigger)]
        if marks.begins_answer:
            self.rule("bare[lazy]", f"/\\s{{0,8}}/ {quoted(marks.before_name)}")
            ways = ["free", "bare calls", *(ways[1:] if marks.tag else [])]
        self.rule("start", " | ".join(ways))
        self.rule("TEXT", ANYTHING)
        others = ",".join(map(str, self._others))
        self.rule("free", f"(TEXT <[{others}]>)* TEXT" if others else "TEXT")
        self.rule("lead", f"(TEXT <[{others}]>)*" if others else '""')

    def _entries(self, opening: str, trigger: str) -> Iterator[str]:
        """Yield the ways into a call: its trigger as a control token, and as plain text."""
        rest = self._spelling.lark((opening + self._marks.before_name)[len(trigger) :])
        parts = self._spelling.parts(trigger)
        if isinstance(parts[0], int):
            yield f"lead TEXT {self._spelling.lark(trigger)} {rest} calls"
        self.rule("head[lazy]", f"{ANYTHING} {quoted(trigger)}")
        yield f"lead head {rest} calls"

    def add_formed_start(self, form: str, tools: Mapping[str, dict[str, Any]]) -> None:
        """A form, or calls and nothing else."""
        marks = self._marks
        self._rules.append(form)
        is_json_too = marks.begins_answer and not TO_ITS_ROOT.search(json.dumps(tools))
        if is_json_too:  # both are followed until they differ
            calls = " | ".join(self._whole_call(name, schema) for name, schema in tools.items())
        else:
            calls = f"{self._spelling.lark(marks.opening + marks.before_name)} calls"
        self.rule("start", f"form | {calls}")

    def _whole_call(self, name: str, schema: dict[str, Any]) -> str:
        """Return a rule for a call as one JSON value; only where its marks are JSON."""
        marks = self._marks
        shell = json.loads(
            f"{marks.before_name}{name}{marks.after_name}null{marks.after_arguments}"
        )
        shared = {key: schema[key] for key in SHARED if key in schema}
        parts = {key: schema if value is None else {"const": value} for key, value in shell.items()}
        whole = {
            "type": "object",
            "properties": parts,
            "required": list(parts),
            "additionalProperties": False,
        }
        rule = self._new("whole")
        self.rule(rule, f"%json {json.dumps({**shared, **whole, 'x-guidance': JSON_OPTIONS})}")
        return rule

    def add_calls(self, tools: Mapping[str, dict[str, Any]], *, is_one: bool) -> None:
        """The rest of all calls, from the first one's name on."""
        marks, spell = self._marks, self._spelling.lark
        end = spell(marks.after_arguments)
        more = "" if is_one else f"({spell(marks.separator + marks.before_name)} named {end})*"
        self.rule("calls", f"named {end} {more} {spell(marks.closing)}")
        self.rule("named", " | ".join(f"tool{number}" for number in range(len(tools))))
        for number, (name, schema) in enumerate(tools.items()):
            self.rule(
                f"tool{number}", f"{spell(name + marks.after_name)} {self._arguments(schema)}"
            )

    def _arguments(self, schema: dict[str, Any]) -> str:
        pairs = self._marks.pairs
        return self._json(schema) if pairs is None else self._pairs(schema, pairs)

    def _json(self, schema: dict[str, Any]) -> str:
        name = self._new("json")
        self.rule(name, f"%json {json.dumps({**schema, 'x-guidance': JSON_OPTIONS})}")
        return name

    def _pairs(self, schema: dict[str, Any], pairs: PairMarks) -> str:
        """Return a rule for the pairs of all properties, in their order.

        `first` rules are for as long as there is no pair yet, `rest` rules for afterwards.
        """
        required = set(schema.get("required", []))
        shared = {key: schema[key] for key in SHARED if key in schema}
        after, first = '""', '""'
        comma = self._spelling.lark(pairs.separator)
        for name, inner in reversed(schema.get("properties", {}).items()):
            pair = self._pair(name, inner, pairs, shared)
            skip = name not in required
            first, old = self._new("first"), first
            rest = self._new("rest")
            self.rule(first, f"{pair} {after}" + (f" | {old}" if skip else ""))
            self.rule(rest, f"{comma} {pair} {after}" + (f" | {after}" if skip else ""))
            after = rest
        return first

    def _pair(self, name: str, schema: Any, pairs: PairMarks, shared: Mapping[str, Any]) -> str:
        """Return a rule for one property and its value."""
        spell = self._spelling.lark
        key = pairs.before_key + name + pairs.after_key
        pair = self._new("pair")
        kind = kind_of(schema)
        if kind == "json":
            inner = {**shared, **schema} if isinstance(schema, dict) else {"anyOf": [schema]}
            self.rule(pair, f"{spell(key)} {self._json(inner)} {spell(pairs.after_value)}")
            return pair
        end = pairs.after_text + pairs.after_value
        allowed = choices(schema)
        if allowed is None:
            value = self._until(end)
        else:
            value = f"({' | '.join(map(json.dumps, allowed))}) {spell(end)}"
        text = f"{spell(key + pairs.before_text)} {value}"
        is_split = kind == "nullable" and pairs.before_text  # elsewhere null is a text
        self.rule(pair, f"{text} | {spell(f'{key}null')}" if is_split else text)
        return pair

    def _until(self, mark: str) -> str:
        """Return a rule for any text up to a mark, the mark included."""
        name = self._new("until")
        parts = self._spelling.parts(mark)
        if not any(isinstance(part, int) for part in parts):
            self.rule(f"{name}[lazy]", f"{ANYTHING} {quoted(mark)}")
            return name
        before = parts[0] if isinstance(parts[0], str) else ""
        terminal = f"{name.upper()}T"
        self.rule(
            terminal, f"({ANYTHING} {quoted(before)}) & ~({ANYTHING} {quoted(mark)} {ANYTHING})"
        )
        self.rule(name, f"{terminal} {self._spelling.lark(mark.removeprefix(before))}")
        return name

    def _new(self, kind: str) -> str:
        self._num_names += 1
        return f"{kind}{self._num_names}"
