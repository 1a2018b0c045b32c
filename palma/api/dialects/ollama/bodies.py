"""What clients of Ollama's chats and completions send, and how it becomes a request."""

from __future__ import annotations

from itertools import takewhile
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from palma.api.dialects.ollama.options import Options
from palma.api.dialects.ollama.turns import MessageBody, turns_of
from palma.api.fields import MAX_MESSAGES, NeutralOnly, bound_parts
from palma.api.ollama_shapes import KeepAlive, plain_name
from palma.api.structured_fields import plain_constraint
from palma.api.tool_fields import Offer, tool_use
from palma.api.wire import parse_body
from palma.core.errors import InvalidRequest
from palma.core.types import GenerationRequest, Message, Thinking


class AnswerBody(BaseModel):
    """What both bodies have; a level of thinking is a yes."""

    model_config = ConfigDict(strict=True, extra="forbid")

    model: str
    options: Options | None = None
    stream: bool | None = None
    think: bool | Literal["low", "medium", "high"] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    keep_alive: KeepAlive | None = None

    format: Literal["", "json"] | dict[str, Any] | None = None
    shift: Annotated[Any, NeutralOnly(False)] = None


Checked = TypeVar("Checked", bound=AnswerBody)

ChatMessages = Annotated[
    list[MessageBody],
    Field(max_length=MAX_MESSAGES, fail_fast=True),
    BeforeValidator(bound_parts),
]


class ChatBody(AnswerBody):
    """The body of a chat; a last turn of the assistant's is continued by the answer.

    Without messages it only asks whether the model is loaded. With `truncate` the oldest turns
    behind the system's are dropped where the window is too small for all; without, that is 400.
    """

    messages: ChatMessages = Field(default_factory=list)
    tools: Offer | None = None
    truncate: bool | None = None


class GenerateBody(AnswerBody):
    """The body of a completion: one user's message, or with `raw` a text to continue.

    Without a prompt it only asks whether the model is loaded.
    """

    prompt: str | None = None
    system: str | None = None
    raw: bool | None = None

    context: Annotated[Any, NeutralOnly([])] = None
    images: Annotated[Any, NeutralOnly([])] = None
    suffix: Annotated[Any, NeutralOnly("")] = None
    template: Annotated[Any, NeutralOnly("")] = None
    truncate: Annotated[Any, NeutralOnly(False)] = None


def parse_chat(body: dict[str, Any]) -> ChatBody:
    """Read the body of a chat; raises InvalidRequest where it is wrong."""
    return _checked(parse_body(ChatBody, body))


def parse_generate(body: dict[str, Any]) -> GenerateBody:
    """Read the body of a completion; raises InvalidRequest where it is wrong."""
    parsed = _checked(parse_body(GenerateBody, body))
    if parsed.raw and parsed.system:
        raise InvalidRequest("raw has no place for system; put it into the prompt", param="system")
    if parsed.raw and parsed.think:
        raise InvalidRequest("raw has no place for think; put it into the prompt", param="think")
    return parsed


def chat_request(body: ChatBody, request_id: str) -> GenerationRequest:
    """Translate a parsed chat; without messages the request has no prompt.

    Raises:
        InvalidRequest: Two tools have one name, or a result answers no call.
    """
    turns = turns_of(body.messages)
    num_system = len(list(takewhile(lambda turn: turn.role == "system", turns)))
    return _request(
        body,
        request_id,
        messages=turns,
        continue_final_message=_is_open(turns),
        num_fixed_messages=num_system if body.truncate else None,
        tool_use=tool_use([tool.function.tool for tool in body.tools or ()]),
    )


def generate_request(body: GenerateBody, request_id: str) -> GenerationRequest:
    """Translate a parsed completion; without a text the request has no prompt."""
    if not body.prompt:
        return _request(body, request_id)
    if body.raw:
        return _request(body, request_id, prompt=body.prompt)
    system = (Message("system", body.system),) if body.system else ()
    messages = (*system, Message("user", body.prompt))
    return _request(body, request_id, messages=messages, param="prompt")


def _is_open(turns: tuple[Message, ...]) -> bool:
    if not turns or turns[-1].role != "assistant":
        return False
    if turns[-1].tool_calls:
        raise InvalidRequest(
            "messages: the calls of the last turn wait for their results", param="messages"
        )
    return True


def _checked(body: Checked) -> Checked:
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidRequest("top_logprobs needs logprobs: true", param="top_logprobs")
    return body


def _request(body: AnswerBody, request_id: str, **prompt: Any) -> GenerationRequest:
    options = body.options or Options()
    wants_thought = None if body.think is None else bool(body.think)
    return GenerationRequest(
        request_id=request_id,
        model=plain_name(body.model),
        sampling_params=options.sampling_params(
            (body.top_logprobs or 0) if body.logprobs else None
        ),
        stop=tuple(options.stop),
        constraints=(form,) if (form := plain_constraint(body.format, "format")) else (),
        thinking=Thinking(wants_thought, param="think", switch_param="think"),
        max_model_len=options.num_ctx,
        **prompt,
    )
