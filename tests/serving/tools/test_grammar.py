"""The grammar lets through the tools' calls and nothing that only looks like them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from palma.core.errors import InvalidRequest
from palma.core.types import Constraint, SamplingParams, Tool, ToolCall, ToolUse
from palma.serving.grammar_trial import find_fault
from palma.serving.structured import check_constraints, to_grammar
from palma.serving.tools.formats import BY_FAMILY, GENERAL, MISTRAL, QWEN_XML, ToolFormat
from palma.serving.tools.grammar import tools_constraint
from palma.serving.tools.spelling import Spelling
from palma.serving.tools.writer import write_calls
from tests.serving.tools.families import CALLS, TOOLS, call

FAMILIES = sorted(BY_FAMILY)
PAIRS = [family for family in FAMILIES if BY_FAMILY[family].pairs is not None]
NAMED_FORM = Constraint(
    "json_schema",
    '{"type":"object","properties":{"name":{"type":"string"}},"required":["name"]}',
    "response_format",
)
PREFIX_FORM = Constraint("regex_prefix", "ab+", "regex_prefix_pattern")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from llguidance import LLTokenizer

    return LLTokenizer("byte")


def grammar(family: str, *others: Constraint, **use: Any) -> str:
    """Return the grammar of answers that may call the tools."""
    return to_grammar((*others, tools_constraint(ToolUse(TOOLS, **use), BY_FAMILY[family])))


def takes(tokenizer: Any, grammar: str, text: str) -> bool:
    """Return whether a text is a whole answer."""
    from llguidance import LLMatcher

    matcher = LLMatcher(tokenizer, grammar, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    token_ids = list(text.encode())
    return bool(matcher.try_consume_tokens(token_ids) == len(token_ids) and matcher.is_accepting())


def several(tool_marks: ToolFormat) -> list[tuple[ToolCall, ...]]:
    """Return what an answer of the family may call."""
    each: list[tuple[ToolCall, ...]] = [(made,) for made in (*CALLS, call("clock_set", {}))]
    return each if tool_marks.one_call_a_turn else [*each, CALLS]


WRONG = (
    call("nope", {}),
    call("get_weather", {}),
    call("get_weather", {"city": "Oslo", "days": "two"}),
    call("get_weather", {"city": "Oslo", "unit": "K"}),
    call("get_weather", {"city": "Oslo", "other": 1}),
    call("clock", {"a": 1}),
)


@pytest.mark.parametrize("choice", ["auto", "required"])
@pytest.mark.parametrize("family", FAMILIES)
def test_right_calls_are_taken_and_wrong_ones_are_not(
    family: str, choice: str, tokenizer: Any
) -> None:
    tool_marks = BY_FAMILY[family]
    held = grammar(family, choice=choice)

    assert find_fault(tokenizer, held) is None
    for calls in several(tool_marks):
        assert takes(tokenizer, held, write_calls(calls, tool_marks)), calls
    for wrong in WRONG:
        assert not takes(tokenizer, held, write_calls([wrong], tool_marks)), wrong


@pytest.mark.parametrize("family", FAMILIES)
def test_text_is_free_until_a_call_begins(family: str, tokenizer: Any) -> None:
    tool_marks = BY_FAMILY[family]
    held = grammar(family)

    for text in ("", "No.", " {}\n\n🗺️", '{"answer": 1}', tool_marks.trigger[:-1]):
        assert takes(tokenizer, held, text), text
    assert not takes(tokenizer, held, f"{tool_marks.trigger} is how")
    if not tool_marks.begins_answer:
        assert takes(tokenizer, held, "I look.\n\n" + write_calls(CALLS, tool_marks))
        assert not takes(tokenizer, held, write_calls(CALLS, tool_marks) + " Done.")


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_but_calls_will_do_where_one_is_required(family: str, tokenizer: Any) -> None:
    held = grammar(family, choice="required")

    for text in ("", "No.", "{}"):
        assert not takes(tokenizer, held, text)


@pytest.mark.parametrize("use", [{"parallel": False}, {"choice": "required", "name": "clock"}])
@pytest.mark.parametrize("family", FAMILIES)
def test_one_call_is_enough_where_only_one_is_asked_for(
    family: str, use: dict[str, Any], tokenizer: Any
) -> None:
    tool_marks = BY_FAMILY[family]
    held = grammar(family, **use)

    assert takes(tokenizer, held, write_calls(CALLS[1:2], tool_marks))
    assert not takes(tokenizer, held, write_calls(CALLS[1:2] * 2, tool_marks))


def test_a_named_tool_is_the_only_one_to_be_called(tokenizer: Any) -> None:
    held = grammar("general", choice="required", name="clock")

    assert not takes(tokenizer, held, write_calls(CALLS[:1], GENERAL))
    assert not takes(tokenizer, held, "No.")


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_is_a_call_or_of_the_form_that_was_asked_for(family: str, tokenizer: Any) -> None:
    held = grammar(family, NAMED_FORM)

    assert takes(tokenizer, held, '{"name": "Ada"}')
    assert takes(tokenizer, held, write_calls(CALLS[:1], BY_FAMILY[family]))
    assert not takes(tokenizer, held, '{"age": 1}')
    assert not takes(tokenizer, held, "Ada")
    assert not takes(tokenizer, held, write_calls(WRONG[:1], BY_FAMILY[family]))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_is_a_call_or_begins_as_was_asked_for(family: str, tokenizer: Any) -> None:
    held = grammar(family, PREFIX_FORM)

    assert takes(tokenizer, held, "abb, yes")
    assert takes(tokenizer, held, write_calls(CALLS[:1], BY_FAMILY[family]))
    assert not takes(tokenizer, held, "yes")


def test_a_form_that_allows_anything_lets_no_wrong_call_through(tokenizer: Any) -> None:
    held = grammar("general", Constraint("regex", "(?s:.*)", "regex"))

    assert takes(tokenizer, held, "Anything.")
    assert takes(tokenizer, held, write_calls(CALLS, GENERAL))
    assert not takes(tokenizer, held, write_calls(WRONG[:1], GENERAL))


@pytest.mark.parametrize("form", [PREFIX_FORM, NAMED_FORM], ids=lambda form: form.param)
def test_a_required_call_goes_with_no_form_of_a_text(form: Constraint) -> None:
    tools = tools_constraint(ToolUse(TOOLS, "required"), GENERAL)

    with pytest.raises(InvalidRequest, match="must call one of tools") as refusal:
        check_constraints((form, tools), SamplingParams())

    assert refusal.value.param == form.param


@pytest.mark.parametrize("family", FAMILIES)
def test_every_string_that_json_can_say_is_an_argument(family: str, tokenizer: Any) -> None:
    tool_marks = BY_FAMILY[family]

    for city in ("", "\n", '"', "\\", "<", "null", "5", "</tool_call>", "é🗺️\t "):
        text = write_calls([call("get_weather", {"city": city})], tool_marks)
        assert takes(tokenizer, grammar(family), text), city


def test_definitions_are_known_to_every_argument(tokenizer: Any) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/day"}, "b": {"type": "array", "items": {}}},
        "$defs": {"day": {"type": "integer", "maximum": 7}},
    }
    tool = Tool("f", "", json.dumps({**schema, "required": ["a"]}))
    for tool_marks in (GENERAL, QWEN_XML):
        held = to_grammar((tools_constraint(ToolUse((tool,)), tool_marks),))
        assert takes(tokenizer, held, write_calls([call("f", {"a": 7})], tool_marks))
        assert not takes(tokenizer, held, write_calls([call("f", {"a": 8})], tool_marks))


def test_bounded_strings_are_quoted_where_others_are_not(tokenizer: Any) -> None:
    day = {"type": "string", "pattern": "^[a-z]+day$"}
    tool = Tool("f", "", json.dumps({"type": "object", "properties": {"day": day}}))
    held = to_grammar((tools_constraint(ToolUse((tool,)), QWEN_XML),))

    written = write_calls([call("f", {"day": '"sunday"'})], QWEN_XML)

    assert takes(tokenizer, held, written)
    assert not takes(tokenizer, held, written.replace("sunday", "noon"))
    assert not takes(tokenizer, held, written.replace('"', ""))


@pytest.mark.parametrize("family", PAIRS)
@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"properties": {"a<b": {}}}, "cannot spell the argument 'a<b'"),
        ({"properties": {}, "additionalProperties": True}, "not declared"),
        ({"anyOf": [{"required": ["a"]}]}, "'anyOf'"),
        ({"properties": {"a": {}}, "required": ["b"]}, "'b' is required and not declared"),
        ({"properties": {"a": {"$ref": "#"}}}, "another argument's schema"),
    ],
)
def test_what_a_family_cannot_write_is_refused_with_the_tools_name(
    family: str, schema: dict[str, Any], reason: str
) -> None:
    tool = Tool("odd", "", json.dumps({"type": "object", **schema}))

    with pytest.raises(InvalidRequest, match=reason) as refusal:
        tools_constraint(ToolUse((TOOLS[0], tool), param="tools"), BY_FAMILY[family])

    assert "'odd'" in refusal.value.message
    assert refusal.value.param == "tools"


def test_arguments_that_are_no_object_are_refused() -> None:
    tool = Tool("odd", "", '{"type": "string"}')

    with pytest.raises(InvalidRequest, match="'odd': they must be the JSON schema of an object"):
        tools_constraint(ToolUse((tool,)), GENERAL)


@pytest.mark.parametrize("family", ["general", "qwen-xml", "gemma", "llama"])
@pytest.mark.parametrize(
    "schema",
    [
        {"properties": []},
        {"properties": {"a": []}},
        {"properties": {"a": None}},
        {"properties": {"a": True, "b": {}}},
        {"properties": {"a": {"enum": 5}}},
        {"properties": {"a": {"enum": [[], {}]}}},
        {"properties": {"a": {"anyOf": 3}}},
        {"properties": {"a": {"anyOf": [{"type": "null"}, {"type": ["string"]}]}}},
        {"properties": {"a": {"type": {}}}},
        {"properties": {"a": {"properties": {}, "required": [{}]}}},
        {"properties": {"🗺️ é": {"type": "string"}}},
        {"required": True},
        {"required": [{}]},
        {"$defs": []},
        {"additionalProperties": 5},
        {"x-guidance": 5},
    ],
)
def test_schemas_that_are_none_are_refused_and_nothing_else_happens(
    family: str, schema: dict[str, Any], tokenizer: Any
) -> None:
    tool = Tool("odd", "", json.dumps({"type": "object", **schema}))
    for others in ((), (NAMED_FORM,)):
        try:
            constraint = tools_constraint(ToolUse((tool,)), BY_FAMILY[family])
        except InvalidRequest:
            continue
        held = to_grammar((*others, constraint))
        if find_fault(tokenizer, held) is None:
            assert takes(tokenizer, held, '{"name": "Ada"}') == bool(others or family != "llama")


def test_control_tokens_are_spelled_by_number() -> None:
    spelling = Spelling({"[TOOL_CALLS]": 5, "[/INST]": 9, "<s>": 1})

    lark = to_grammar((tools_constraint(ToolUse(TOOLS), MISTRAL),), spelling)

    assert "<[5]>" in lark
    assert "<[1,9]>" in lark, "others may stand in free text"
