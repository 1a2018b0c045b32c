"""What clients of Llama Stack's inference send, and how it becomes a request."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from palma.api.dialects.llama_stack.sampling import SamplingParamsBody, sampling_params
from palma.api.dialects.llama_stack.tools import PromptFormat, ToolBody, ToolConfig, choice_of
from palma.api.dialects.llama_stack.turns import Content, MessageBody, StrictBody
from palma.api.fields import Messages, TopK
from palma.api.structured_fields import schema_constraint
from palma.api.tool_fields import MAX_TOOLS, tool_use
from palma.core.errors import InvalidRequest
from palma.core.types import GenerationRequest, ToolUse


class LogprobsBody(StrictBody):
    """How many of the likeliest tokens to report in each place, the chosen one always."""

    top_k: Annotated[TopK, Field(le=20)] = 0


class ResponseFormatBody(StrictBody):
    """The form of the answer: a JSON schema; grammars in BNF are not taken."""

    type: Literal["json_schema"]
    json_schema: dict[str, Any]


class InferenceBody(StrictBody):
    """What both kinds of request have; `model` is the older name of `model_id`."""

    model: str | None = None
    model_id: str | None = None
    sampling_params: SamplingParamsBody | None = None
    stream: bool | None = None
    logprobs: LogprobsBody | None = None

    response_format: ResponseFormatBody | None = None


class CompletionBody(InferenceBody):
    """The body of a completion: a text to go on with."""

    content: Content


class ChatCompletionBody(InferenceBody):
    """The body of a chat completion; `tool_config` is the newer place of what is about tools."""

    messages: Messages[MessageBody]
    tools: Annotated[list[ToolBody], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: Literal["auto", "none", "required"] | None = None
    tool_config: ToolConfig | None = None
    tool_prompt_format: PromptFormat = None

    @property
    def tool_use(self) -> ToolUse | None:
        """What the answer may call.

        Raises:
            InvalidRequest: Two tools have one name, the choice is of a tool that is not there, or
                it stands in two places that differ.
        """
        chosen = self.tool_config.tool_choice if self.tool_config else None
        if chosen is None:
            chosen = self.tool_choice
        elif self.tool_choice not in (None, chosen):
            raise InvalidRequest(
                "tool_choice and tool_config.tool_choice differ; send only the second",
                param="tool_choice",
            )
        return tool_use([tool.tool for tool in self.tools or ()], choice_of(chosen))


def to_request(
    body: CompletionBody | ChatCompletionBody,
    request_id: str,
    queue_timeout_s: float | None = None,
) -> GenerationRequest:
    """Translate a parsed body.

    Raises:
        InvalidRequest: A field contradicts another, or no model is named.
    """
    content: dict[str, Any]
    if isinstance(body, CompletionBody):
        content = {"prompt": body.content, "param": "content"}
    else:
        turns = tuple(message.turn for message in body.messages)
        content = {"messages": turns, "tool_use": body.tool_use}
    params = body.sampling_params or SamplingParamsBody()
    num_logprobs = None if body.logprobs is None else body.logprobs.top_k
    form = body.response_format
    return GenerationRequest(
        request_id=request_id,
        constraints=(schema_constraint(form.json_schema, "response_format"),) if form else (),
        model=_model(body),
        sampling_params=sampling_params(params, num_logprobs),
        stop=tuple(params.stop or ()),
        max_tokens_is_default=params.max_tokens is None,
        queue_timeout_s=queue_timeout_s,
        **content,
    )


def _model(body: InferenceBody) -> str:
    names = {name for name in (body.model, body.model_id) if name is not None}
    if len(names) > 1:
        raise InvalidRequest("model and model_id differ; send only the second", param="model")
    if not names:
        raise InvalidRequest("model_id is missing", param="model_id")
    return names.pop()
