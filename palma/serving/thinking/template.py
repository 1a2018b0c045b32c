"""gallama's thinking templates: an XML text with places to fill, and in which order they come."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NoReturn
from xml.parsers import expat
from xml.sax.saxutils import quoteattr

from palma.core.errors import InvalidRequest

MAX_CHARS = 16 * 1024
MAX_DEPTH = 16
MAX_ELEMENTS = 256
INDENT = "  "

END = -1
"""Comes after the last slot."""


@dataclass(slots=True)
class _Element:
    """An element while it is read; without children it is a slot."""

    tag: str
    begin: str
    children: list[_Element] = field(default_factory=list)
    text: str = ""
    may_repeat: bool = False


@dataclass(frozen=True, slots=True)
class Way:
    """What may follow a slot: a literal text, and the slot behind it.

    Attributes:
        text: To be written as it is.
        slot: Number of the next slot; END for none.
        is_repeat: Whether an element comes once more.
    """

    text: str
    slot: int
    is_repeat: bool = False


@dataclass(frozen=True, slots=True)
class ThinkingTemplate:
    """The order of the texts and slots of a template.

    Attributes:
        closing: The end tag of its root, with which it ends and which comes nowhere else.
        opening: The text before slot 0.
        ways: What may follow each slot; the way on is the last.
    """

    closing: str
    opening: str
    ways: tuple[tuple[Way, ...], ...]

    @property
    def literals(self) -> str:
        """All that is written as it is."""
        ways = (way.text for found in self.ways for way in found)
        return "\n".join((self.opening, *ways))


def parse_template(text: str, param: str = "thinking_template") -> ThinkingTemplate:
    """Read a template.

    Every element without children is a slot; its text says what belongs there. A comment behind
    an element lets it come more than once.

    Raises:
        InvalidRequest: It is no XML, or too large; it has a DTD, entities, instructions, text
            beside elements, or the name of its root twice.
    """
    if len(text) > MAX_CHARS:
        _refuse(param, f"it has {len(text)} characters, and at most {MAX_CHARS} are taken")
    root = _Reader(param).read(text.strip())
    row: list[_Item] = []
    _lay_out(root, 0, row)
    slots = [place for place, item in enumerate(row) if item is None]
    ways = tuple(tuple(_ways(row, place)) for place in slots)
    return ThinkingTemplate(f"</{root.tag}>", _way(row, 0, "", is_repeat=False).text, ways)


def template_prompt(text: str) -> str:
    """Return what a model is told about a template before it fills it."""
    return (
        "Before you answer, think by filling this template. Write its tags as they are, and "
        "between them what their text asks for. An element with a comment behind it may come "
        f"several times. Then write your answer.\n\n{text.strip()}"
    )


class _Reader:
    """Reads the elements; expat expands nothing, as every declaration is refused."""

    def __init__(self, param: str) -> None:
        self._param = param
        self._open: list[_Element] = []
        self._last: _Element | None = None  # the element before, on this level
        self._root: _Element | None = None
        self._num_elements = 0

    def read(self, text: str) -> _Element:
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        parser.CommentHandler = self._comment
        parser.StartDoctypeDeclHandler = lambda *_: _refuse(self._param, "a DTD is not taken")
        parser.ProcessingInstructionHandler = lambda *_: _refuse(
            self._param, "processing instructions are not taken"
        )
        try:
            parser.Parse(text, True)
        except expat.ExpatError as error:
            _refuse(self._param, f"it is no XML: {error}")
        except ValueError as error:  # half a surrogate pair, a null character
            _refuse(self._param, f"it is no XML: {error}")
        assert self._root is not None  # else expat has found no element
        return self._root

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._num_elements += 1
        if self._num_elements > MAX_ELEMENTS:
            _refuse(self._param, f"it has more than {MAX_ELEMENTS} elements")
        if len(self._open) == MAX_DEPTH:
            _refuse(self._param, f"its elements are nested more than {MAX_DEPTH} deep")
        words = "".join(f" {name}={quoteattr(value)}" for name, value in attributes.items())
        element = _Element(tag, f"<{tag}{words}>")
        if self._root is None:
            self._root = element
        elif tag == self._root.tag:
            _refuse(self._param, f"the name of its root, {tag!r}, comes twice")
        if self._open:
            parent = self._open[-1]
            parent.children.append(element)
            self._refuse_mixed(parent)
        self._open.append(element)
        self._last = None

    def _end(self, _: str) -> None:
        self._last = self._open.pop()

    def _characters(self, text: str) -> None:
        if self._open:
            self._open[-1].text += text
            self._refuse_mixed(self._open[-1])

    def _comment(self, _: str) -> None:
        if self._open and self._last is not None:
            self._last.may_repeat = True

    def _refuse_mixed(self, element: _Element) -> None:
        if element.children and element.text.strip():
            _refuse(
                self._param,
                f"<{element.tag}> has text beside elements; put it into an element of its own",
            )


_Item = str | int | None
"""Of a template laid out as a row: a text; the place from which to repeat; None for a slot."""


def _lay_out(element: _Element, depth: int, row: list[_Item]) -> None:
    """Add an element to a row, a line for each without children."""
    begin = len(row)
    indent = "\n" + INDENT * depth if depth else ""
    row.append(indent + element.begin)
    for child in element.children:
        _lay_out(child, depth + 1, row)
    if element.children:
        row.append(f"\n{INDENT * depth}</{element.tag}>")
    else:
        row += [None, f"</{element.tag}>"]
    if element.may_repeat:
        row.append(begin)


def _ways(row: list[_Item], slot_place: int) -> list[Way]:
    """Return what may follow a slot: inner elements once more, outer ones, and last the way on."""
    ways = []
    text = ""
    for item in row[slot_place + 1 :]:
        if item is None:
            break
        if isinstance(item, str):
            text += item
        else:
            ways.append(_way(row, item, text, is_repeat=True))
    ways.append(_way(row, slot_place + 1, "", is_repeat=False))
    return ways


def _way(row: list[_Item], place: int, text: str, *, is_repeat: bool) -> Way:
    """Return the way from a place to the next slot."""
    for index in range(place, len(row)):
        item = row[index]
        if item is None:
            return Way(text, row[:index].count(None), is_repeat)
        if isinstance(item, str):
            text += item
    return Way(text, END, is_repeat)


def _refuse(param: str, reason: str) -> NoReturn:
    raise InvalidRequest(f"{param}: {reason}", param=param)
