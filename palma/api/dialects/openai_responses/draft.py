"""A response from its request to its end: what is known of it, in every state."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from palma.api.dialects.openai_responses.bodies import ResponseBody, message_of, new_id, output_part
from palma.api.dialects.openai_responses.shapes import (
    ErrorDetails,
    MessageItem,
    MessageStatus,
    ResponseAnswer,
    ResponseUsage,
    Status,
)
from palma.api.openai_shapes import token_logprob
from palma.core.errors import (
    InvalidRequest,
    PalmaError,
    QueueFull,
    QueueTimeout,
    RequestCancelled,
)
from palma.core.types import GenerationRequest, Message, SamplingParams, ScoredToken, Usage
from palma.serving.generation import Completion, Generation


@dataclass(frozen=True, slots=True)
class Draft:
    """What a response will be.

    Attributes:
        body: What the client asked for.
        context: All items that the model reads, oldest first.
        num_new: So many of them, at the end, came with this request.
    """

    body: ResponseBody
    context: Sequence[MessageItem]
    num_new: int
    response_id: str = field(default_factory=lambda: new_id("resp"))
    message_id: str = field(default_factory=lambda: new_id("msg"))
    created_at: int = field(default_factory=lambda: int(time.time()))

    @property
    def is_stored(self) -> bool:
        """Whether the client wants to ask for it later."""
        return self.body.store is not False

    @property
    def new_items(self) -> Sequence[MessageItem]:
        """The items that came with this request."""
        return self.context[len(self.context) - self.num_new :]

    def request(self, request_id: str, queue_timeout_s: float | None) -> GenerationRequest:
        """Translate the request; OpenAI's own default is to sample from the whole distribution."""
        body = self.body
        system = [Message("system", body.instructions)] if body.instructions else []
        return GenerationRequest(
            request_id=request_id,
            messages=(*system, *map(message_of, self.context)),
            model=body.model,
            sampling_params=self.sampling_params(),
            stop=tuple(body.stop or ()),
            constraints=body.text.constraints if body.text else (),
            num_fixed_messages=len(system) if body.truncation == "auto" else None,
            queue_timeout_s=queue_timeout_s,
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
        output: Sequence[MessageItem] = (),
        *,
        error: ErrorDetails | None = None,
        usage: Usage | None = None,
    ) -> ResponseAnswer:
        """Return the response in a state."""
        body, params = self.body, generation.request.sampling_params
        num_dropped = generation.num_dropped_messages
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
            "reasoning": {"effort": None, "summary": None},
            "safety_identifier": body.safety_identifier,
            "service_tier": "default",
            "store": self.is_stored,
            "temperature": params.temperature,
            "text": {"format": body.text.format_answer if body.text else {"type": "text"}},
            "tool_choice": body.tool_choice or "auto",
            "tools": [],
            "top_logprobs": params.num_logprobs or 0,
            "top_p": params.top_p,
            "truncation": body.truncation or "disabled",
            "truncated_items": [item["id"] for item in self.context[:num_dropped]],
            "usage": None if usage is None else usage_answer(usage),
            "user": body.user,
            "metadata": body.metadata or {},
        }

    def message(
        self, text: str, scored_tokens: Sequence[ScoredToken], status: MessageStatus
    ) -> MessageItem:
        """Return what the model said."""
        logprobs = [token_logprob(scored) for scored in scored_tokens]
        return {
            "id": self.message_id,
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": [{**output_part(text), "logprobs": logprobs}],
        }

    def finished(self, generation: Generation, completion: Completion) -> ResponseAnswer:
        """Return the response when all is said, or its tokens have run out."""
        is_whole = completion.finish_reason == "stop"
        status: Literal["completed", "incomplete"] = "completed" if is_whole else "incomplete"
        output = [self.message(completion.text, completion.scored_tokens, status)]
        return self.answer(generation, status, output, usage=completion.usage)

    def broken_off(
        self,
        generation: Generation,
        error: PalmaError,
        text: str = "",
        scored_tokens: Sequence[ScoredToken] = (),
    ) -> ResponseAnswer:
        """Return the response after an error or a cancellation, with what was said before it."""
        output = [self.message(text, scored_tokens, "incomplete")] if text else []
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
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.num_prompt_tokens + usage.num_completion_tokens,
    }
