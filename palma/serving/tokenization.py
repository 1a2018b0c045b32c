"""Text to token ids and back, for clients that count or look at tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from palma.core.types import ChatPrompt
from palma.engine.base import Engine, check_vocabulary
from palma.serving.prompt import encode_chat, refuse_hopeless_length


@dataclass(frozen=True, slots=True)
class Tokenized:
    """What a prompt is to the model.

    Attributes:
        token_ids: Its tokens; none for an empty text.
        texts: What each stands for by itself; bytes that are no character alone are U+FFFD.
        max_model_len: The model's window.
    """

    token_ids: list[int]
    texts: list[str]
    max_model_len: int


def tokenize(
    engine: Engine,
    prompt: str | ChatPrompt,
    *,
    add_special_tokens: bool = True,
) -> Tokenized:
    """Tokenize a raw text or a conversation as a request for an answer does.

    Args:
        engine: Its tokenizer is used.
        prompt: Control tokens that a raw text spells are parsed; those in messages are text.
        add_special_tokens: Whether a raw text gets what the model wants at its ends (as BOS).

    Raises:
        ChatTemplateRejected: The template does not accept the messages.
        ContextLengthExceeded: The text is too long for the window whatever its tokens are.
    """
    tokenizer, max_model_len = engine.tokenizer, engine.info.max_model_len
    if not isinstance(prompt, str):
        token_ids = encode_chat(tokenizer, prompt, max_model_len)
    else:
        refuse_hopeless_length(len(prompt), tokenizer.max_token_chars, max_model_len, "prompt")
        if add_special_tokens:
            token_ids = tokenizer.encode_prompt(prompt)
        else:
            token_ids = tokenizer.encode(prompt, parse_special=True)
    texts = [tokenizer.token_bytes(token_id).decode(errors="replace") for token_id in token_ids]
    return Tokenized(token_ids, texts, max_model_len)


def detokenize(engine: Engine, token_ids: Sequence[int]) -> str:
    """Return the text of token ids, control tokens spelled out.

    Raises:
        InvalidRequest: An id lies outside the vocabulary.
    """
    check_vocabulary("tokens", token_ids, engine.info)
    return engine.tokenizer.decode_prompt(list(token_ids))
