"""Which of a conversation's oldest messages must go so that the rest fits into the window."""

from __future__ import annotations

import dataclasses

from palma.core.errors import ContextLengthExceeded
from palma.core.types import GenerationRequest, Message, Tokenizer
from palma.serving.prompt import encode_chat

ANSWER_SHARE = 4
"""One in so many tokens of the window stays free for an answer whose length was not chosen."""


def drop_oldest(
    request: GenerationRequest, tokenizer: Tokenizer, max_model_len: int
) -> GenerationRequest:
    """Return the request without the oldest messages that do not fit; tokenizes log(n) times.

    The first `num_fixed_messages` stay, and so does the last one, even if it does not fit. What is
    left does not begin with an answer whose question was dropped.
    """
    num_fixed = request.num_fixed_messages or 0
    fixed, others = request.messages[:num_fixed], request.messages[num_fixed:]
    budget = max_model_len - _answer_tokens(request, max_model_len)
    if _fits(tokenizer, request.messages, budget):
        return request
    starts = [n for n in range(1, len(others)) if others[n].role != "assistant"]
    if not starts or starts[-1] != len(others) - 1:
        starts.append(max(0, len(others) - 1))
    low, high = 0, len(starts) - 1
    while low < high:
        middle = (low + high) // 2
        if _fits(tokenizer, fixed + others[starts[middle] :], budget):
            high = middle
        else:
            low = middle + 1
    return dataclasses.replace(request, messages=fixed + others[starts[low] :])


def _answer_tokens(request: GenerationRequest, max_model_len: int) -> int:
    asked = request.sampling_params.max_tokens
    if asked is None or asked >= max_model_len:
        return max(1, max_model_len // ANSWER_SHARE)
    return asked


def _fits(tokenizer: Tokenizer, messages: tuple[Message, ...], budget: int) -> bool:
    try:
        return len(encode_chat(tokenizer, messages, budget + 1)) <= budget
    except ContextLengthExceeded:
        return False
