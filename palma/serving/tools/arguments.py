"""Reads a call's arguments as its model writes them, and gives the text of a JSON object."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping

from palma.serving.tools.formats import PairMarks, ToolFormat
from palma.serving.tools.json_scanner import JsonScanner
from palma.serving.tools.marks import NO_MATCH, PARTIAL, find_mark, match_mark
from palma.serving.tools.schemas import Kind

KEY = re.compile(r"[^<>{},:\n]{1,200}")
"""A property's name where it is written without quotes."""


class JsonArguments:
    """Arguments that are a JSON object: they go out as they come in.

    Attributes:
        is_done: Whether they have ended.
    """

    def __init__(self) -> None:
        self._scanner = JsonScanner()

    @property
    def is_done(self) -> bool:
        """Whether they have ended."""
        return self._scanner.is_done

    def read(self, text: str, at: int) -> tuple[int, str]:
        """Take the text from this place on; return where reading stopped, and what it gave."""
        end = self._scanner.scan(text, at)
        return end, text[at:end]


class PairArguments:
    """Arguments that are a pair for each property.

    Args:
        tool_marks: A format that has `pairs`.
        kinds: How each property is written; an unknown one is text.

    Attributes:
        is_done: Whether they have ended.
    """

    def __init__(self, tool_marks: ToolFormat, kinds: Mapping[str, Kind]) -> None:
        assert tool_marks.pairs is not None
        self.is_done = False
        self._pairs: PairMarks = tool_marks.pairs
        self._end_mark = tool_marks.after_arguments
        self._kinds = kinds
        self._num_pairs = 0
        self._scanner = JsonScanner()
        self._out: list[str] = ["{"]
        self._state: Callable[[str, int], int | None] = self._read_key

    def read(self, text: str, at: int) -> tuple[int, str]:
        """Take the text from this place on; return where reading stopped, and what it gave."""
        while not self.is_done:
            end = self._state(text, at)
            if end is None:
                break
            at = end
        out, self._out = "".join(self._out), []
        return at, out

    def _read_key(self, text: str, at: int) -> int | None:
        """Read up to the next value, or find the end; what fits neither ends them as well."""
        end = match_mark(self._end_mark, text, at)
        key, value_at = self._match_key(text, at)
        if value_at >= 0:
            self._num_pairs += 1
            comma = ", " if self._num_pairs > 1 else ""
            self._out.append(f"{comma}{json.dumps(key, ensure_ascii=False)}: ")
            return self._begin_value(key, text, value_at)
        if end == PARTIAL or (end == NO_MATCH and value_at == PARTIAL):
            return None
        self._out.append("}")
        self.is_done = True
        return at

    def _match_key(self, text: str, at: int) -> tuple[str, int]:
        """Return the next property, and where its value begins or PARTIAL or NO_MATCH."""
        pairs = self._pairs
        before = (pairs.separator if self._num_pairs else "") + pairs.before_key
        at = match_mark(before, text, at)
        if at < 0:
            return "", at
        key = KEY.match(text, at)
        if key is None or key.end() == len(text):
            return "", PARTIAL if at == len(text) or key is not None else NO_MATCH
        at = match_mark(pairs.after_key, text, key.end(), exact=True)
        if at >= 0 and pairs.before_text:
            after = match_mark(pairs.before_text, text, at, exact=True)
            at = PARTIAL if after == PARTIAL else at  # what kind of value it is shows only then
        return key[0], at

    def _begin_value(self, key: str, text: str, at: int) -> int:
        before = self._pairs.before_text
        kind = self._kinds.get(key, "text")
        if before:
            kind = "text" if text.startswith(before, at) else "json"
        if kind == "text":
            self._out.append('"')
            self._state = self._read_string
            return at + len(before)
        self._scanner = JsonScanner()
        self._state = self._read_json if kind == "json" else self._read_nullable
        return at

    def _read_nullable(self, text: str, at: int) -> int | None:
        end = match_mark(f"null{self._pairs.after_value}", text, at, exact=True)
        if end == PARTIAL:
            return None
        self._state = self._read_string if end == NO_MATCH else self._read_json
        if end == NO_MATCH:
            self._out.append('"')
        return at

    def _read_string(self, text: str, at: int) -> int | None:
        mark = self._pairs.after_text + self._pairs.after_value
        end, is_whole = find_mark(mark, text, at)
        self._out.append(json.dumps(text[at:end], ensure_ascii=False)[1:-1])
        if is_whole:
            self._out.append('"')
            self._state = self._read_key
            return end + len(mark)
        return None if end == at else end

    def _read_json(self, text: str, at: int) -> int | None:
        end = self._scanner.scan(text, at)
        self._out.append(text[at:end])
        if self._scanner.is_done:
            self._state = self._read_after_value
            return end
        return None if end == at else end

    def _read_after_value(self, text: str, at: int) -> int | None:
        end = match_mark(self._pairs.after_value, text, at, exact=True)
        if end == PARTIAL:
            return None
        self._state = self._read_key
        return max(at, end)
