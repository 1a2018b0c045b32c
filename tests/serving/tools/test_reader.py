"""Calls are read however their text is cut, hostile text costs little, and near misses are text."""

from __future__ import annotations

import json

import pytest

from palma.core.types import ToolCall
from palma.serving.tools.formats import BY_FAMILY, GENERAL, LLAMA, ToolFormat
from palma.serving.tools.reader import ToolReader
from palma.serving.tools.writer import write_call, write_calls
from tests.serving.tools.families import CALLS, RICH_CALL, TOOLS, call, read, read_calls

FAMILIES = sorted(BY_FAMILY)
SAID = "Let me see.\n\n"
MILLION = 1_000_000


def reader(family: str | ToolFormat = GENERAL) -> ToolReader:
    """Return a new reader of a family's answers."""
    return ToolReader(BY_FAMILY[family] if isinstance(family, str) else family, TOOLS)


def some_calls(tool_marks: ToolFormat) -> tuple[ToolCall, ...]:
    """Return as many calls as one answer of the family may have."""
    return CALLS[:1] if tool_marks.one_call_a_turn else CALLS


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answers_calls_are_read_as_they_were_made(family: str) -> None:
    calls = some_calls(BY_FAMILY[family])

    text, found = read_calls(reader(family), write_calls(calls, BY_FAMILY[family]))

    assert text == ""
    assert [name for name, _ in found] == [made.name for made in calls]
    assert [json.loads(arguments) for _, arguments in found] == [
        json.loads(made.arguments) for made in calls
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_it_makes_no_difference_where_the_text_is_cut(family: str) -> None:
    tool_marks = BY_FAMILY[family]
    lead = "\n" if tool_marks.begins_answer else SAID
    answer = lead + write_calls(some_calls(tool_marks), tool_marks) + "\n"

    whole = read_calls(reader(family), answer)

    assert whole[0] == lead.rstrip()
    assert read_calls(reader(family), *answer) == whole
    for cut in range(len(answer)):
        assert read_calls(reader(family), answer[:cut], answer[cut:]) == whole, answer[:cut]


@pytest.mark.parametrize("family", FAMILIES)
def test_calls_that_break_off_are_read_alike_wherever_they_do(family: str) -> None:
    tool_marks = BY_FAMILY[family]
    answer = write_calls(some_calls(tool_marks), tool_marks)

    for end in range(len(answer)):
        whole = read_calls(reader(family), answer[:end])
        assert read_calls(reader(family), *answer[:end]) == whole, answer[:end]
        assert whole[0] in tool_marks.trigger, answer[:end]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_call_that_breaks_off_before_its_arguments_is_no_text(family: str) -> None:
    tool_marks = BY_FAMILY[family]
    start = tool_marks.opening + tool_marks.before_name

    for end in range(len(tool_marks.trigger), len(start) + 1):
        assert read_calls(reader(family), start[:end]) == ("", [])


def test_arguments_leave_as_they_come() -> None:
    answer = reader()
    answer.push('<tool_call>\n{"name": "get_weather", "arguments": {"ci')

    said = [answer.push(text).tool_calls for text in ('ty": "Os', "lo", '"}')]

    assert [[delta.arguments for delta in deltas] for deltas in said] == [
        ['ty": "Os'],
        ["lo"],
        ['"}'],
    ]


@pytest.mark.parametrize("family", ["qwen-xml", "gemma"])
def test_text_arguments_leave_as_they_come(family: str) -> None:
    written = write_call(call("get_weather", {"city": "Oslo, and more"}), BY_FAMILY[family])
    cut = written.index("Oslo") + 2
    answer = reader(family)

    first = answer.push(written[:cut]).tool_calls

    assert first[-1].arguments.endswith('"Os')


def test_each_call_has_an_id_of_its_own() -> None:
    deltas = read(reader(), write_calls(CALLS, GENERAL)).tool_calls

    ids = [delta.call_id for delta in deltas if delta.call_id is not None]
    assert len(set(ids)) == len(CALLS)
    assert all(call_id.startswith("call_") and len(call_id) == 29 for call_id in ids)


def test_mistrals_ids_are_nine_letters_and_digits() -> None:
    deltas = read(reader("mistral"), write_calls(CALLS, BY_FAMILY["mistral"])).tool_calls

    ids = [delta.call_id or "" for delta in deltas if delta.call_id is not None]
    assert [len(call_id) for call_id in ids] == [9, 9, 9]
    assert all(call_id.isalnum() for call_id in ids)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "No tool is needed.",
        " two  spaces \n\n",
        "<tool_call",
        "<tool_call> is how one calls",
        '<tool_call>\n{"name": "f"}\n</tool_call>',
        '<tool_call>\n{"name": "f", "arguments": 5}\n</tool_call>',
        '<tool_call>\n{"name": "a b", "arguments": {}}\n</tool_call>',
        '<tool_call>\n{"name": "' + "f" * 65 + '", "arguments": {}}\n</tool_call>',
        '<tool_call>\n{"arguments": {}, "name": "f"}\n</tool_call>',
        '<tool_cal>\n{"name": "f", "arguments": {}}\n</tool_cal>',
        '< tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>',
        '{"name": "f", "arguments": {}}',
        "<tool_response>\nnoon\n</tool_response>",
    ],
)
def test_what_only_looks_like_a_call_stays_text(text: str) -> None:
    assert read_calls(reader(), text) == (text, [])
    assert read_calls(reader(), *text) == (text, [])


@pytest.mark.parametrize(
    "text", ['{"answer": 42}', '{"name": "Ada"}', 'So: {"name": "f", "parameters": {}}', "[1, 2]"]
)
def test_a_llamas_json_is_text_unless_it_is_a_call(text: str) -> None:
    assert read_calls(reader(LLAMA), text) == (text, [])
    assert read_calls(reader(LLAMA), *text) == (text, [])


def test_a_llama_may_call_behind_its_tag_anywhere() -> None:
    answer = 'I look.<|python_tag|>{"name": "clock", "parameters": {}}'

    assert read_calls(reader(LLAMA), *answer) == ("I look.", [("clock", "{}")])


def test_json_may_be_spaced_otherwise() -> None:
    compact = '<tool_call>{"name":"clock","arguments":{"a" : 1}}</tool_call>'
    wide = '<tool_call>\r\n{ "name" : "clock" , "arguments" : {"a" : 1} }\n\n</tool_call>'

    for answer in (compact, wide):
        assert read_calls(reader(), *answer) == ("", [("clock", '{"a" : 1}')])


def test_text_behind_a_failed_call_may_hold_a_real_one() -> None:
    answer = '<tool_call> or <tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'

    assert read_calls(reader(), answer) == ("<tool_call> or", [("clock", "{}")])


def test_text_behind_a_call_is_text_again() -> None:
    answer = write_call(CALLS[1], GENERAL) + "\nDone."

    assert read_calls(reader(), *answer) == ("\nDone.", [("clock", "{}")])


HOSTILE = (
    "<",
    "{",
    '{"name": "',
    "<tool_call>",
    '<tool_call>\n{"name": "f", "arguments": {',
    "<tool_call>f\n<arg_key>k</arg_key>\n<arg_value>",
    "[TOOL_CALLS]",
    '"\\',
    " \n",
    "🗺️",
)


def read_hostile(family: str, unit: str) -> None:
    """Read a million characters at once, and many in pieces, as text and as arguments."""
    text = unit * (MILLION // len(unit))
    begun = write_calls([RICH_CALL], BY_FAMILY[family])[:-20]
    for start in ("", begun):
        whole = read_calls(reader(family), start + text)
        assert sum(map(len, (whole[0], *map(str, whole[1])))) > 0 or text.isspace()
        some = (start + text)[: MILLION // 10]
        cut = [some[at : at + 7] for at in range(0, len(some), 7)]
        assert read_calls(reader(family), *cut) == read_calls(reader(family), some)


@pytest.mark.parametrize("unit", HOSTILE[2:5])
def test_a_million_hostile_characters_are_read_in_one_go(unit: str) -> None:
    """Quadratic steps would take longer than a test may."""
    read_hostile("general", unit)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("unit", HOSTILE)
def test_no_family_has_a_hostile_text(family: str, unit: str) -> None:
    read_hostile(family, unit)


def test_a_million_open_brackets_are_an_argument_like_any_other() -> None:
    deep = '{"a": ' * MILLION

    text, calls = read_calls(reader(), f'<tool_call>\n{{"name": "f", "arguments": {deep}')

    assert text == ""
    assert calls == [("f", deep.rstrip())] or calls == [("f", deep)]


def test_a_string_that_never_ends_is_passed_on_as_it_comes() -> None:
    endless = '{"a": "' + '\\"}' * MILLION

    _, calls = read_calls(reader(), '<tool_call>{"name": "f", "arguments": ' + endless)

    assert calls == [("f", endless)]


def test_what_is_no_json_is_passed_on_and_never_evaluated() -> None:
    arguments = "{__import__('os').abort()}"

    found = read_calls(
        reader(), f'<tool_call>{{"name": "f", "arguments": {arguments}}}</tool_call>'
    )

    assert found == ("", [("f", arguments)])
