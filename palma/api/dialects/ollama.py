"""Ollama's answers: POST /api/chat and POST /api/generate, whole or as lines of JSON.

The reference is Ollama's own documentation; the official `ollama` package is the judge.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from itertools import takewhile
from typing import Annotated, Any, Literal, NotRequired, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, FailFast, Field, model_validator
from starlette.requests import Request
from starlette.responses import Response
from typing_extensions import TypedDict

from palma.api.fields import (
    MAX_MESSAGES,
    Label,
    MinP,
    Mirostat,
    NeutralOnly,
    Penalty,
    RepetitionPenalty,
    Seed,
    StopStrings,
    Temperature,
    TopK,
    TopP,
    TypicalP,
)
from palma.api.ollama_shapes import (
    PREFIX,
    ErrorAnswer,
    KeepAlive,
    allow_nulls,
    drop_nulls,
    error_answer,
    find_model,
    plain_name,
    timestamp,
)
from palma.api.openai_shapes import TokenLogprob, token_logprob
from palma.api.operation import Dialect, Operation
from palma.api.structured_fields import plain_constraint
from palma.api.wire import (
    LINES_MEDIA_TYPE,
    LineStream,
    json_response,
    line,
    parse_body,
    read_json,
    wait_for,
)
from palma.core.errors import InvalidRequest, PalmaError
from palma.core.types import GenerationRequest, Message, Role, SamplingParams, ScoredToken, Usage
from palma.serving.generation import Generation
from palma.serving.instance import ServedModel

DoneReason = Literal["stop", "length", "load"]


def _check_num_predict(value: int) -> int:
    if value < -2 or value == 0:
        raise ValueError("must be at least 1, or -1 or -2 for as many as fit")
    return value


class Options(BaseModel):
    """How to sample. What is left out, or null, has Ollama's own default."""

    model_config = ConfigDict(strict=True, extra="forbid", json_schema_extra=allow_nulls)

    temperature: Temperature = 0.8
    top_k: TopK = 40
    top_p: TopP = 0.9
    min_p: MinP = 0.0
    typical_p: TypicalP = 1.0
    repeat_penalty: RepetitionPenalty = 1.1
    repeat_last_n: Annotated[int, Field(ge=-1)] = 64
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    mirostat: Mirostat = 0
    mirostat_tau: Annotated[float, Field(ge=0, le=100)] = 5.0
    mirostat_eta: Annotated[float, Field(ge=0, le=1)] = 0.1
    seed: Seed = -1
    num_predict: Annotated[int, AfterValidator(_check_num_predict)] = -1
    num_ctx: Annotated[int, Field(ge=1)] | None = None
    stop: StopStrings = Field(default_factory=list)

    num_keep: Annotated[Any, Label()] = None

    embedding_only: Annotated[Any, NeutralOnly(False)] = None
    f16_kv: Annotated[Any, NeutralOnly()] = None
    logits_all: Annotated[Any, NeutralOnly(False)] = None
    low_vram: Annotated[Any, NeutralOnly(False)] = None
    main_gpu: Annotated[Any, NeutralOnly(0)] = None
    num_batch: Annotated[Any, NeutralOnly()] = None
    num_gpu: Annotated[Any, NeutralOnly(-1)] = None
    num_thread: Annotated[Any, NeutralOnly(0)] = None
    numa: Annotated[Any, NeutralOnly(False)] = None
    penalize_newline: Annotated[Any, NeutralOnly(True)] = None
    tfs_z: Annotated[Any, NeutralOnly(1)] = None
    use_mlock: Annotated[Any, NeutralOnly(False)] = None
    use_mmap: Annotated[Any, NeutralOnly()] = None
    vocab_only: Annotated[Any, NeutralOnly(False)] = None

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, options: Any) -> Any:
        return drop_nulls(options)

    def sampling_params(self, num_logprobs: int | None) -> SamplingParams:
        """Translate: -1 stands for a random seed, for all tokens, and for as many as fit."""
        return SamplingParams(
            max_tokens=None if self.num_predict < 0 else self.num_predict,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            typical_p=self.typical_p,
            repetition_penalty=self.repeat_penalty,
            repetition_window=None if self.repeat_last_n < 0 else self.repeat_last_n,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            mirostat=self.mirostat,
            mirostat_tau=self.mirostat_tau,
            mirostat_eta=self.mirostat_eta,
            seed=None if self.seed == -1 else self.seed,
            num_logprobs=num_logprobs,
        )


class AnswerBody(BaseModel):
    """What both bodies have."""

    model_config = ConfigDict(strict=True, extra="forbid")

    model: str
    options: Options | None = None
    stream: bool | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    keep_alive: KeepAlive | None = None

    format: Literal["", "json"] | dict[str, Any] | None = None
    shift: Annotated[Any, NeutralOnly(False)] = None
    think: Annotated[Any, NeutralOnly(False)] = None


Checked = TypeVar("Checked", bound=AnswerBody)


class ChatMessageBody(BaseModel):
    """One turn."""

    model_config = ConfigDict(strict=True, extra="forbid")

    role: Role
    content: str = ""

    images: Annotated[Any, NeutralOnly([])] = None
    thinking: Annotated[Any, NeutralOnly("")] = None
    tool_calls: Annotated[Any, NeutralOnly([])] = None
    tool_name: Annotated[Any, NeutralOnly("")] = None


ChatMessages = Annotated[list[ChatMessageBody], Field(max_length=MAX_MESSAGES), FailFast()]


class ChatBody(AnswerBody):
    """The body of a chat; a last turn of the assistant's is continued by the answer.

    Without messages it only asks whether the model is loaded. With `truncate` the oldest turns
    behind the system's are dropped where the window is too small for all; without, that is 400.
    """

    messages: ChatMessages = Field(default_factory=list)
    truncate: bool | None = None

    tools: Annotated[Any, NeutralOnly([])] = None


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


class AnswerPart(TypedDict):
    """What each line has, and the last one beside it; durations are in nanoseconds."""

    model: str
    created_at: str
    done: bool
    done_reason: NotRequired[DoneReason]
    logprobs: NotRequired[list[TokenLogprob]]
    total_duration: NotRequired[int]
    load_duration: NotRequired[int]
    prompt_eval_count: NotRequired[int]
    prompt_eval_duration: NotRequired[int]
    eval_count: NotRequired[int]
    eval_duration: NotRequired[int]


class MessageAnswer(TypedDict):
    """The assistant's turn, or a piece of it."""

    role: Literal["assistant"]
    content: str


class ChatAnswer(AnswerPart):
    """A whole chat answer, or a line of one."""

    message: MessageAnswer


class GenerateAnswer(AnswerPart):
    """A whole completion, or a line of one."""

    response: str


ChatLine = ChatAnswer | ErrorAnswer
GenerateLine = GenerateAnswer | ErrorAnswer

Say = Callable[[str], dict[str, Any]]
"""Puts text where the route has it."""


def parse_chat(body: dict[str, Any]) -> ChatBody:
    """Read the body of a chat; raises InvalidRequest where it is wrong."""
    return _checked(parse_body(ChatBody, body))


def parse_generate(body: dict[str, Any]) -> GenerateBody:
    """Read the body of a completion; raises InvalidRequest where it is wrong."""
    parsed = _checked(parse_body(GenerateBody, body))
    if parsed.raw and parsed.system:
        raise InvalidRequest("raw has no place for system; put it into the prompt", param="system")
    return parsed


def chat_request(body: ChatBody, request_id: str) -> GenerationRequest:
    """Translate a parsed chat; without messages the request has no prompt."""
    turns = body.messages
    num_system = len(list(takewhile(lambda turn: turn.role == "system", turns)))
    return _request(
        body,
        request_id,
        messages=tuple(Message(turn.role, turn.content) for turn in turns),
        continue_final_message=bool(turns) and turns[-1].role == "assistant",
        num_fixed_messages=num_system if body.truncate else None,
    )


def generate_request(body: GenerateBody, request_id: str) -> GenerationRequest:
    """Translate a parsed completion; without a text the request has no prompt."""
    if not body.prompt:
        return _request(body, request_id)
    if body.raw:
        return _request(body, request_id, prompt=body.prompt)
    system = (Message("system", body.system),) if body.system else ()
    return _request(body, request_id, messages=(*system, Message("user", body.prompt)))


async def chat(request: Request) -> Response:
    """POST /api/chat: lines of JSON, or one object when the body says `stream: false`."""
    body = parse_chat(await read_json(request))
    asked = chat_request(body, request.state.request_id)
    return await _respond(request, asked, _say_message, is_stream=body.stream is not False)


async def generate(request: Request) -> Response:
    """POST /api/generate: lines of JSON, or one object when the body says `stream: false`."""
    body = parse_generate(await read_json(request))
    asked = generate_request(body, request.state.request_id)
    return await _respond(request, asked, _say_response, is_stream=body.stream is not False)


async def whole_answer(generation: Generation, say: Say) -> dict[str, Any]:
    """Wait for the end and return the body of a whole answer."""
    completion = await generation.completion()
    return {
        **_head(generation.served),
        **say(completion.text),
        **_logprobs(generation, completion.scored_tokens),
        **_end(generation, completion.finish_reason, completion.usage),
    }


async def answer_lines(generation: Generation, say: Say) -> AsyncIterator[bytes]:
    """Yield an answer as lines; the last one is `done`, or says the error that ended it."""
    try:
        async for chunk in generation:
            if chunk.text or chunk.scored_tokens:
                logprobs = _logprobs(generation, chunk.scored_tokens)
                yield line(
                    {**_head(generation.served), **say(chunk.text), **logprobs, "done": False}
                )
            if chunk.finish_reason is not None and chunk.usage is not None:
                end = _end(generation, chunk.finish_reason, chunk.usage)
                yield line({**_head(generation.served), **say(""), **end})
    except PalmaError as error:
        yield line(error_answer(error))


def _checked(body: Checked) -> Checked:
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidRequest("top_logprobs needs logprobs: true", param="top_logprobs")
    return body


def _request(body: AnswerBody, request_id: str, **prompt: Any) -> GenerationRequest:
    options = body.options or Options()
    return GenerationRequest(
        request_id=request_id,
        model=plain_name(body.model),
        sampling_params=options.sampling_params(
            (body.top_logprobs or 0) if body.logprobs else None
        ),
        stop=tuple(options.stop),
        constraints=(form,) if (form := plain_constraint(body.format, "format")) else (),
        max_model_len=options.num_ctx,
        **prompt,
    )


async def _respond(
    request: Request, asked: GenerationRequest, say: Say, *, is_stream: bool
) -> Response:
    served = find_model(request, asked.model or "")
    if asked.prompt is None and not asked.messages:
        return json_response({**_head(served), **say(""), "done": True, "done_reason": "load"})
    _require_window(asked.max_model_len, served.card.max_model_len)
    generation: Generation = request.state.service.start(asked)
    if not is_stream:
        return json_response(await wait_for(request, generation, whole_answer(generation, say)))
    await wait_for(request, generation, generation.accepted())
    return LineStream(answer_lines(generation, say), generation, request.state.settings)


def _require_window(num_ctx: int | None, max_model_len: int) -> None:
    if num_ctx is not None and num_ctx > max_model_len:
        raise InvalidRequest(
            f"num_ctx is {num_ctx}, and this model's window holds {max_model_len} tokens; ask for "
            "no more, or leave it out",
            param="options.num_ctx",
        )


def _head(served: ServedModel) -> dict[str, Any]:
    return {"model": served.card.model_id, "created_at": timestamp(time.time())}


def _say_message(text: str) -> dict[str, Any]:
    message: MessageAnswer = {"role": "assistant", "content": text}
    return {"message": message}


def _say_response(text: str) -> dict[str, Any]:
    return {"response": text}


def _logprobs(
    generation: Generation, scored_tokens: tuple[ScoredToken, ...]
) -> dict[str, list[TokenLogprob]]:
    if generation.request.sampling_params.num_logprobs is None:
        return {}
    return {"logprobs": [token_logprob(scored) for scored in scored_tokens]}


def _end(generation: Generation, finish_reason: DoneReason, usage: Usage) -> dict[str, Any]:
    """Return what ends an answer; the model was loaded before the request came."""
    arrived_at = generation.arrived_at
    ended_at = generation.ended_at or time.monotonic()
    first_token_at = generation.first_token_at or ended_at
    return {
        "done": True,
        "done_reason": finish_reason,
        "total_duration": _nanoseconds(ended_at - arrived_at),
        "load_duration": 0,
        "prompt_eval_count": usage.num_prompt_tokens,
        "prompt_eval_duration": _nanoseconds(
            first_token_at - (generation.started_at or arrived_at)
        ),
        "eval_count": usage.num_completion_tokens,
        "eval_duration": _nanoseconds(ended_at - first_token_at),
    }


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


DIALECT = Dialect(
    name="Ollama answers",
    operations=(
        Operation(
            "POST",
            f"{PREFIX}/chat",
            chat,
            "Answer a conversation.",
            body=ChatBody,
            answer=ChatAnswer,
            event=ChatLine,
            media_type=LINES_MEDIA_TYPE,
        ),
        Operation(
            "POST",
            f"{PREFIX}/generate",
            generate,
            "Answer one message, or continue a raw text.",
            body=GenerateBody,
            answer=GenerateAnswer,
            event=GenerateLine,
            media_type=LINES_MEDIA_TYPE,
        ),
    ),
    error=ErrorAnswer,
)
