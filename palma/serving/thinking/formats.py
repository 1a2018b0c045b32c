"""How families of models mark what they think, as data."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

SWITCH = re.compile(r"(?<![\w.'\"])enable_thinking\b(?!\s*=[^=])")
"""Where chat templates look at the variable that turns thinking on and off; some have one of that
name for themselves."""

ThinkingState = Literal["possible", "open", "over"]
"""Where an answer begins: before the opening mark, which need not come; behind it; behind the
closing one."""


@dataclass(frozen=True, slots=True)
class ThinkingFormat:
    """The marks around what a model thinks.

    Attributes:
        opening: Stands before it, at the answer's very beginning.
        closing: Stands behind it.
        separator: What the model is used to between the closing mark and its answer.
    """

    opening: str
    closing: str
    separator: str = ""


FORMATS = (
    ThinkingFormat("<|channel>thought\n", "<channel|>"),  # Gemma 4
    ThinkingFormat("[THINK]", "[/THINK]"),  # Magistral, Ministral
    ThinkingFormat("<seed:think>", "</seed:think>", "\n"),  # Seed
    ThinkingFormat("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A
    ThinkingFormat("<|inner_prefix|>", "<|inner_suffix|>"),  # Apertus
    ThinkingFormat("<thought>", "</thought>", "\n\n"),  # EXAONE Deep
    ThinkingFormat("<think>", "</think>", "\n\n"),  # Qwen, DeepSeek, GLM, Phi and many others
)


def thinking_format(chat_template: str) -> ThinkingFormat | None:
    """Return the marks that a chat template knows; None for a model that does not think aloud."""
    return next((fmt for fmt in FORMATS if _knows(chat_template, fmt)), None)


def has_switch(chat_template: str) -> bool:
    """Return whether a chat template lets a request turn thinking on and off."""
    return SWITCH.search(chat_template) is not None


def thinking_state(fmt: ThinkingFormat, prompt_end: str) -> ThinkingState:
    """Return where an answer begins.

    Args:
        fmt: The model's marks.
        prompt_end: The last text of the prompt, longer than the marks, control tokens spelled.
    """
    end = prompt_end.rstrip()
    if end.endswith(fmt.opening.rstrip()):
        return "open"
    return "over" if end.endswith(fmt.closing) else "possible"


def _knows(chat_template: str, fmt: ThinkingFormat) -> bool:
    """Gemma's opening has a line break, which stands in its template as `\\n`."""
    return fmt.opening.rstrip() in chat_template or fmt.closing in chat_template
