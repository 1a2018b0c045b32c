"""From a request's messages to the token ids that an engine continues."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Iterator

from palma.core.errors import ChatTemplateRejected, ContextLengthExceeded, InvalidRequest
from palma.core.types import (
    ChatPrompt,
    GenerationRequest,
    Message,
    SamplingParams,
    Tokenizer,
    Tool,
    ToolCall,
)
from palma.serving.tools.prompt import fit_chat

MAX_BIASED_TOKENS = 1024
"""They are added up anew for every token of the completion."""


def encode_chat(
    tokenizer: Tokenizer, chat: ChatPrompt, max_model_len: int, param: str = "messages"
) -> list[int]:
    """Render the chat template and tokenize it; what users typed stays text.

    Tools and calls that the template does not know become text first.

    A user who spells a control token (`<|eot_id|>`) must not end a turn by it. Such spellings
    are taken out of the texts before the template sees them, and put back as plain text
    between the tokens of what surrounds them. Prompts without any are tokenized in one piece,
    exactly as `apply_chat_template` does.

    Raises:
        ChatTemplateRejected: The template does not accept the messages.
        ContextLengthExceeded: The text is too long for the window whatever its tokens are.
    """
    chat = fit_chat(chat, tokenizer.chat_template)
    num_chars = sum(map(len, _texts(chat)))
    refuse_hopeless_length(num_chars, tokenizer.max_token_chars, max_model_len, param)
    shield = _Shield(tokenizer.special_tokens, chat)
    try:
        prompt = tokenizer.render_chat(shield.cover(chat))
    except ChatTemplateRejected as error:
        error.param = param
        raise
    token_ids: list[int] = []
    for piece, is_covered in shield.split(prompt):
        token_ids += tokenizer.encode(piece, parse_special=not is_covered)
    return token_ids


def encode_raw(
    tokenizer: Tokenizer,
    prompt: str | tuple[int, ...],
    max_model_len: int,
    param: str = "prompt",
) -> list[int]:
    """Tokenize a raw prompt, control tokens included; ids are taken as they are.

    Raises:
        ContextLengthExceeded: The text is too long for the window whatever its tokens are.
        InvalidRequest: It has no tokens.
    """
    if isinstance(prompt, str):
        refuse_hopeless_length(len(prompt), tokenizer.max_token_chars, max_model_len, param)
        token_ids = tokenizer.encode_prompt(prompt)
    else:
        token_ids = list(prompt)
    if not token_ids:
        raise InvalidRequest(
            f"the {param} is empty, and this model has no token to begin a text with; send at "
            "least one character",
            param=param,
        )
    return token_ids


def settle_bias(params: SamplingParams, tokenizer: Tokenizer) -> SamplingParams:
    """Move `text_bias` into `logit_bias`: every token of a text gets the text's bias.

    Raises:
        InvalidRequest: The texts have too many tokens.
    """
    if not params.text_bias:
        return params
    bias = dict(params.logit_bias)
    for text, amount in params.text_bias.items():
        bias |= dict.fromkeys(tokenizer.encode(text, parse_special=True), amount)
    if len(bias) > MAX_BIASED_TOKENS:
        raise InvalidRequest(
            f"the texts in logit_bias have {len(bias)} tokens; {MAX_BIASED_TOKENS} are allowed",
            param="logit_bias",
        )
    return dataclasses.replace(params, logit_bias=bias, text_bias={})


def refuse_hopeless_length(
    num_chars: int, max_token_chars: int, max_model_len: int, param: str
) -> None:
    """Refuse a text that cannot fit before time is spent on tokenizing it.

    Raises:
        ContextLengthExceeded: Even tokens of the greatest length would be too many.
    """
    least_tokens = num_chars // max_token_chars
    if least_tokens >= max_model_len:
        raise ContextLengthExceeded(
            f"This model's window holds {max_model_len} tokens, and the {param} at least "
            f"{least_tokens}. Send less.",
            param=param,
        )


def fit_to_window(
    request: GenerationRequest, num_prompt_tokens: int, max_model_len: int
) -> SamplingParams:
    """Settle `max_tokens` for a prompt of this length.

    A bound that the client did not choose, or that is beyond the whole window ("as many as you
    can"), becomes what is left of the window. A chosen one that does not fit is refused.

    Raises:
        ContextLengthExceeded: The prompt fills the window, or prompt and `max_tokens` exceed it.
    """
    params = request.sampling_params
    param = request.prompt_param
    room = max_model_len - num_prompt_tokens
    asked = params.max_tokens
    if room < min(1, asked if asked is not None else 1):
        raise ContextLengthExceeded(
            f"This model's window holds {max_model_len} tokens, and the {param} "
            f"{num_prompt_tokens}. Send less.",
            param=param,
        )
    if asked is None or asked > max_model_len or (request.max_tokens_is_default and asked > room):
        return dataclasses.replace(params, max_tokens=room)
    if asked > room:
        raise ContextLengthExceeded(
            f"This model's window holds {max_model_len} tokens, and the request asks for "
            f"{num_prompt_tokens + asked} ({num_prompt_tokens} in the {param}, {asked} in the "
            f"completion). Ask for at most {room}, or send less.",
            param=param,
        )
    return params


def _texts(chat: ChatPrompt) -> Iterator[str]:
    """Yield all that clients wrote."""
    for message in chat.messages:
        yield message.content
        yield message.reasoning
        for call in message.tool_calls:
            yield call.name
            yield call.arguments
    for tool in chat.tools:
        yield from (tool.name, tool.description, tool.parameters)


class _Shield:
    """Covers spellings of control tokens with marks that occur nowhere in the chat.

    The marks are random. To look for unused ones would take minutes in a message full of marks.
    They are letters and digits, which no template escapes.
    """

    def __init__(self, special_tokens: tuple[str, ...], chat: ChatPrompt) -> None:
        texts = list(_texts(chat))
        self._special = [token for token in special_tokens if any(token in text for text in texts)]
        self._special.sort(key=len, reverse=True)  # the longest first: one may begin another
        nonce = secrets.token_hex(16)  # nobody can write it into a message beforehand
        self._marks = {
            token: f"cover{nonce}x{number}x" for number, token in enumerate(self._special)
        }

    def cover(self, chat: ChatPrompt) -> ChatPrompt:
        """Return the chat with each spelling replaced by its mark."""
        if not self._marks:
            return chat
        return dataclasses.replace(
            chat,
            messages=tuple(map(self._message, chat.messages)),
            tools=tuple(map(self._tool, chat.tools)),
        )

    def _message(self, message: Message) -> Message:
        calls = tuple(
            ToolCall(call.call_id, self._text(call.name), self._text(call.arguments))
            for call in message.tool_calls
        )
        return dataclasses.replace(
            message,
            content=self._text(message.content),
            reasoning=self._text(message.reasoning),
            tool_calls=calls,
        )

    def _tool(self, tool: Tool) -> Tool:
        texts = (tool.name, tool.description, tool.parameters)
        return Tool(*map(self._text, texts))

    def _text(self, text: str) -> str:
        for token, mark in self._marks.items():
            text = text.replace(token, mark)
        return text

    def split(self, prompt: str) -> list[tuple[str, bool]]:
        """Cut the prompt into pieces; True goes with a spelling that was covered."""
        pieces = [(prompt, False)]
        for token, mark in self._marks.items():
            pieces = [cut for piece in pieces for cut in _cut(piece, mark, token)]
        return [piece for piece in pieces if piece[0]]


def _cut(piece: tuple[str, bool], mark: str, token: str) -> list[tuple[str, bool]]:
    text, is_covered = piece
    if is_covered:
        return [piece]
    first, *rest = text.split(mark)
    cuts = [(first, False)]
    for part in rest:
        cuts += [(token, True), (part, False)]
    return cuts
