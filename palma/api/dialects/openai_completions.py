"""OpenAI's text completions: POST /v1/completions, whole or as a stream, with log-probabilities.

The reference is the official `openai` package's types. gallama's and cria's names for the route
are here too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, PlainValidator
from starlette.requests import Request
from starlette.responses import Response
from typing_extensions import TypedDict

from palma.api.fields import ExtendedSamplingBody, Label, NeutralOnly
from palma.api.openai_shapes import (
    DONE,
    DONE_DATA,
    ErrorAnswer,
    StreamOptions,
    UsageAnswer,
    error_answer,
    usage_answer,
)
from palma.api.operation import Dialect, Operation
from palma.api.structured_fields import StructuredBody
from palma.api.wire import (
    EventStream,
    event,
    json_response,
    parse_body,
    queue_timeout_s,
    read_json,
    wait_for,
)
from palma.core.errors import InvalidRequest, PalmaError
from palma.core.types import GenerationRequest, ScoredToken, TextChunk, TokenText
from palma.serving.generation import Completion
from palma.serving.group import GenerationGroup, copies, likeliest, total_usage

DEFAULT_MAX_TOKENS = 16
MAX_CHOICES = 128
MAX_ANSWERS = 4096
"""Of one request: prompts times `best_of`. They are made ready on the event loop."""

MAX_PROMPT_TOKENS = 2**20
"""Token ids of one request; they are checked on the event loop."""

FinishReason = Literal["stop", "length"]
RawPrompt = str | tuple[int, ...]


def _as_prompts(value: Any) -> tuple[RawPrompt, ...]:
    """Tell apart the four things that a prompt may be; the empty text begins a new document."""
    if value is None or isinstance(value, str):
        return (value or "",)
    prompts = value if isinstance(value, list) else []
    if prompts and not isinstance(prompts[0], str | list):
        prompts = [prompts]
    if prompts and isinstance(prompts[0], list):
        if sum(len(prompt) for prompt in prompts if isinstance(prompt, list)) > MAX_PROMPT_TOKENS:
            raise ValueError(f"must have at most {MAX_PROMPT_TOKENS} token ids")
        if all(isinstance(p, list) and set(map(type, p)) == {int} for p in prompts):
            return tuple(map(tuple, prompts))
    elif prompts and all(isinstance(prompt, str) for prompt in prompts):
        return tuple(prompts)
    raise ValueError(
        "must be a text, a list of texts, a list of token ids or a list of such lists, "
        "none of them empty"
    )


Prompts = Annotated[
    tuple[RawPrompt, ...],
    PlainValidator(
        _as_prompts, json_schema_input_type=str | list[str] | list[int] | list[list[int]] | None
    ),
]


class CompletionBody(ExtendedSamplingBody, StructuredBody):
    """The body of a completion."""

    model: str | None = None
    prompt: Prompts = ("",)
    best_of: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    suffix: Annotated[Any, NeutralOnly("")] = None
    user: Annotated[Any, Label()] = None

    @property
    def num_choices(self) -> int:
        """Answers to each prompt that the client gets."""
        return self.n or 1

    @property
    def num_candidates(self) -> int:
        """Answers to each prompt that are made."""
        return self.best_of or self.num_choices

    @property
    def is_streamed(self) -> bool:
        """Whether the answer goes out as events."""
        return bool(self.stream)


class WholeCompletionBody(CompletionBody):
    """The same on a route that never streams."""

    stream: Annotated[Any, NeutralOnly(False)] = None
    stream_options: Annotated[Any, NeutralOnly()] = None


class StreamedCompletionBody(CompletionBody):
    """The same on a route that always streams."""

    stream: Annotated[Any, NeutralOnly(True)] = None
    best_of: Annotated[Any, NeutralOnly(1)] = None

    @property
    def is_streamed(self) -> bool:
        """Always."""
        return True


class LogprobsAnswer(TypedDict):
    """The tokens of a text, and how likely they were: one entry a token in each list."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class ChoiceAnswer(TypedDict):
    """One of the answers, or news of it; those of the first prompt come first."""

    index: int
    text: str
    logprobs: LogprobsAnswer | None
    finish_reason: FinishReason | None


class CompletionAnswer(TypedDict):
    """A whole answer, or one event of a stream; the one with the usage has no choices."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[ChoiceAnswer]
    usage: NotRequired[UsageAnswer | None]


def parse_completion(
    body: dict[str, Any], model: type[CompletionBody] = CompletionBody
) -> CompletionBody:
    """Read a body.

    Raises:
        UnsupportedParameter: A field or value that would have no effect.
        InvalidRequest: A field is missing, wrong or contradicts another.
    """
    parsed = parse_body(model, body)
    if parsed.stream_options is not None and not parsed.is_streamed:
        raise InvalidRequest("stream_options needs stream: true", param="stream_options")
    if parsed.num_candidates < parsed.num_choices:
        raise InvalidRequest(
            f"best_of is {parsed.best_of}, less than the {parsed.n} of n", param="best_of"
        )
    if parsed.is_streamed and parsed.num_candidates > parsed.num_choices:
        raise InvalidRequest(
            "the best answers are known when all have ended: best_of needs stream: false",
            param="best_of",
        )
    if parsed.max_tokens == 0 and not parsed.echo:
        raise InvalidRequest("max_tokens 0 needs echo: true", param="max_tokens")
    if len(parsed.prompt) * parsed.num_candidates > MAX_ANSWERS:
        raise InvalidRequest(
            f"{len(parsed.prompt)} prompts with {parsed.num_candidates} answers each are more than "
            f"{MAX_ANSWERS} answers; send fewer",
            param="prompt",
        )
    return parsed


def to_requests(
    body: CompletionBody, request_id: str, queue_timeout_s: float | None = None
) -> list[GenerationRequest]:
    """Translate a parsed body: the candidates for the first prompt, then those for the second."""
    has_default = body.max_tokens is None
    is_scored = body.logprobs is not None or body.num_candidates > body.num_choices
    num_logprobs = {"num_logprobs": body.logprobs or 0} if is_scored else {}
    max_tokens = DEFAULT_MAX_TOKENS if has_default else body.max_tokens
    request = GenerationRequest(
        request_id=request_id,
        echo=bool(body.echo),
        scores_end_token=True,
        model=body.model,
        sampling_params=body.sampling_params(max_tokens, **num_logprobs),
        stop=tuple(body.stop or ()),
        constraints=body.constraints,
        max_tokens_is_default=has_default,
        queue_timeout_s=queue_timeout_s,
    )
    requests = []
    for prompt in body.prompt:
        requests += copies(dataclasses.replace(request, prompt=prompt), body.num_candidates)
    return requests


async def completions(request: Request) -> Response:
    """POST /v1/completions: JSON, or events when the body says `stream`."""
    return await _answer(request, parse_completion(await read_json(request)))


async def completions_full(request: Request) -> Response:
    """POST /v1/completions_full: cria's name for JSON."""
    return await _answer(request, parse_completion(await read_json(request), WholeCompletionBody))


async def completions_stream(request: Request) -> Response:
    """POST /v1/completions_stream: cria's name for events."""
    return await _answer(
        request, parse_completion(await read_json(request), StreamedCompletionBody)
    )


async def _answer(request: Request, body: CompletionBody) -> Response:
    requests = to_requests(body, request.state.request_id, queue_timeout_s(request))
    group = GenerationGroup(request.state.service.start_all(requests))
    if not body.is_streamed:
        whole = await wait_for(request, group, group.completions())
        return json_response(completion_answer(group, body, whole))
    await wait_for(request, group, group.accepted())
    return EventStream(completion_events(group, body), group, request.state.settings)


def completion_answer(
    group: GenerationGroup, body: CompletionBody, completions: list[Completion]
) -> CompletionAnswer:
    """Return the body of a whole answer.

    Args:
        group: What has been answered.
        body: What was asked.
        completions: All candidates, those for the same prompt in a row.
    """
    kept = []
    for start in range(0, len(completions), body.num_candidates):
        candidates = completions[start : start + body.num_candidates]
        if body.num_candidates > body.num_choices:
            candidates = likeliest(candidates, body.num_choices, has_echo=bool(body.echo))
        kept += candidates
    usages = [completion.usage for completion in completions]
    usage = usage_answer(total_usage(usages, num_prompts=len(body.prompt)))
    choices = [_choice(index, completion, body) for index, completion in enumerate(kept)]
    return {**_head(group), "choices": choices, "usage": usage}


async def completion_events(group: GenerationGroup, body: CompletionBody) -> AsyncIterator[bytes]:
    """Yield answers as events: text as it comes, the usage if asked, `[DONE]`.

    A failure is one event with the error and no `[DONE]`: official clients take a stream that
    merely ends for a success.
    """
    head = _head(group)
    include_usage = body.stream_options is not None and body.stream_options.include_usage
    if include_usage:
        head["usage"] = None
    usages = []
    try:
        async for batch in group.batches():
            choices = [_choice(index, chunk, body) for index, chunk in batch]
            yield b"".join(event({**head, "choices": [choice]}) for choice in choices)
            usages += [(index, chunk.usage) for index, chunk in batch if chunk.usage is not None]
        if include_usage:
            in_order = [usage for _, usage in sorted(usages, key=lambda pair: pair[0])]
            usage = usage_answer(total_usage(in_order, num_prompts=len(body.prompt)))
            yield event({**head, "usage": usage})
        yield DONE
    except PalmaError as error:
        yield event(error_answer(error))


def legacy_logprobs(scored_tokens: Sequence[ScoredToken]) -> LogprobsAnswer:
    """Return scored tokens in the words of this route; the prompt's first has no probability."""
    return {
        "tokens": [_spelling(scored.token) for scored in scored_tokens],
        "token_logprobs": [scored.token.logprob for scored in scored_tokens],
        "top_logprobs": [_top_logprobs(scored) for scored in scored_tokens],
        "text_offset": [scored.text_offset for scored in scored_tokens],
    }


def _top_logprobs(scored: ScoredToken) -> dict[str, float] | None:
    """Return the likeliest tokens, and the chosen one if it is not among them."""
    if scored.token.logprob is None:
        return None
    top: dict[str, float] = {}
    for token in (*scored.top, scored.token):  # two tokens may read the same: the likelier counts
        if token.logprob is not None:
            top.setdefault(_spelling(token), token.logprob)
    return top


def _spelling(token: TokenText) -> str:
    """Return a token's text, or its bytes where they are no text: OpenAI's way."""
    if token.text.encode() == token.utf8:
        return token.text
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.utf8)


def _choice(index: int, piece: Completion | TextChunk, body: CompletionBody) -> ChoiceAnswer:
    assert piece.finish_reason != "tool_calls", "a raw prompt offers no tools"
    has_logprobs = body.logprobs is not None
    return {
        "index": index,
        "text": piece.text,
        "logprobs": legacy_logprobs(piece.scored_tokens) if has_logprobs else None,
        "finish_reason": piece.finish_reason,
    }


def _head(group: GenerationGroup) -> CompletionAnswer:
    return {
        "id": f"cmpl-{group.public_id}",
        "object": "text_completion",
        "created": group.created,
        "model": group.served.card.model_id,
        "choices": [],
    }


DIALECT = Dialect(
    name="OpenAI completions",
    operations=(
        Operation(
            "POST",
            "/v1/completions",
            completions,
            "Continue a text.",
            body=CompletionBody,
            answer=CompletionAnswer,
            event=CompletionAnswer,
            last_event=DONE_DATA,
        ),
        Operation(
            "POST",
            "/v1/chat/generate",
            completions,
            "Continue a text: gallama's name for it.",
            body=CompletionBody,
            answer=CompletionAnswer,
            event=CompletionAnswer,
            last_event=DONE_DATA,
        ),
        Operation(
            "POST",
            "/v1/completions_full",
            completions_full,
            "Continue a text, never as a stream.",
            body=WholeCompletionBody,
            answer=CompletionAnswer,
        ),
        Operation(
            "POST",
            "/v1/completions_stream",
            completions_stream,
            "Continue a text, always as a stream.",
            body=StreamedCompletionBody,
            event=CompletionAnswer,
            last_event=DONE_DATA,
        ),
    ),
    error=ErrorAnswer,
)
