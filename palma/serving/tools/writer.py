"""Writes calls as a family of models would."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from palma.core.types import ToolCall
from palma.serving.tools.formats import PairMarks, ToolFormat


def write_calls(calls: Sequence[ToolCall], tool_marks: ToolFormat) -> str:
    """Return the text of an answer's calls, at least one."""
    written = tool_marks.separator.join(write_call(call, tool_marks) for call in calls)
    return tool_marks.opening + written + tool_marks.closing


def write_call(call: ToolCall, tool_marks: ToolFormat) -> str:
    """Return the text of one call, without what stands before the first and after the last."""
    arguments = call.arguments
    if tool_marks.pairs is not None:
        arguments = _write_pairs(json.loads(arguments), tool_marks.pairs)
    before = tool_marks.before_name + call.name + tool_marks.after_name
    return before + arguments + tool_marks.after_arguments


def _write_pairs(arguments: dict[str, Any], pairs: PairMarks) -> str:
    return pairs.separator.join(
        f"{pairs.before_key}{key}{pairs.after_key}{_write_value(value, pairs)}{pairs.after_value}"
        for key, value in arguments.items()
    )


def _write_value(value: object, pairs: PairMarks) -> str:
    if isinstance(value, str):
        return pairs.before_text + value + pairs.after_text
    return json.dumps(value, ensure_ascii=False)
