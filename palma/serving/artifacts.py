"""gallama's artifacts: an answer taken apart into texts and pieces of code, as it comes."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Literal, Protocol

from palma.core.types import Constraint, Message
from palma.serving.thinking.reader import overlap

ArtifactMode = Literal["Fast", "Slow"]

MAX_FENCE_CHARS = 200
"""A line that is longer opens and closes no code."""

LINE = re.compile(r"[^\n]*\n|[^\n]+")
OPENING = re.compile(r" {0,3}(`{3,}(?=[^`]*$)|~{3,})(.*)", re.DOTALL)
MAYBE_OPENING = re.compile(r" {0,3}(`{0,2}|`{3,}[^`\n]*|~{0,2}|~{3,}[^\n]*)")
OPENING_TAG = re.compile(r"<text>|<artifact ([^<>]*)>\n")
ATTRIBUTE = re.compile(r'([a-z]+)="([^"]*)"')

PARTS_GRAMMAR = r"""
start: part{1,64}
part: (text | artifact) "\n"
text: "<text>" text_end
text_end[suffix="</text>"]: /(?s:.*)/
artifact: "<artifact identifier=\"" NAME "\" type=\"code\" title=\"" TITLE "\"" code
code: " language=\"" NAME "\">\n" code_end
code_end[suffix="</artifact>"]: /(?s:.*)/
NAME: /[A-Za-z0-9_.+#-]{1,40}/
TITLE: /[^"<>&\n]{1,80}/
"""

PARTS_PROMPT = (
    "Write your answer in parts, each between tags and nothing outside of them: prose as "
    "<text>...</text>, and each piece of code as "
    '<artifact identifier="a-short-name" type="code" title="What it is" language="python">\n...\n'
    "</artifact>"
)


@dataclass(frozen=True, slots=True)
class CodeTag:
    """What is known about a piece of code.

    Attributes:
        identifier: Tells it from the others of the answer.
        title: What it is; may be empty.
        language: As the model calls it; None where it does not say.
    """

    identifier: str
    title: str = ""
    language: str | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """A part of an answer, or what has been added to one.

    Attributes:
        number: Which part of the answer, from 0.
        text: Of the part, white space around it left out.
        code: What is known about it where it is code.
    """

    number: int
    text: str
    code: CodeTag | None = None


class PartsReader(Protocol):
    """Takes an answer apart while it is made."""

    def push(self, text: str) -> list[Part]:
        """Take the next text and return what has been added to which parts."""

    def flush(self) -> list[Part]:
        """Return what was held back: the answer has ended."""


def parts_reader(mode: ArtifactMode) -> PartsReader:
    """Return the reader of an answer that was asked for in this mode."""
    return FenceReader() if mode == "Fast" else TagReader()


def whole_parts(mode: ArtifactMode, text: str) -> list[Part]:
    """Return the parts of a whole answer: at least one, a text that may be empty."""
    reader = parts_reader(mode)
    whole: list[Part] = []
    for part in (*reader.push(text), *reader.flush()):
        if whole and whole[-1].number == part.number:
            whole[-1] = dataclasses.replace(part, text=whole[-1].text + part.text)
        else:
            whole.append(part)
    return whole or [Part(0, "")]


def parts_constraint(param: str) -> Constraint:
    """Return the constraint to well-formed parts in tags."""
    return Constraint("grammar", PARTS_GRAMMAR, param)


def ask_for_parts(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Return a conversation whose last turn asks for parts in tags."""
    *before, last = messages
    if last.role != "user":
        return (*messages, Message("user", PARTS_PROMPT))
    return (*before, dataclasses.replace(last, content=f"{last.content}\n\n{PARTS_PROMPT}"))


class _Parts:
    """Numbers the parts and trims them: white space around a text, line breaks around code."""

    def __init__(self) -> None:
        self._number = -1
        self._code: CodeTag | None = None
        self._is_open = False
        self._held: list[str] = []

    def open_code(self, tag: CodeTag) -> Part:
        """Begin a piece of code."""
        self._number += 1
        self._code, self._is_open, self._held = tag, True, []
        return Part(self._number, "", tag)

    def end(self) -> None:
        """End the part, whatever it is."""
        self._code, self._is_open, self._held = None, False, []

    def add(self, text: str) -> list[Part]:
        """Add to the part; outside of any it begins a text."""
        bare = text.rstrip("\r\n" if self._code else None)
        if not self._is_open:
            bare, text = bare.lstrip(), text.lstrip()
            if not bare:
                return []
            self._number += 1
            self._is_open = True
        if not bare:
            self._held.append(text)
            return []
        added = "".join((*self._held, bare))
        self._held = [text[len(bare) :]]
        return [Part(self._number, added, self._code)]


class FenceReader:
    """Takes fenced code blocks from Markdown; a fence is read as CommonMark has it."""

    def __init__(self) -> None:
        self._parts = _Parts()
        self._line = ""  # could be a fence
        self._is_plain = False  # what comes until the line's end is no fence
        self._fence = ""  # that opened the code
        self._num_codes = 0

    def push(self, text: str) -> list[Part]:
        """Take the next text and return what has been added to which parts."""
        found: list[Part] = []
        for piece in LINE.findall(text):
            found += self._take(piece)
        return found

    def flush(self) -> list[Part]:
        """Return what was held back: the answer has ended."""
        line, self._line = self._line, ""
        return [] if self._closes(line) else self._parts.add(line)

    def _take(self, piece: str) -> list[Part]:
        """Take a line, or a part of one."""
        line = self._line + piece
        ends = line.endswith("\n")
        if self._is_plain or not self._may_be_fence(line):
            self._line, self._is_plain = "", not ends
            return self._parts.add(line)
        if not ends:
            self._line = line
            return []
        self._line = ""
        return self._take_fence(line)

    def _may_be_fence(self, line: str) -> bool:
        if len(line) > MAX_FENCE_CHARS:
            return False
        if not self._fence:
            return MAYBE_OPENING.fullmatch(line.rstrip("\r\n")) is not None
        bare = line.strip()
        return len(line) - len(line.lstrip(" ")) <= 3 and not bare.strip(self._fence[0])

    def _take_fence(self, line: str) -> list[Part]:
        if self._fence:
            if not self._closes(line):
                return self._parts.add(line)
            self._fence = ""
            self._parts.end()
            return []
        opening = OPENING.fullmatch(line.rstrip("\r\n"))
        if opening is None:
            return self._parts.add(line)
        self._fence = opening[1]
        self._num_codes += 1
        language, _, title = opening[2].strip().partition(" ")
        tag = CodeTag(f"code-{self._num_codes}", title.strip(), language or None)
        return [self._parts.open_code(tag)]

    def _closes(self, line: str) -> bool:
        bare = line.strip()
        return bool(self._fence) and bare.startswith(self._fence) and not bare.strip(self._fence[0])


class TagReader:
    """Takes parts from between their tags, as `parts_constraint` holds a model to write them."""

    def __init__(self) -> None:
        self._parts = _Parts()
        self._held = ""
        self._closing = ""  # of the part that is open

    def push(self, text: str) -> list[Part]:
        """Take the next text and return what has been added to which parts."""
        self._held += text
        found: list[Part] = []
        while True:
            more = self._read_part() if self._closing else self._read_tag()
            if more is None:
                return found + self._read_rest()
            found += more

    def flush(self) -> list[Part]:
        """Return what was held back: the answer has ended."""
        return self._parts.add(self._held) if self._closing else []

    def _read_tag(self) -> list[Part] | None:
        """Go behind the next opening tag, if it is there."""
        tag = OPENING_TAG.search(self._held)
        if tag is None:
            return None
        self._held = self._held[tag.end() :]
        if tag[1] is None:
            self._closing = "</text>"
            return []
        self._closing = "</artifact>"
        words = dict(ATTRIBUTE.findall(tag[1]))
        code = CodeTag(words.get("identifier", ""), words.get("title", ""), words.get("language"))
        return [self._parts.open_code(code)]

    def _read_part(self) -> list[Part] | None:
        """Go behind the closing tag, if it is there."""
        body, closing, rest = self._held.partition(self._closing)
        if not closing:
            return None
        added = self._parts.add(body)
        self._parts.end()
        self._held, self._closing = rest, ""
        return added

    def _read_rest(self) -> list[Part]:
        """Take what cannot belong to a tag; outside of parts there is nothing else."""
        if not self._closing:
            return []
        cut = len(self._held) - overlap(self._held, self._closing)
        certain, self._held = self._held[:cut], self._held[cut:]
        return self._parts.add(certain)
