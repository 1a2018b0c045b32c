"""What clients of Anthropic's messages send beside their turns, and how it becomes a request."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from palma.api.dialects.anthropic.blocks import (
    CacheControl,
    MessageBody,
    StrictBody,
    TextBlocks,
    conversation,
)
from palma.api.fields import Label, Messages, NeutralOnly, StopList, TopK, TopP
from palma.api.structured_fields import SchemaFormat
from palma.api.tool_fields import (
    MAX_TOOLS,
    Description,
    Parameters,
    ToolChoice,
    ToolName,
    tool_use,
)
from palma.core.errors import InvalidRequest
from palma.core.types import (
    Constraint,
    GenerationRequest,
    SamplingParams,
    Thinking,
    Tool,
    ToolUse,
)

Display = Literal["summarized", "omitted"]


def _only_custom(kind: Any) -> Any:
    if isinstance(kind, str) and kind != "custom":
        only = "only tools of the client's own, of type 'custom', are"
        raise PydanticCustomError("unsupported_value", f"{kind[:64]!r} is not supported: {only}")
    return kind


class ToolBody(StrictBody):
    """A tool of the client's. Its input is always held to the schema, so `strict` says nothing."""

    type: Annotated[
        Literal["custom"] | None,
        BeforeValidator(_only_custom, json_schema_input_type=Literal["custom"] | None),
    ] = None
    name: ToolName
    description: Description | None = None
    input_schema: Parameters
    cache_control: CacheControl = None
    strict: Annotated[bool | None, Label()] = None

    allowed_callers: Annotated[Any, NeutralOnly(["direct"])] = None
    defer_loading: Annotated[Any, NeutralOnly(False)] = None
    eager_input_streaming: Annotated[Any, NeutralOnly(True)] = None
    input_examples: Annotated[Any, NeutralOnly([])] = None

    @property
    def tool(self) -> Tool:
        """What it means."""
        return Tool(self.name, self.description or "", self.input_schema)


class CountedChoice(StrictBody):
    """Which tools the model is told of: none, or all."""

    type: Literal["auto", "any", "tool", "none"]
    name: ToolName | None = None
    disable_parallel_tool_use: Annotated[bool | None, Label()] = None

    @model_validator(mode="after")
    def _require_its_own_parts(self) -> Self:
        if (self.type == "tool") != (self.name is not None):
            raise ValueError("name goes with type tool, and only with that")
        if self.type == "none" and self.disable_parallel_tool_use is not None:
            raise ValueError("disable_parallel_tool_use has no place beside type none")
        return self

    @property
    def choice(self) -> ToolChoice:
        """What it means."""
        if self.type == "auto" or self.type == "none":
            return ToolChoice(self.type)
        return ToolChoice("required", self.name)


class ChoiceBody(CountedChoice):
    """Whether the model may, must or must not call tools, and how many calls it may make."""

    disable_parallel_tool_use: bool | None = None


class CountedThinking(StrictBody):
    """Whether the model is asked to think: it decides by itself if `adaptive`."""

    type: Literal["enabled", "adaptive", "disabled"]
    budget_tokens: Annotated[int | None, Field(ge=1), Label()] = None
    display: Annotated[str | None, Label()] = None

    @model_validator(mode="after")
    def _require_its_own_parts(self) -> Self:
        if (self.type == "enabled") != (self.budget_tokens is not None):
            raise ValueError("budget_tokens goes with type enabled, and only with that")
        if self.type == "disabled" and self.display is not None:
            raise ValueError("display has no place beside type disabled")
        return self

    @property
    def plan(self) -> Thinking:
        """What it means."""
        enabled = None if self.type == "adaptive" else self.type == "enabled"
        return Thinking(
            enabled,
            self.budget_tokens,
            param="thinking.budget_tokens",
            switch_param="thinking",
        )


class ThinkingBody(CountedThinking):
    """The same, and for how long it thinks; `omitted` thoughts leave an empty block."""

    budget_tokens: Annotated[int, Field(ge=1)] | None = None
    display: Display | None = None


class OutputConfig(StrictBody):
    """How the answer shall look."""

    format: SchemaFormat | None = None

    effort: Annotated[Any, NeutralOnly()] = None
    task_budget: Annotated[Any, NeutralOnly()] = None

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        """What was asked for."""
        return (self.format.constraint("output_config.format"),) if self.format else ()


class PromptBody(StrictBody):
    """What the prompt is made of: the body of a count."""

    model: str
    messages: Messages[MessageBody]
    system: TextBlocks | None = None
    tools: Annotated[list[ToolBody], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: CountedChoice | None = None
    thinking: CountedThinking | None = None

    cache_control: CacheControl = None
    output_config: Annotated[OutputConfig | None, Label()] = None

    speed: Annotated[Any, NeutralOnly("standard")] = None

    @property
    def tool_use(self) -> ToolUse | None:
        """What the answer may call.

        Raises:
            InvalidRequest: Two tools have one name, or the choice is of a tool that is not there.
        """
        chosen = self.tool_choice
        return tool_use(
            [tool.tool for tool in self.tools or ()],
            chosen.choice if chosen else None,
            parallel=not (chosen and chosen.disable_parallel_tool_use),
        )


class MessagesBody(PromptBody):
    """The body of a message; a last turn of the assistant's is continued by the answer."""

    output_config: OutputConfig | None = None
    tool_choice: ChoiceBody | None = None
    thinking: ThinkingBody | None = None
    max_tokens: Annotated[int, Field(ge=0)]
    temperature: Annotated[float, Field(ge=0, le=1)] = 1.0
    top_p: TopP | None = None
    top_k: TopK | None = None
    stop_sequences: StopList | None = None
    stream: bool | None = None

    metadata: Annotated[Any, Label()] = None

    container: Annotated[Any, NeutralOnly()] = None
    diagnostics: Annotated[Any, NeutralOnly()] = None
    inference_geo: Annotated[Any, NeutralOnly()] = None
    service_tier: Annotated[Any, NeutralOnly("auto", "standard_only")] = None
    thread: Annotated[Any, NeutralOnly()] = None

    @model_validator(mode="after")
    def _leave_room_for_the_answer(self) -> Self:
        budget = self.thinking.budget_tokens if self.thinking else None
        if budget is not None and budget >= self.max_tokens:
            raise InvalidRequest(
                f"thinking.budget_tokens is {budget}, and must be less than max_tokens, which is "
                f"{self.max_tokens}",
                param="thinking.budget_tokens",
            )
        return self

    @property
    def shows_thinking(self) -> bool:
        """Whether the client wants to read what the model thought."""
        return self.thinking is None or self.thinking.display != "omitted"


def to_request(
    body: MessagesBody, request_id: str, queue_timeout_s: float | None = None
) -> GenerationRequest:
    """Translate a parsed body; Anthropic's own default is to sample from the whole distribution.

    Raises:
        InvalidRequest: A field contradicts another.
    """
    sampling_params = SamplingParams(
        max_tokens=body.max_tokens,
        temperature=body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        top_k=body.top_k or 0,
    )
    return GenerationRequest(
        request_id=request_id,
        sampling_params=sampling_params,
        stop=tuple(body.stop_sequences or ()),
        constraints=body.output_config.constraints if body.output_config else (),
        queue_timeout_s=queue_timeout_s,
        **_prompt(body),
    )


def to_counting_request(body: PromptBody, request_id: str) -> GenerationRequest:
    """Translate the body of a count; raises what `to_request` does."""
    return GenerationRequest(request_id=request_id, **_prompt(body))


def _prompt(body: PromptBody) -> dict[str, Any]:
    return {
        "model": body.model,
        "messages": tuple(conversation(body.system or (), body.messages)),
        "continue_final_message": body.messages[-1].role == "assistant",
        "tool_use": body.tool_use,
        "thinking": body.thinking.plan if body.thinking else Thinking(),
    }
