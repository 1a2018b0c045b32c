"""What a request for a chat completion may say, and the generation that it asks for."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from palma.api.dialects.openai_chat.turns import ChatTurn, conversation
from palma.api.fields import ExtendedSamplingBody, Label, MaxTokens, Messages, NeutralOnly
from palma.api.openai_shapes import StreamOptions
from palma.api.structured_fields import StructuredBody
from palma.api.thinking_fields import MixtureBody, PartsBody, ThinkingBody
from palma.api.tool_fields import (
    MAX_TOOLS,
    FunctionBody,
    FunctionName,
    Offer,
    ToolChoice,
    ToolChoiceBody,
    tool_use,
)
from palma.api.wire import parse_body
from palma.core.errors import InvalidRequest
from palma.core.types import GenerationRequest, ToolUse
from palma.serving.group import copies

MAX_CHOICES = 128


def _word_or_name(value: Any) -> Any:
    is_name = isinstance(value, dict) and value.keys() == {"name"}
    if value not in ("none", "auto") and not (is_name and isinstance(value["name"], str)):
        raise ValueError('must be "none", "auto" or {"name": "..."}')
    return value


class ToolsBody(BaseModel):
    """The fields that offer tools. The last two are the deprecated words for the first two.

    An answer to `functions` makes one call at most, and says so in the old words too.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    tools: Offer | None = None
    tool_choice: ToolChoiceBody | None = None
    parallel_tool_calls: bool | None = None
    functions: Annotated[list[FunctionBody], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = (
        None
    )
    function_call: (
        Annotated[Literal["none", "auto"] | FunctionName, BeforeValidator(_word_or_name)] | None
    ) = None

    @model_validator(mode="after")
    def _refuse_two_kinds(self) -> Self:
        if self.tools and self.functions:
            message = "functions is the deprecated word for tools; send only tools"
            raise InvalidRequest(message, param="functions")
        return self

    @property
    def tool_use(self) -> ToolUse | None:
        """What was asked for.

        Raises:
            InvalidRequest: Two tools have one name, or a choice is of a tool that is not there.
        """
        tools = [tool.function.tool for tool in self.tools or ()]
        choice = self.tool_choice.choice if self.tool_choice is not None else None
        use = tool_use(tools, choice, parallel=self.parallel_tool_calls is not False)
        functions = tool_use(
            [function.tool for function in self.functions or ()],
            self._function_choice(),
            parallel=False,
            param="functions",
            choice_param="function_call",
        )
        return use or functions

    def _function_choice(self) -> ToolChoice | None:
        asked = self.function_call
        if isinstance(asked, FunctionName):
            return ToolChoice("required", name=asked.name)
        return ToolChoice(asked) if asked is not None else None


class ChatBody(ExtendedSamplingBody, StructuredBody, ToolsBody, ThinkingBody, PartsBody):
    """The body of a chat completion."""

    model: str
    messages: Messages[ChatTurn]
    mixture_of_agents: MixtureBody | None = None
    max_completion_tokens: MaxTokens | None = None
    max_tokens: MaxTokens | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    metadata: Annotated[Any, Label()] = None
    prompt_cache_key: Annotated[Any, Label()] = None
    safety_identifier: Annotated[Any, Label()] = None
    store: Annotated[Any, Label()] = None
    user: Annotated[Any, Label()] = None

    audio: Annotated[Any, NeutralOnly()] = None
    modalities: Annotated[Any, NeutralOnly(["text"])] = None
    prediction: Annotated[Any, NeutralOnly()] = None
    service_tier: Annotated[Any, NeutralOnly("auto", "default")] = None
    verbosity: Annotated[Any, NeutralOnly()] = None
    web_search_options: Annotated[Any, NeutralOnly()] = None

    @property
    def is_streamed(self) -> bool:
        """Whether the answer goes out as events."""
        return bool(self.stream)

    @property
    def includes_usage(self) -> bool:
        """Whether the events end with the usage."""
        return self.stream_options is not None and self.stream_options.include_usage


class WholeChatBody(ChatBody):
    """The same on a route that never streams."""

    stream: Annotated[Any, NeutralOnly(False)] = None
    stream_options: Annotated[Any, NeutralOnly()] = None


class StreamedChatBody(ChatBody):
    """The same on a route that always streams."""

    stream: Annotated[Any, NeutralOnly(True)] = None

    @property
    def is_streamed(self) -> bool:
        """Always."""
        return True


def parse_chat(body: dict[str, Any], model: type[ChatBody] = ChatBody) -> ChatBody:
    """Read a body.

    Raises:
        UnsupportedParameter: A field or value that would have no effect.
        InvalidRequest: A field is missing, wrong or contradicts another.
    """
    parsed = parse_body(model, body)
    if parsed.stream_options is not None and not parsed.is_streamed:
        raise InvalidRequest("stream_options needs stream: true", param="stream_options")
    if parsed.top_logprobs is not None and not parsed.logprobs:
        raise InvalidRequest("top_logprobs needs logprobs: true", param="top_logprobs")
    if parsed.artifact_mode is not None:
        _check_artifact(parsed)
    if parsed.max_tokens is not None and parsed.max_completion_tokens not in (
        None,
        parsed.max_tokens,
    ):
        raise InvalidRequest(
            "max_tokens and max_completion_tokens differ; send only the second", param="max_tokens"
        )
    return parsed


def _check_artifact(body: ChatBody) -> None:
    """Refuse what answers in parts have no place for: the parts are the choices."""
    beside = {
        "n": (body.n or 1) > 1,
        "logprobs": body.logprobs,
        "tools": body.tools,
        "functions": body.functions,
    }
    for name, is_there in beside.items():
        if is_there:
            message = f"artifact and {name} cannot be combined; send one of them"
            raise InvalidRequest(message, param="artifact")


def to_requests(
    body: ChatBody, request_id: str, queue_timeout_s: float | None = None
) -> list[GenerationRequest]:
    """Translate a parsed body; OpenAI's own default is to sample from the whole distribution.

    Raises:
        InvalidRequest: The messages, or what is said about tools, do not fit together.
    """
    max_tokens = body.max_completion_tokens or body.max_tokens
    num_logprobs = {"num_logprobs": body.top_logprobs or 0} if body.logprobs else {}
    request = GenerationRequest(
        request_id=request_id,
        messages=conversation(body.messages),
        model=body.model,
        sampling_params=body.sampling_params(max_tokens, **num_logprobs),
        stop=tuple(body.stop or ()),
        constraints=body.constraints,
        tool_use=body.tool_use,
        thinking=body.thinking,
        queue_timeout_s=queue_timeout_s,
    )
    return copies(request, body.n or 1)
