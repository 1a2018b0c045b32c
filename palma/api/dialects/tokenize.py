"""vLLM's POST /tokenize and POST /detokenize: text to token ids and back."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response
from typing_extensions import TypedDict

from palma.api.fields import Messages, NeutralOnly
from palma.api.openai_shapes import ErrorAnswer, TextContent, join_text_parts
from palma.api.operation import Dialect, Operation
from palma.api.wire import json_response, parse_body, read_json
from palma.core.errors import InvalidRequest, UnsupportedParameter
from palma.core.types import ChatPrompt, Message
from palma.serving.tokenization import detokenize, tokenize

MAX_TOKEN_IDS = 2**20
"""They are checked on the event loop."""


class TurnBody(BaseModel):
    """One turn of a conversation; `developer` is OpenAI's newer word for `system`."""

    model_config = ConfigDict(strict=True, extra="forbid")

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(join_text_parts, json_schema_input_type=TextContent)]

    def to_message(self) -> Message:
        """Return the turn in the server's own words."""
        return Message("system" if self.role == "developer" else self.role, self.content)


class TokenizeBody(BaseModel):
    """A raw text or a conversation."""

    model_config = ConfigDict(strict=True, extra="forbid")

    model: str | None = None
    prompt: str | None = None
    messages: Messages[TurnBody] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    return_token_strs: bool | None = None

    chat_template: Annotated[Any, NeutralOnly()] = None
    chat_template_kwargs: Annotated[Any, NeutralOnly({})] = None
    media_io_kwargs: Annotated[Any, NeutralOnly({})] = None
    mm_processor_kwargs: Annotated[Any, NeutralOnly({})] = None
    tools: Annotated[Any, NeutralOnly([])] = None


class DetokenizeBody(BaseModel):
    """Token ids."""

    model_config = ConfigDict(strict=True, extra="forbid")

    model: str | None = None
    tokens: Annotated[list[int], Field(max_length=MAX_TOKEN_IDS, fail_fast=True)]


class TokenizeAnswer(TypedDict):
    """Token ids, and their texts if asked for."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeAnswer(TypedDict):
    """The text, control tokens spelled out."""

    prompt: str


def parse_tokenize(body: dict[str, Any]) -> TokenizeBody:
    """Read a body.

    Raises:
        UnsupportedParameter: A field or value that would have no effect.
        InvalidRequest: A field is missing, wrong or contradicts another.
    """
    parsed = parse_body(TokenizeBody, body)
    if parsed.prompt is None:
        _check_chat(parsed)
    else:
        _check_text(parsed)
    return parsed


def _check_chat(body: TokenizeBody) -> None:
    if not body.messages:
        raise InvalidRequest("prompt is missing; so are messages", param="prompt")
    if body.add_special_tokens:
        raise UnsupportedParameter(
            "add_special_tokens is not for messages: their template has them all",
            param="add_special_tokens",
        )
    if bool(body.continue_final_message) == (body.add_generation_prompt is not False):
        raise InvalidRequest(
            "the prompt ends with the generation prompt or in the final message: "
            "add_generation_prompt is the contrary of continue_final_message",
            param="add_generation_prompt",
        )
    if body.continue_final_message and body.messages[-1].role != "assistant":
        raise InvalidRequest(
            "continue_final_message needs a last message of the assistant",
            param="continue_final_message",
        )


def _check_text(body: TokenizeBody) -> None:
    if body.messages:
        raise InvalidRequest("send prompt or messages, not both", param="messages")
    if body.add_generation_prompt is not None or body.continue_final_message is not None:
        raise InvalidRequest(
            "add_generation_prompt and continue_final_message are for messages",
            param="add_generation_prompt",
        )


async def tokenize_prompt(request: Request) -> Response:
    """POST /tokenize."""
    body = parse_tokenize(await read_json(request))
    messages = tuple(turn.to_message() for turn in body.messages or ())
    chat = ChatPrompt(messages, continue_final_message=bool(body.continue_final_message))
    work = partial(
        tokenize,
        prompt=chat if body.prompt is None else body.prompt,
        add_special_tokens=body.add_special_tokens is not False,
    )
    tokenized = await request.state.service.with_engine(body.model, work)
    answer: TokenizeAnswer = {
        "count": len(tokenized.token_ids),
        "max_model_len": tokenized.max_model_len,
        "tokens": tokenized.token_ids,
        "token_strs": tokenized.texts if body.return_token_strs else None,
    }
    return json_response(answer)


async def detokenize_tokens(request: Request) -> Response:
    """POST /detokenize."""
    body = parse_body(DetokenizeBody, await read_json(request))
    work = partial(detokenize, token_ids=body.tokens)
    answer: DetokenizeAnswer = {"prompt": await request.state.service.with_engine(body.model, work)}
    return json_response(answer)


DIALECT = Dialect(
    name="vLLM tokens",
    operations=(
        Operation(
            "POST",
            "/tokenize",
            tokenize_prompt,
            "Turn a text or a conversation into token ids.",
            body=TokenizeBody,
            answer=TokenizeAnswer,
        ),
        Operation(
            "POST",
            "/detokenize",
            detokenize_tokens,
            "Turn token ids into text.",
            body=DetokenizeBody,
            answer=DetokenizeAnswer,
        ),
    ),
    error=ErrorAnswer,
)
