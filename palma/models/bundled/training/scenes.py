"""What a conversation is made of: messages, and what a skill may look at when it adds some."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from palma.models.bundled.training.answers import Style
from palma.models.bundled.training.tool_text import ToolSpec

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; a call of a tool is the text that the template makes of it."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Scene:
    """What a skill may look at.

    Attributes:
        rng: The random source.
        style: How palmita speaks in this conversation.
        after_capital: Whether a capital came before, so that "And of France?" can be understood.
        after_weather: The same of the weather: "And in France?"
        tools: What palmita is told that it may call.
    """

    rng: random.Random
    style: Style
    after_capital: bool = False
    after_weather: bool = False
    tools: tuple[ToolSpec, ...] = ()


Skill = Callable[[Scene], Iterator[Message]]
