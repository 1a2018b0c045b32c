"""OpenAI's embeddings: POST /v1/embeddings, for texts or token ids, as numbers or base64.

The reference is the official `openai` package's types; its strict client is the judge.
"""

from __future__ import annotations

import asyncio
import base64
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, PlainValidator
from starlette.requests import Request
from starlette.responses import Response
from typing_extensions import TypedDict

from palma.api.fields import Label
from palma.api.openai_shapes import ErrorAnswer
from palma.api.operation import Dialect, Operation
from palma.api.wire import json_response, parse_body, read_json, wait_for
from palma.serving.embeddings import EmbeddingRequest, EmbeddingResult
from palma.serving.encoder_turns import Input

MAX_INPUTS = 2048
"""Source: OpenAI's API reference."""

MAX_TOKEN_IDS = 2**20
"""In one request, sent as ids: they are checked on the event loop, and so many take some 20 ms."""

EncodingFormat = Literal["float", "base64"]


def _as_inputs(value: Any) -> tuple[Input, ...]:
    """Take one text, a list of texts, the token ids of one, or a list of those."""
    if isinstance(value, str) or _is_token_ids(value):
        value = [value]
    if not isinstance(value, list) or not value:
        raise ValueError("it must be a text, token ids, or a list of either, and not empty")
    if len(value) > MAX_INPUTS:
        raise ValueError(f"it has {len(value)} parts; {MAX_INPUTS} are allowed")
    num_token_ids = sum(len(part) for part in value if isinstance(part, list))
    if num_token_ids > MAX_TOKEN_IDS:
        raise ValueError(f"it has {num_token_ids} token ids; {MAX_TOKEN_IDS} are allowed")
    return tuple(_as_input(number, part) for number, part in enumerate(value))


def _is_token_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and type(value[0]) is int


def _as_input(number: int, part: Any) -> Input:
    if part in ("", []):
        raise ValueError(f"part {number} of it is empty")
    if isinstance(part, str):
        return part
    if isinstance(part, list) and set(map(type, part)) == {int}:
        return tuple(part)
    raise ValueError(f"part {number} of it is neither a text nor a list of token ids")


class EmbeddingsBody(BaseModel):
    """The body of a request for embeddings."""

    model_config = ConfigDict(strict=True, extra="forbid")

    model: str
    input: Annotated[
        tuple[Input, ...],
        PlainValidator(
            _as_inputs, json_schema_input_type=str | list[str] | list[int] | list[list[int]]
        ),
    ]
    encoding_format: EncodingFormat | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None

    user: Annotated[Any, Label()] = None


class EmbeddingAnswer(TypedDict):
    """One embedding: numbers, or the base64 of little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingsUsage(TypedDict):
    """Measured token counts."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(TypedDict):
    """The embeddings, in the order of the inputs."""

    object: Literal["list"]
    data: list[EmbeddingAnswer]
    model: str
    usage: EmbeddingsUsage


def parse_embeddings(body: dict[str, Any], request_id: str) -> tuple[EmbeddingRequest, str]:
    """Read a body; return what is asked for, and the format of the answer.

    Raises:
        UnsupportedParameter: A field that would have no effect.
        InvalidRequest: A field is missing or wrong.
    """
    parsed = parse_body(EmbeddingsBody, body)
    request = EmbeddingRequest(request_id, parsed.input, parsed.model, parsed.dimensions)
    return request, parsed.encoding_format or "float"


async def embeddings(request: Request) -> Response:
    """POST /v1/embeddings."""
    wanted, encoding_format = parse_embeddings(await read_json(request), request.state.request_id)
    job = request.state.embeddings.embed(wanted)
    result = await wait_for(request, job, job.result())
    return json_response(await asyncio.to_thread(embeddings_answer, result, encoding_format))


def embeddings_answer(result: EmbeddingResult, encoding_format: str) -> dict[str, Any]:
    """Return an `EmbeddingsAnswer` whose numbers are JSON already: megabytes of it, at times."""
    encode = _base64 if encoding_format == "base64" else _numbers
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": orjson.Fragment(encode(vector))}
            for index, vector in enumerate(result.vectors)
        ],
        "model": result.model_id,
        "usage": {"prompt_tokens": result.num_tokens, "total_tokens": result.num_tokens},
    }


def _numbers(vector: Any) -> bytes:
    """Return the shortest decimals that are the same float32."""
    return orjson.dumps(vector, option=orjson.OPT_SERIALIZE_NUMPY)


def _base64(vector: Any) -> bytes:
    return b'"' + base64.b64encode(vector.astype("<f4").tobytes()) + b'"'


DIALECT = Dialect(
    name="OpenAI embeddings",
    operations=(
        Operation(
            "POST",
            "/v1/embeddings",
            embeddings,
            "Turn texts into vectors.",
            body=EmbeddingsBody,
            answer=EmbeddingsAnswer,
        ),
    ),
    error=ErrorAnswer,
)
