"""A response from its request to its end: what is known of it, in every state."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from palma.api.dialects.openai_responses.bodies import ResponseBody
from palma.api.dialects.openai_responses.context import message_of, turns_of
from palma.api.dialects.openai_responses.item_shapes import Item, OutputItem, new_id
from palma.api.dialects.openai_responses.shapes import (
    ErrorDetails,
    ResponseAnswer,
    ResponseUsage,
    Status,
)
from palma.core.errors import (
    InvalidRequest,
    PalmaError,
    QueueFull,
    QueueTimeout,
    RequestCancelled,
)
from palma.core.types import GenerationRequest, Message, SamplingParams, TextChunk, Usage
from palma.serving.generation import Generation


@dataclass(frozen=True, slots=True)
class Draft:
    """What a response will be.

    Attributes:
        body: What the client asked for.
        context: All items that the model reads, oldest first.
        num_new: So many of them, at the end, came with this request.
    """

    body: ResponseBody
    context: Sequence[Item]
    num_new: int
    response_id: str = field(default_factory=lambda: new_id("resp"))
    created_at: int = field(default_factory=lambda: int(time.time()))

    @property
    def is_stored(self) -> bool:
        """Whether the client wants to ask for it later."""
        return self.body.store is not False

    @property
    def new_items(self) -> Sequence[Item]:
        """The items that came with this request."""
        return self.context[len(self.context) - self.num_new :]

    def request(self, request_id: str, queue_timeout_s: float | None) -> GenerationRequest:
        """Translate the request; OpenAI's own default is to sample from the whole distribution."""
        body = self.body
        system = [Message("system", body.instructions)] if body.instructions else []
        return GenerationRequest(
            request_id=request_id,
            messages=(*system, *map(message_of, turns_of(self.context))),
            model=body.model,
            sampling_params=self.sampling_params(),
            stop=tuple(body.stop or ()),
            constraints=body.text.constraints if body.text else (),
            tool_use=body.tool_use,
            thinking=body.thinking,
            num_fixed_messages=len(system) if body.truncation == "auto" else None,
            queue_timeout_s=queue_timeout_s,
            param="input",
        )

    def sampling_params(self) -> SamplingParams:
        """Return how to sample."""
        num_logprobs = self.body.num_logprobs
        asked = {} if num_logprobs is None else {"num_logprobs": num_logprobs}
        return self.body.sampling_params(self.body.max_output_tokens, **asked)

    def answer(
        self,
        generation: Generation,
        status: Status,
        output: Sequence[OutputItem] = (),
        *,
        error: ErrorDetails | None = None,
        usage: Usage | None = None,
    ) -> ResponseAnswer:
        """Return the response in a state."""
        body, params = self.body, generation.request.sampling_params
        dropped = turns_of(self.context)[: generation.num_dropped_messages]
        return {
            "id": self.response_id,
            "object": "response",
            "created_at": self.created_at,
            "completed_at": int(time.time()) if status == "completed" else None,
            "status": status,
            "background": bool(body.background),
            "error": error,
            "incomplete_details": (
                {"reason": "max_output_tokens"} if status == "incomplete" else None
            ),
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "model": generation.served.card.model_id,
            "output": list(output),
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": body.previous_response_id,
            "conversation": {"id": body.conversation} if body.conversation is not None else None,
            "prompt_cache_key": body.prompt_cache_key,
            "reasoning": {
                "effort": body.reasoning.effort if body.reasoning else None,
                "summary": None,
            },
            "safety_identifier": body.safety_identifier,
            "service_tier": "default",
            "store": self.is_stored,
            "temperature": params.temperature,
            "text": {"format": body.text.format_answer if body.text else {"type": "text"}},
            "tool_choice": body.tool_choice.answer if body.tool_choice else "auto",
            "tools": [tool.answer for tool in body.tools or ()],
            "top_logprobs": params.num_logprobs or 0,
            "top_p": params.top_p,
            "truncation": body.truncation or "disabled",
            "truncated_items": [item["id"] for turn in dropped for item in turn],
            "usage": None if usage is None else usage_answer(usage),
            "user": body.user,
            "metadata": body.metadata or {},
        }

    def end_of(self, last: TextChunk) -> Literal["completed", "incomplete"]:
        """Return how the response ends: all is said or asked, or its tokens have run out."""
        return "incomplete" if last.finish_reason == "length" else "completed"

    def broken_off(
        self, generation: Generation, error: PalmaError, output: Sequence[OutputItem] = ()
    ) -> ResponseAnswer:
        """Return the response after an error or a cancellation, with what was made before it."""
        if isinstance(error, RequestCancelled):
            return self.answer(generation, "cancelled", output)
        return self.answer(generation, "failed", output, error=error_details(error))


def error_details(error: PalmaError) -> ErrorDetails:
    """Return an error in the words of a response that failed."""
    if isinstance(error, InvalidRequest):
        return {"code": "invalid_prompt", "message": error.message}
    if isinstance(error, QueueFull | QueueTimeout):
        return {"code": "rate_limit_exceeded", "message": error.message}
    return {"code": "server_error", "message": error.message}


def usage_answer(usage: Usage) -> ResponseUsage:
    """Return measured token counts in the words of responses."""
    return {
        "input_tokens": usage.num_prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.num_cached_tokens,
            "cache_write_tokens": 0,
        },
        "output_tokens": usage.num_completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.num_reasoning_tokens},
        "total_tokens": usage.num_prompt_tokens + usage.num_completion_tokens,
    }
