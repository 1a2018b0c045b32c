"""Ollama's embeddings: POST /api/embed, and /api/embeddings, which takes one text."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response
from typing_extensions import TypedDict

from palma.api.fields import NeutralOnly
from palma.api.ollama_shapes import PREFIX, ErrorAnswer, KeepAlive, drop_nulls, plain_name
from palma.api.operation import Dialect, Operation
from palma.api.wire import json_response, parse_body, read_json, wait_for
from palma.serving.embeddings import EmbeddingRequest, EmbeddingResult
from palma.serving.job import Job

MAX_INPUTS = 2048

NoOptions = Annotated[Any, NeutralOnly({}), BeforeValidator(drop_nulls)]
"""Nothing is sampled here: only options that are all null are taken."""

Inputs = Annotated[list[str], Field(min_length=1, max_length=MAX_INPUTS)]


class EmbedBody(BaseModel):
    """Texts to embed; one that is longer than the model's window is refused, not truncated."""

    model_config = ConfigDict(strict=True, extra="forbid")

    model: str
    input: Annotated[
        Inputs,
        BeforeValidator(
            lambda value: [value] if isinstance(value, str) else value,
            json_schema_input_type=str | Inputs,
        ),
    ]
    dimensions: Annotated[int, Field(ge=1)] | None = None

    keep_alive: KeepAlive | None = None

    options: NoOptions = None
    truncate: Annotated[Any, NeutralOnly(False)] = None


class EmbeddingsBody(BaseModel):
    """A text to embed, as clients sent it before there was /api/embed."""

    model_config = ConfigDict(strict=True, extra="forbid")

    model: str
    prompt: str

    keep_alive: KeepAlive | None = None

    options: NoOptions = None


class EmbedAnswer(TypedDict):
    """An embedding of length 1 for each text; durations are in nanoseconds."""

    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class EmbeddingsAnswer(TypedDict):
    """The embedding of the text, of length 1."""

    embedding: list[float]


async def embed(request: Request) -> Response:
    """POST /api/embed: an embedding for each text."""
    body = parse_body(EmbedBody, await read_json(request))
    asked = EmbeddingRequest(
        request_id=request.state.request_id,
        inputs=tuple(body.input),
        model=plain_name(body.model),
        dimensions=body.dimensions,
    )
    arrived_at = time.monotonic()
    result = await _result(request, asked)
    answer: EmbedAnswer = {
        "model": result.model_id,
        "embeddings": await asyncio.to_thread(result.vectors.tolist),
        "total_duration": round((time.monotonic() - arrived_at) * 1e9),
        "load_duration": 0,
        "prompt_eval_count": result.num_tokens,
    }
    return json_response(answer)


async def embeddings(request: Request) -> Response:
    """POST /api/embeddings: the embedding of one text."""
    body = parse_body(EmbeddingsBody, await read_json(request))
    asked = EmbeddingRequest(
        request_id=request.state.request_id, inputs=(body.prompt,), model=plain_name(body.model)
    )
    result = await _result(request, asked)
    answer: EmbeddingsAnswer = {"embedding": result.vectors[0].tolist()}
    return json_response(answer)


async def _result(request: Request, asked: EmbeddingRequest) -> EmbeddingResult:
    job: Job[EmbeddingResult] = request.state.embeddings.embed(asked)
    return await wait_for(request, job, job.result())


DIALECT = Dialect(
    name="Ollama embeddings",
    operations=(
        Operation(
            "POST",
            f"{PREFIX}/embed",
            embed,
            "Embed texts.",
            body=EmbedBody,
            answer=EmbedAnswer,
        ),
        Operation(
            "POST",
            f"{PREFIX}/embeddings",
            embeddings,
            "Embed one text.",
            body=EmbeddingsBody,
            answer=EmbeddingsAnswer,
        ),
    ),
    error=ErrorAnswer,
)
