"""Models that think before they answer: a mock that a request can tell not to, and a random one."""

from __future__ import annotations

import copy
import dataclasses
from concurrent.futures import Executor

from palma.core.config import Settings
from palma.core.types import ChatPrompt, Message
from palma.engine.base import Engine
from palma.engine.mock import MockTokenizer
from palma.models.tokenizer import HFTokenizer
from tests.spy_engine import Spy
from tests.structured_models import palmita_tokenizer, random_model

THOUGHT = "say <think>\nHm, hm.\n</think>\n\n"
"""Has the mock think before it says what follows."""

OVER = "<think>\n\n</think>\n\n"
"""Ends the prompt of an answer that shall begin at once."""

TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}<|eot_id|>{% endfor %}assistant: "
    "{% if enable_thinking is defined and not enable_thinking %}" + OVER + "{% else %}<think>\n"
    "{% endif %}"
)


class ThinkingTokenizer(MockTokenizer):
    """The mock's, with a switch for thinking, and a place for what was thought before."""

    chat_template = "{messages}<think>{reasoning_content}</think>{enable_thinking}"

    def render_chat(self, chat: ChatPrompt) -> str:
        """Return the turns, each with what was thought."""
        messages = tuple(map(_aloud, chat.messages))
        text = super().render_chat(dataclasses.replace(chat, messages=messages))
        return text + OVER if chat.enable_thinking is False else text


def _aloud(message: Message) -> Message:
    if not message.reasoning:
        return message
    content = f"<think>\n{message.reasoning}\n</think>\n\n{message.content}"
    return dataclasses.replace(message, content=content, reasoning="")


def thinking_mock() -> Spy:
    """Return a spy on a mock engine; `say <think>\\nHm.\\n</think>\\n\\nHi` has it think."""
    return Spy(tokenizer=ThinkingTokenizer())


def load_random_thinker(settings: Settings, executor: Executor) -> Engine:
    """Return an engine around a random model that thinks until its budget ends."""
    from palma.engine.threads import ThreadsEngine

    tokenizer = copy.deepcopy(palmita_tokenizer())
    tokenizer.chat_template = TEMPLATE
    loaded = dataclasses.replace(random_model(), tokenizer=HFTokenizer(tokenizer))
    return ThreadsEngine(loaded, executor, settings.threads_max_workers)
