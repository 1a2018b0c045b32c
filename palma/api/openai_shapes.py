"""What OpenAI's routes share: the envelope of errors, usage, log-probabilities, text parts."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from palma.api.errors import status_code
from palma.api.fields import NeutralOnly
from palma.api.wire import shown
from palma.core.errors import PalmaError
from palma.core.types import ScoredToken, TokenText, Usage

DONE_DATA = "[DONE]"
DONE = f"data: {DONE_DATA}\n\n".encode()

ERROR_TYPES = {
    401: "authentication_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "service_unavailable_error",
}


class ErrorDetail(TypedDict):
    """What went wrong, for people and for programs."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorAnswer(TypedDict):
    """The envelope of every error."""

    error: ErrorDetail


class PromptTokensDetails(TypedDict):
    """How many prompt tokens were found in the prefix cache."""

    cached_tokens: int


class CompletionTokensDetails(TypedDict):
    """How many completion tokens were thoughts."""

    reasoning_tokens: int


class UsageAnswer(TypedDict):
    """Measured token counts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class TopLogprob(TypedDict):
    """A token that could have stood there."""

    token: str
    bytes: list[int]
    logprob: float


class TokenLogprob(TypedDict):
    """A token of the answer, with the likeliest in its place."""

    token: str
    bytes: list[int]
    logprob: float
    top_logprobs: list[TopLogprob]


class StreamOptions(BaseModel):
    """What a stream should contain beside the text."""

    model_config = ConfigDict(strict=True, extra="forbid")

    include_usage: bool = False
    include_obfuscation: Annotated[Any, NeutralOnly(False)] = None


def usage_answer(usage: Usage) -> UsageAnswer:
    """Return measured token counts in OpenAI's words."""
    return {
        "prompt_tokens": usage.num_prompt_tokens,
        "completion_tokens": usage.num_completion_tokens,
        "total_tokens": usage.num_prompt_tokens + usage.num_completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.num_cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.num_reasoning_tokens},
    }


def token_logprob(scored: ScoredToken) -> TokenLogprob:
    """Return a scored token in the words of chat completions and responses."""
    top_logprobs = [_top_logprob(rival) for rival in scored.top]
    return {**_top_logprob(scored.token), "top_logprobs": top_logprobs}


def error_answer(error: PalmaError) -> ErrorAnswer:
    """Return the envelope of an error."""
    status = status_code(error)
    kind = ERROR_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {
        "error": {
            "message": error.message,
            "type": kind,
            "param": error.param,
            "code": error.code,
        }
    }


TextContent = str | Annotated[list[dict[str, Any]], Field(min_length=1)]
"""What `join_text_parts` takes, for the documentation."""


def join_text_parts(content: Any) -> Any:
    """Join a list of text parts; other kinds of parts are refused by name."""
    if not isinstance(content, list) or not content:
        return content
    texts = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text":
            kind = part.get("type") if isinstance(part, dict) else part
            raise ValueError(f"this model takes only text parts, not {shown(kind)}")
        if part.keys() != {"type", "text"} or not isinstance(part["text"], str):
            raise ValueError('a text part is {"type": "text", "text": "..."}')
        texts.append(part["text"])
    return "".join(texts)


def _top_logprob(token: TokenText) -> TopLogprob:
    return {
        "token": token.text,
        "bytes": list(token.utf8),
        "logprob": token.logprob if token.logprob is not None else 0.0,
    }
