"""Finds the end of a JSON value in text that arrives in pieces; it judges nothing else."""

from __future__ import annotations

import re

OUTSIDE = re.compile(r'["{}\[\]]')
INSIDE = re.compile(r'["\\]')
AFTER_SCALAR = re.compile(r"[\s,}\]<]")


class JsonScanner:
    """Follows one value from its first character on; nesting costs a counter and no stack.

    Attributes:
        is_done: Whether the value has ended.
    """

    def __init__(self) -> None:
        self.is_done = False
        self._begun = False
        self._is_scalar = False
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def scan(self, text: str, at: int) -> int:
        """Take the text from this place on; return where the value ends, else the text's end."""
        if not self._begun and at < len(text):
            self._begun = True
            self._is_scalar = text[at] not in '"{['
        if self._is_scalar:
            return self._scan_scalar(text, at)
        while at < len(text) and not self.is_done:
            at = self._scan_string(text, at) if self._in_string else self._scan_outside(text, at)
        return at

    def _scan_scalar(self, text: str, at: int) -> int:
        end = AFTER_SCALAR.search(text, at)
        self.is_done = end is not None
        return len(text) if end is None else end.start()

    def _scan_string(self, text: str, at: int) -> int:
        if self._escaped:
            self._escaped = False
            return at + 1
        found = INSIDE.search(text, at)
        if found is None:
            return len(text)
        if found[0] == "\\":
            self._escaped = True
        else:
            self._in_string = False
            self.is_done = self._depth == 0
        return found.end()

    def _scan_outside(self, text: str, at: int) -> int:
        found = OUTSIDE.search(text, at)
        if found is None:
            return len(text)
        if found[0] == '"':
            self._in_string = True
        else:
            self._depth += 1 if found[0] in "{[" else -1
            self.is_done = self._depth <= 0
        return found.end()
