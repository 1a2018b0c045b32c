"""The mask of a thinking template: its tags as they are, and in its slots a bounded text."""

from __future__ import annotations

from dataclasses import dataclass

from palma.serving.thinking.template import END, ThinkingTemplate
from palma.serving.thinking.vocabulary import Vocabulary, begun_character, token_set

MAX_SLOT_TOKENS = 512
MAX_REPEATS = 32
"""More elements than the template shows, all together."""

MAX_RESTS = 3
"""Tokens that a character's rest may take."""

MARKUP = b"<"
"""No slot has it, so that a tag is always the template's."""


@dataclass(frozen=True, slots=True)
class SpelledWay:
    """A `Way` in tokens."""

    token_ids: tuple[int, ...]
    slot: int
    is_repeat: bool


@dataclass(frozen=True, slots=True)
class SpelledTemplate:
    """A template in the tokens of a model.

    Attributes:
        opening: What comes before slot 0.
        ways: What may follow each slot.
        least: Fewest tokens after each slot's text to the template's end, one for each slot on
            the way.
        num_slots: How many slots there are from each one to the end, itself included.
    """

    opening: tuple[int, ...]
    ways: tuple[tuple[SpelledWay, ...], ...]
    least: tuple[int, ...]
    num_slots: tuple[int, ...]

    @property
    def num_least_tokens(self) -> int:
        """Fewest tokens that fill it."""
        return len(self.opening) + 1 + self.least[0]


def spell_template(
    template: ThinkingTemplate, vocabulary: Vocabulary, param: str
) -> SpelledTemplate:
    """Spell a template in a model's tokens.

    Raises:
        UnsupportedParameter: Its tokenizer cannot; the error names `param`.
    """

    def spell(text: str) -> tuple[int, ...]:
        return tuple(vocabulary.spell(text, param))

    ways = tuple(
        tuple(SpelledWay(spell(way.text), way.slot, way.is_repeat) for way in found)
        for found in template.ways
    )
    least = [0] * len(ways)
    for slot in reversed(range(len(ways))):
        on = ways[slot][-1]
        least[slot] = len(on.token_ids) + (1 + least[on.slot] if on.slot != END else 0)
    num_slots = tuple(range(len(ways), 0, -1))
    return SpelledTemplate(spell(template.opening), ways, tuple(least), num_slots)


class TemplatePrelude:
    """A template that is filled before the answer begins.

    The tags are forced token by token. A slot takes at least one token and at most its share of
    what the budget leaves, so that the template always ends within the budget.

    Args:
        vocabulary: The model's.
        spelled: The template.
        budget: Most tokens of it, at least `num_least_tokens`.
        before: Tokens that are forced before it: the opening of the model's own thinking.
        after: Tokens that are forced behind it: the closing of that, and what separates the
            answer.
        stops: More ASCII characters that no slot has.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        spelled: SpelledTemplate,
        *,
        budget: int,
        before: tuple[int, ...] = (),
        after: tuple[int, ...] = (),
        stops: bytes = b"",
    ) -> None:
        self.is_over = False
        self._vocabulary = vocabulary
        self._tokens = vocabulary.slot_tokens(MARKUP + stops)
        self._spelled = spelled
        self._forced = [*before, *spelled.opening]
        self._after = after
        self._left = budget - len(spelled.opening)  # tokens that the rest may have
        self._num_repeats = 0
        self._ways: list[SpelledWay] = []  # those that the tokens so far may be
        self._num_walked = 0
        self._begun = b""  # of a character
        self._enter(0)

    def allowed(self) -> bytes:
        """Return the mask of the next token; see `TokenMask.allowed`."""
        if self._forced:
            tokens = 1 << self._forced[0]
        elif self._ways:
            tokens = token_set(way.token_ids[self._num_walked] for way in self._ways)
        else:
            tokens = self._text_tokens() if self._room else 0
            if not self._is_empty and not self._begun:
                tokens |= token_set(way.token_ids[0] for way in self._affordable_ways())
        return self._vocabulary.mask(tokens)

    def commit(self, token_id: int) -> bool:
        """Take the next token; it is always the template's."""
        if self._forced:
            del self._forced[0]
            self.is_over = not self._forced and self._slot == END
            return True
        ways = self._ways or self._affordable_ways()
        ways = [way for way in ways if way.token_ids[self._num_walked] == token_id]
        self._left -= 1
        if ways:
            self._walk(ways)
        else:
            self._write(self._vocabulary.text(token_id))
        return True

    def _walk(self, ways: list[SpelledWay]) -> None:
        """Go on in a tag. Of two ways that are one text the last counts, else the shorter one."""
        self._ways = ways
        self._num_walked += 1
        ended = [way for way in ways if len(way.token_ids) == self._num_walked]
        if ended:
            self._ways, self._num_walked = [], 0
            self._num_repeats += ended[-1].is_repeat
            self._enter(ended[-1].slot)

    def _write(self, text: bytes) -> None:
        self._room -= 1
        self._is_empty = False
        self._begun = begun_character(self._begun + text)

    def _enter(self, slot: int) -> None:
        """Begin a slot, or what follows the template."""
        self._slot = slot
        if slot == END:
            self._forced = list(self._after)
            self.is_over = not self._forced
            return
        spare = self._left - 1 - self._spelled.least[slot]
        share = spare // self._spelled.num_slots[slot]
        self._room = min(1 + share, MAX_SLOT_TOKENS)  # tokens that it may still have
        self._is_empty = True
        self._begun = b""

    def _text_tokens(self) -> int:
        """Return the tokens with which the slot's text can go on, and end in time."""
        tokens = self._tokens
        may_begin = self._room > MAX_RESTS  # a character whose rest comes in later tokens
        if self._begun:
            return tokens.after(self._begun, in_time=not may_begin)
        return tokens.whole | tokens.begun if may_begin else tokens.whole

    def _affordable_ways(self) -> list[SpelledWay]:
        """Return the ways on, and those to repeat that leave enough for what must follow."""
        return [way for way in self._spelled.ways[self._slot] if self._can_afford(way)]

    def _can_afford(self, way: SpelledWay) -> bool:
        if not way.is_repeat:
            return True
        needed = len(way.token_ids) + 1 + self._spelled.least[way.slot]
        return self._num_repeats < MAX_REPEATS and self._left >= needed
