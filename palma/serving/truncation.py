"""Which of a conversation's oldest messages must go so that the rest fits into the window."""

from __future__ import annotations

import dataclasses

from palma.core.errors import ContextLengthExceeded
from palma.core.types import ChatPrompt, GenerationRequest, Message, Tokenizer
from palma.serving.prompt import encode_chat

ANSWER_SHARE = 4
"""One in so many tokens of the window stays free for an answer whose length was not chosen."""


def drop_oldest(
    request: GenerationRequest, chat: ChatPrompt, tokenizer: Tokenizer, max_model_len: int
) -> ChatPrompt:
    """Return the chat without the oldest messages that do not fit; tokenizes log(n) times.

    The first `num_fixed_messages` stay, and so does the last one, even if it does not fit. What is
    left does not begin with an answer whose question was dropped, or a result whose call was.
    """
    num_fixed = request.num_fixed_messages or 0
    fixed, others = chat.messages[:num_fixed], chat.messages[num_fixed:]
    budget = max_model_len - _answer_tokens(request, max_model_len)

    def fits(messages: tuple[Message, ...]) -> bool:
        return _fits(tokenizer, dataclasses.replace(chat, messages=messages), budget)

    if fits(chat.messages):
        return chat
    starts = [n for n in range(1, len(others)) if others[n].role not in ("assistant", "tool")]
    if not starts or starts[-1] != len(others) - 1:
        starts.append(max(0, len(others) - 1))
    low, high = 0, len(starts) - 1
    while low < high:
        middle = (low + high) // 2
        if fits(fixed + others[starts[middle] :]):
            high = middle
        else:
            low = middle + 1
    return dataclasses.replace(chat, messages=fixed + others[starts[low] :])


def _answer_tokens(request: GenerationRequest, max_model_len: int) -> int:
    asked = request.sampling_params.max_tokens
    if asked is None or asked >= max_model_len:
        return max(1, max_model_len // ANSWER_SHARE)
    return asked


def _fits(tokenizer: Tokenizer, chat: ChatPrompt, budget: int) -> bool:
    try:
        return len(encode_chat(tokenizer, chat, budget + 1)) <= budget
    except ContextLengthExceeded:
        return False
