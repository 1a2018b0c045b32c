"""Reads calls out of an answer while it is made."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from typing import NamedTuple

from palma.core.types import Tool, ToolCallDelta
from palma.serving.reading import Pieces
from palma.serving.tools.arguments import JsonArguments, PairArguments
from palma.serving.tools.formats import ToolFormat
from palma.serving.tools.marks import NO_MATCH, PARTIAL, find_mark, match_mark, skip_spaces
from palma.serving.tools.prompt import short_id
from palma.serving.tools.schemas import property_kinds

NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
NO_SPACE = re.compile(r"\S")


class _Header(NamedTuple):
    """How a call begins: its name, and where its arguments do."""

    name: str
    end: int


class ToolReader:
    """Takes one answer apart into text and calls; the `AnswerReader` of a family's format.

    Transformers' `parse_response` reads whole answers by regular expressions and checks nothing;
    this one streams arguments, takes linear time whatever comes, and knows what its grammar lets
    through: text that does not begin a call with a name and arguments stays text.

    Args:
        tool_marks: The family's.
        tools: What may be called; says which arguments are plain text where they are no JSON.
        only_calls: Whether the answer can be nothing else: what began a call was to be one.
    """

    is_thinking = False

    def __init__(
        self, tool_marks: ToolFormat, tools: tuple[Tool, ...] = (), *, only_calls: bool = False
    ) -> None:
        self._marks = tool_marks
        self._only_calls = only_calls
        self._kinds = {}
        if tool_marks.pairs is not None:
            self._kinds = {tool.name: property_kinds(tool) for tool in tools}
        self._start = (tool_marks.tag or tool_marks.opening) + tool_marks.before_name
        if tool_marks.begins_answer and not tool_marks.tag:
            self._start = ""
        self._first_mark = self._start.split()[0] if self._start else ""
        self._held = ""
        self._at = 0  # what comes before it in the held text has been read
        self._state: Callable[[], bool] = self._read_text
        self._arguments: JsonArguments | PairArguments
        self._num_calls = 0
        self._has_begun = False  # where calls stand at the beginning only
        self._text: list[str] = []
        self._spaces: list[str] = []  # they belong to the text unless a call follows
        self._calls: list[ToolCallDelta] = []

    def push(self, text: str) -> Pieces:
        """Take the next text and return what is certain now."""
        self._held = self._held[self._at :] + text
        self._at = 0
        while self._state():
            pass
        return self._take()

    def flush(self) -> Pieces:
        """Return what was held back, but for marks: behind a trigger a grammar wants a call."""
        if self._state == self._read_text:
            rest = self._held[self._at :]
            self._say("" if self._is_cut_call(rest) else rest)
            if not self._num_calls:
                self._text += self._spaces
        self._held, self._at = "", 0
        return self._take()

    def _is_cut_call(self, rest: str) -> bool:
        marks = self._marks
        triggers = (marks.trigger, marks.tag) if marks.tag else (marks.trigger,)
        is_begun = self._only_calls and marks.trigger.startswith(rest)
        return is_begun or rest.startswith(triggers)

    def _take(self) -> Pieces:
        pieces = Pieces(text="".join(self._text), tool_calls=tuple(self._calls))
        self._text, self._calls = [], []
        return pieces

    def _say(self, text: str) -> None:
        body = text.rstrip()
        if body:
            self._text += [*self._spaces, body]
            self._spaces = []
        if len(body) < len(text):
            self._spaces.append(text[len(body) :])

    def _read_text(self) -> bool:
        """Read up to the next call; return whether one begins."""
        if self._marks.begins_answer and not self._has_begun:
            return self._read_beginning()
        start = self._start
        at = self._at
        while start:
            at, is_whole = find_mark(self._first_mark, self._held, at)
            header = self._match_header(start, at) if is_whole else PARTIAL
            if header != NO_MATCH:
                self._say_until(at)
                return self._begin(header)
            at += 1
        self._say_until(len(self._held))
        return False

    def _read_beginning(self) -> bool:
        """Read a call that stands at the answer's very beginning, or find that none does."""
        body = NO_SPACE.search(self._held, self._at)
        self._say_until(len(self._held) if body is None else body.start())
        header = self._match_header(self._marks.before_name, self._at)
        self._has_begun = header != PARTIAL
        return True if header == NO_MATCH else self._begin(header)

    def _say_until(self, end: int) -> None:
        self._say(self._held[self._at : end])
        self._at = end

    def _match_header(self, start: str, at: int) -> _Header | int:
        """Match a call's beginning up to its arguments: the header, or PARTIAL or NO_MATCH."""
        at = match_mark(start, self._held, at)
        if at < 0:
            return at
        name = NAME.match(self._held, at)
        if name is None:
            return PARTIAL if at == len(self._held) else NO_MATCH
        if name.end() == len(self._held):
            return PARTIAL
        at = match_mark(self._marks.after_name, self._held, name.end())
        return at if at < 0 else self._match_arguments(name[0], at)

    def _match_arguments(self, name: str, at: int) -> _Header | int:
        """Return the header if what arguments begin with stands here."""
        marks = self._marks
        if marks.pairs is None:
            at = skip_spaces(self._held, at)
            found = match_mark("{", self._held, at, exact=True)
        else:
            ends = (
                match_mark(mark, self._held, at)
                for mark in (marks.pairs.before_key, marks.after_arguments)
            )
            found = max(ends, key=lambda end: (end >= 0, end))
        return found if found < 0 else _Header(name, at)

    def _begin(self, header: _Header | int) -> bool:
        """Begin a call; return whether it was all there."""
        if isinstance(header, int):
            return False
        marks = self._marks
        length = marks.call_id_length
        call_id = f"call_{secrets.token_hex(12)}"
        if length is not None:
            call_id = short_id(call_id, length)
        self._calls.append(ToolCallDelta(self._num_calls, call_id, header.name))
        self._num_calls += 1
        self._spaces = []
        self._at = header.end
        kinds = self._kinds.get(header.name, {})
        self._arguments = JsonArguments() if marks.pairs is None else PairArguments(marks, kinds)
        self._state = self._read_arguments
        return True

    def _read_arguments(self) -> bool:
        self._at, text = self._arguments.read(self._held, self._at)
        if text:
            self._calls.append(ToolCallDelta(self._num_calls - 1, arguments=text))
        if self._arguments.is_done:
            self._state = self._read_end
        return self._arguments.is_done

    def _read_end(self) -> bool:
        at = skip_spaces(self._held, self._at)
        end = match_mark(self._marks.after_arguments, self._held, at)
        if end == PARTIAL:
            return False
        self._at = max(self._at, end)
        self._state = self._read_text if end == NO_MATCH else self._read_between
        return True

    def _read_between(self) -> bool:
        """Read what follows a call: the next one, what closes them all, or text."""
        marks = self._marks
        header = self._match_header(marks.separator + marks.before_name, self._at)
        if isinstance(header, _Header):
            return self._begin(header)
        end = match_mark(marks.closing, self._held, self._at) if marks.closing else NO_MATCH
        if end < 0 and PARTIAL in (header, end):
            return False
        self._at = max(self._at, end)
        self._state = self._read_text
        return True
