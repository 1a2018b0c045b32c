"""Reranking as Jina and Cohere have it: POST /v1/rerank, also at /v2/rerank and /rerank.

Their clients send the same fields to these paths. Errors come in OpenAI's envelope.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field
from starlette.requests import Request
from starlette.responses import Response
from typing_extensions import TypedDict

from palma.api.fields import Label, NeutralOnly
from palma.api.openai_shapes import ErrorAnswer
from palma.api.operation import Dialect, Operation
from palma.api.wire import json_response, parse_body, read_json, wait_for
from palma.serving.embeddings import RankingMethod, RankingRequest, RankingResult

MAX_DOCUMENTS = 1000

Text = Annotated[str, Field(min_length=1)]


class DocumentBody(BaseModel):
    """A document."""

    model_config = ConfigDict(strict=True, extra="forbid")

    text: Text


def _as_document(value: Any) -> Any:
    return {"text": value} if isinstance(value, str) else value


class RerankBody(BaseModel):
    """The body of a request for a ranking."""

    model_config = ConfigDict(strict=True, extra="forbid")

    model: str | None = None
    query: Text
    documents: Annotated[
        list[
            Annotated[
                DocumentBody,
                BeforeValidator(_as_document, json_schema_input_type=Text | DocumentBody),
            ]
        ],
        Field(min_length=1, max_length=MAX_DOCUMENTS),
        FailFast(),
    ]
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool | None = None

    user: Annotated[Any, Label()] = None

    max_chunks_per_doc: Annotated[Any, NeutralOnly()] = None
    max_tokens_per_doc: Annotated[Any, NeutralOnly()] = None
    priority: Annotated[Any, NeutralOnly(0)] = None
    rank_fields: Annotated[Any, NeutralOnly(["text"])] = None
    return_embeddings: Annotated[Any, NeutralOnly(False)] = None
    truncation: Annotated[Any, NeutralOnly(False)] = None


class DocumentAnswer(TypedDict):
    """A document, as it was sent."""

    text: str


class RankedAnswer(TypedDict):
    """Where a document stood in the request, and how well it fits the query."""

    index: int
    relevance_score: float
    document: NotRequired[DocumentAnswer]


class RerankUsage(TypedDict):
    """Measured token counts."""

    prompt_tokens: int
    total_tokens: int


class RerankAnswer(TypedDict):
    """The documents that fit best, the best one first.

    The scores of the method `cross_encoder` lie in [0, 1], those of `embedding_cosine` in [-1, 1].
    """

    id: str
    object: Literal["list"]
    model: str
    method: RankingMethod
    results: list[RankedAnswer]
    usage: RerankUsage


def to_request(body: RerankBody, request_id: str) -> RankingRequest:
    """Translate a parsed body."""
    documents = tuple(document.text for document in body.documents)
    return RankingRequest(request_id, body.query, documents, body.model)


async def rerank(request: Request) -> Response:
    """POST /v1/rerank."""
    body = parse_body(RerankBody, await read_json(request))
    job = request.state.embeddings.rank(to_request(body, request.state.request_id))
    result = await wait_for(request, job, job.result())
    return json_response(rerank_answer(job.public_id, body, result))


def rerank_answer(public_id: str, body: RerankBody, result: RankingResult) -> RerankAnswer:
    """Return the best documents, the best one first; equal ones stay in their order."""
    order = sorted(range(len(result.scores)), key=lambda index: -result.scores[index])
    results: list[RankedAnswer] = []
    for index in order[: body.top_n]:
        ranked: RankedAnswer = {"index": index, "relevance_score": result.scores[index]}
        if body.return_documents:
            ranked["document"] = {"text": body.documents[index].text}
        results.append(ranked)
    return {
        "id": f"rerank-{public_id}",
        "object": "list",
        "model": result.model_id,
        "method": result.method,
        "results": results,
        "usage": {"prompt_tokens": result.num_tokens, "total_tokens": result.num_tokens},
    }


DIALECT = Dialect(
    name="Reranking",
    operations=tuple(
        Operation(
            "POST",
            path,
            rerank,
            "Put documents in the order in which they fit a query.",
            body=RerankBody,
            answer=RerankAnswer,
        )
        for path in ("/v1/rerank", "/v2/rerank", "/rerank")
    ),
    error=ErrorAnswer,
)
