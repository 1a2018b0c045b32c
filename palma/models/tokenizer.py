"""A Transformers tokenizer as `palma.core.types.Tokenizer`, safe to use from many threads."""

from __future__ import annotations

import json
import logging
import threading
from typing import TYPE_CHECKING, Any, cast

from palma.core.errors import ChatTemplateRejected
from palma.core.types import ChatPrompt
from palma.models.chat_turns import TurnStyle, function, turns
from palma.models.token_bytes import TokenBytes
from palma.models.token_length import UNBOUNDED, max_token_chars

if TYPE_CHECKING:
    from tokenizers import Encoding
    from tokenizers import Tokenizer as Backend

logger = logging.getLogger(__name__)


class HFTokenizer:
    """Encodes, decodes and renders for one model.

    A fast tokenizer keeps "special tokens are plain text" as a state that all threads share, and
    changing it during a call of another thread mixes up both. So each of the two ways to encode
    has a backend of its own that never changes. A slow tokenizer has one, behind a lock.

    A model without a chat template gets a plain one: a line `System: ...`, `User: ...` or
    `Assistant: ...` for each message, then `Assistant:`.

    Args:
        tokenizer: A Transformers tokenizer that nobody else changes.

    Attributes:
        special_tokens: See `palma.core.types.Tokenizer`.
        chat_template: The same.
        max_token_chars: The same; `sys.maxsize` where a token can swallow any amount of text.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        definition = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else None
        self._backends = None if definition is None else _frozen_backends(definition)
        self.chat_template: str = _chat_template(tokenizer)
        self._turn_style = TurnStyle.of(self.chat_template)
        added = tokenizer.added_tokens_decoder.values()
        self.special_tokens: tuple[str, ...] = tuple(t.content for t in added if t.special)
        self._token_bytes = TokenBytes(tokenizer, definition)
        self.max_token_chars: int = (
            UNBOUNDED if definition is None else max_token_chars(json.loads(definition))
        )

    def encode(self, text: str, *, parse_special: bool) -> list[int]:
        """Return the token ids of `text`; nothing is added at its ends."""
        if self._backends is not None:
            backend = self._backends[parse_special]
            return encode_unlocked(backend, text, add_special_tokens=False).ids
        with self._lock:
            ids = self._tokenizer.encode(
                text, add_special_tokens=False, split_special_tokens=not parse_special
            )
        return cast("list[int]", ids)

    def encode_prompt(self, text: str) -> list[int]:
        """Return the ids of a raw prompt: with what the model wants at its ends (as BOS)."""
        if self._backends is not None:
            return encode_unlocked(self._backends[True], text).ids
        with self._lock:
            return cast("list[int]", self._tokenizer.encode(text))

    def definition(self) -> str | None:
        """Return the text of its `tokenizer.json`; None for a slow tokenizer."""
        return None if self._backends is None else self._backends[True].to_str()

    def token_bytes(self, token_id: int) -> bytes:
        """Return the UTF-8 bytes that one token stands for, a control token's spelling too."""
        return self._token_bytes.of(token_id)

    def decode(self, token_ids: list[int]) -> str:
        """Return the text of the ids, control tokens left out and spaces as they are."""
        return self._decode(token_ids, skip_special_tokens=True)

    def decode_prompt(self, token_ids: list[int]) -> str:
        """Return the text of the ids, control tokens spelled out."""
        return self._decode(token_ids, skip_special_tokens=False)

    def _decode(self, token_ids: list[int], *, skip_special_tokens: bool) -> str:
        if self._backends is not None:
            backend = self._backends[True]
            return backend.decode(token_ids, skip_special_tokens=skip_special_tokens)
        with self._lock:
            text = self._tokenizer.decode(
                token_ids,
                skip_special_tokens=skip_special_tokens,
                clean_up_tokenization_spaces=False,
            )
        return cast("str", text)

    def render_chat(self, chat: ChatPrompt) -> str:
        """Return the prompt text that asks for the next assistant turn, or for the last one's rest.

        Raises:
            ChatTemplateRejected: The template does not accept these messages, or cannot leave the
                last one open.
        """
        if not self.chat_template:
            return _plain_chat(chat)
        from jinja2 import TemplateError

        is_open = chat.continue_final_message
        try:
            return cast(
                "str",
                self._tokenizer.apply_chat_template(
                    turns(chat, self._turn_style),
                    tools=[function(tool) for tool in chat.tools] or None,
                    tokenize=False,
                    add_generation_prompt=not is_open,
                    continue_final_message=is_open,
                    **_template_options(chat),
                ),
            )
        except TemplateError as error:
            raise _rejected(error.message or type(error).__name__) from None
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            # Jinja lets the errors of the template's own expressions through as they are.
            cannot_continue = "it cannot leave the last message open; end with the user's"
            raise _rejected(cannot_continue if is_open else str(error)) from None


def encode_unlocked(
    backend: Backend, text: str | tuple[str, str], *, add_special_tokens: bool = True
) -> Encoding:
    """Encode a text or a pair; other threads go on meanwhile.

    `Backend.encode` holds Python's lock all the time, a second for 2 MB; batches do not.
    """
    return backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0]


def _rejected(reason: str) -> ChatTemplateRejected:
    line = " ".join(reason.split())
    return ChatTemplateRejected(f"The model's chat template refused: {line}", param="messages")


def _frozen_backends(definition: str) -> dict[bool, Backend]:
    """One backend per value of `parse_special`, from the text of a `tokenizer.json`."""
    from tokenizers import Tokenizer as Backend

    backends = {}
    for parse_special in (True, False):
        backend = Backend.from_str(definition)
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = not parse_special
        backends[parse_special] = backend
    return backends


def _chat_template(tokenizer: Any) -> str:
    try:
        return cast("str", tokenizer.get_chat_template())
    except ValueError:  # there is none, or several and none by default
        logger.warning("The model has no chat template: chats become plain `User: ...` lines")
        return ""


def _plain_chat(chat: ChatPrompt) -> str:
    lines = [f"{message.role.capitalize()}: {message.content}" for message in chat.messages]
    return "\n".join(lines if chat.continue_final_message else [*lines, "Assistant:"])


def _template_options(chat: ChatPrompt) -> dict[str, bool]:
    return {} if chat.enable_thinking is None else {"enable_thinking": chat.enable_thinking}
