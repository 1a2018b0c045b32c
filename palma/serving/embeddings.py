"""Embeddings and rankings: which model makes them, and the job that a request becomes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Coroutine, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np

from palma.core.config import Settings
from palma.core.errors import EngineFailure, InvalidRequest, PalmaError, RequestCancelled
from palma.core.model_card import ModelCard
from palma.core.telemetry import Telemetry
from palma.serving.chat_model_embeddings import embed_by_engine
from palma.serving.encoder_turns import EncoderTurns, Input
from palma.serving.encoders import EncoderPlan, EncoderSlot, LoadEncoder, Purpose, load_encoder
from palma.serving.instance import ServedModel
from palma.serving.job import Job
from palma.serving.service import GenerationService
from palma.serving.vectors import Vectors, cosine_similarities, shortened

logger = logging.getLogger(__name__)

T = TypeVar("T")

Model = EncoderSlot | ServedModel
"""What embeds: a model made for it, or a chat model."""

RankingMethod = Literal["cross_encoder", "embedding_cosine"]


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """Texts to embed.

    Attributes:
        request_id: Also the id in the log.
        inputs: At least one; texts, or token ids of the model's own vocabulary.
        model: The model asked for; None means EMBEDDING_MODEL_ID, else the default chat model.
        dimensions: How many numbers to keep of each embedding; None keeps all.
    """

    request_id: str
    inputs: tuple[Input, ...]
    model: str | None = None
    dimensions: int | None = None


@dataclass(frozen=True, slots=True)
class EmbeddingResult:
    """What a model made of texts.

    Attributes:
        model_id: The model that answered.
        vectors: (num_inputs, dim), in the order of the inputs.
        num_tokens: Of all inputs, what the model adds at their ends included.
    """

    model_id: str
    vectors: Vectors
    num_tokens: int


@dataclass(frozen=True, slots=True)
class RankingRequest:
    """Documents to be put in order.

    Attributes:
        request_id: Also the id in the log.
        query: What they should be about.
        documents: At least one.
        model: The model asked for; None means RERANK_MODEL_ID, else what embeds.
    """

    request_id: str
    query: str
    documents: tuple[str, ...]
    model: str | None = None


@dataclass(frozen=True, slots=True)
class RankingResult:
    """How well documents fit a query.

    Attributes:
        model_id: The model that answered.
        method: "cross_encoder" when a model read query and document together: its logit through
            a sigmoid, in [0, 1]. "embedding_cosine" otherwise, in [-1, 1].
        scores: Of each document, in the order of the documents.
        num_tokens: That were read.
    """

    model_id: str
    method: RankingMethod
    scores: tuple[float, ...]
    num_tokens: int


class EmbeddingService:
    """Turns requests into jobs, which hold a place in the queue like any generation.

    All methods belong to the event loop.

    Args:
        settings: Say on which device, and more.
        plans: The encoders that the settings ask for.
        service: Whose queue is shared, and whose models embed where there is no encoder.
        executor: Has a thread beside those that generate and tokenize.
        telemetry: Counts.
        load: Makes an encoder, on a thread of its own.
    """

    def __init__(
        self,
        settings: Settings,
        plans: Sequence[EncoderPlan],
        service: GenerationService,
        executor: Executor,
        telemetry: Telemetry,
        *,
        load: LoadEncoder = load_encoder,
    ) -> None:
        self._slots: dict[Purpose, EncoderSlot] = {
            plan.purpose: EncoderSlot(plan, settings, load) for plan in plans
        }
        self._service = service
        self._executor = executor
        self._telemetry = telemetry
        self._turns = EncoderTurns(executor, self._note_busy)

    async def load(self) -> None:
        """Load the encoders, in turn with other models; a failure is logged, and harms none."""
        for slot in self._slots.values():
            async with self._service.registry.turn:
                await slot.load()

    def close(self) -> None:
        """Free the encoders; no job runs any more."""
        for slot in self._slots.values():
            slot.close()

    def cards(self) -> list[ModelCard]:
        """Return the encoders that are ready."""
        return [slot.card for slot in self._slots.values() if slot.card is not None]

    def embed(self, request: EmbeddingRequest) -> Job[EmbeddingResult]:
        """Take a request in and return its answer to be.

        Raises:
            Draining: The server is shutting down.
            InvalidRequest: The model makes no embeddings.
            ModelNotFound, ModelLoading, Unavailable: See `ModelRegistry.get`.
            QueueFull: As many requests wait as may.
        """
        self._service.require_open()
        model = self._embedder(request.model)
        job = Job[EmbeddingResult](self._new_id(request.request_id, model))
        return self._start(job, model, self._embed(job, model, request), "embedded")

    def rank(self, request: RankingRequest) -> Job[RankingResult]:
        """Take a request in and return its answer to be; raises what `embed` does."""
        self._service.require_open()
        ranker = self._ranker(request.model)
        model = ranker or self._embedder(request.model)
        job = Job[RankingResult](self._new_id(request.request_id, model))
        work = (
            self._rank_by_cosine(job, model, request)
            if ranker is None
            else self._rank_pairs(ranker, request)
        )
        return self._start(job, model, work, "ranked")

    def _ranker(self, name: str | None) -> EncoderSlot | None:
        """Return the cross-encoder if it is meant by this name."""
        slot = self._slots.get("reranking")
        if slot is None or name not in (None, *slot.plan.names):
            return None
        slot.get()
        return slot

    def _embedder(self, name: str | None) -> Model:
        """Return what embeds under this name."""
        slot = self._slots.get("embedding")
        if slot is not None and name in (None, *slot.plan.names):
            slot.get()
            return slot
        if name is not None and (ranker := self._ranker(name)):
            raise InvalidRequest(
                f"{ranker.model_id} ranks documents and makes no embeddings", param="model"
            )
        return self._service.registry.get(name)

    def _new_id(self, request_id: str, model: Model) -> str:
        self._service.require_room(1, model)
        return self._service.new_id(request_id)

    def _start(
        self, job: Job[T], model: Model, work: Coroutine[Any, Any, T], outcome: str
    ) -> Job[T]:
        def end(_: object) -> None:
            work.close()  # it may never have begun
            model.end(job)
            self._record(job)

        model.begin(job)
        job.task = asyncio.create_task(self._run(job, work, outcome), name=job.engine_id)
        job.task.add_done_callback(end)
        self._service.track(job, job.task)
        return job

    async def _run(self, job: Job[T], work: Awaitable[T], outcome: str) -> None:
        """The background task of one job."""
        try:
            job.succeed(await work, outcome)
        except PalmaError as error:
            job.fail(error)
        except asyncio.CancelledError:
            job.fail(RequestCancelled("the request was cancelled"))
        except Exception:  # nobody awaits this task: an error lost here is a client that hangs
            logger.exception("%s: failed", job.engine_id)
            job.fail(EngineFailure("the request failed; the log says why"))

    def _record(self, job: Job[T]) -> None:
        duration_s = time.monotonic() - job.arrived_at
        self._telemetry.requests.labels(outcome=job.outcome).inc()
        self._telemetry.duration_s.observe(duration_s)
        logger.info("%s: %s after %.3f s", job.engine_id, job.outcome, duration_s)

    async def _embed(
        self, job: Job[EmbeddingResult], model: Model, request: EmbeddingRequest
    ) -> EmbeddingResult:
        result = await self._vectors(job, model, request.inputs, "input")
        if request.dimensions is None:
            return result
        short = await asyncio.to_thread(shortened, result.vectors, request.dimensions)
        return EmbeddingResult(result.model_id, short, result.num_tokens)

    async def _vectors(
        self, job: Job[T], model: Model, inputs: Sequence[Input], param: str
    ) -> EmbeddingResult:
        if isinstance(model, EncoderSlot):
            model_id = model.model_id
            rows, num_tokens = await self._compute(model, [(i,) for i in inputs], param)
        else:
            model_id = model.card.model_id
            rows, num_tokens = await embed_by_engine(
                model.engine, self._executor, job.engine_id, inputs, param=param
            )
            self._telemetry.prompt_tokens.inc(num_tokens)
        return EmbeddingResult(model_id, await asyncio.to_thread(np.stack, rows), num_tokens)

    async def _rank_pairs(self, ranker: EncoderSlot, request: RankingRequest) -> RankingResult:
        alone = [(request.query, "")]
        await self._turns.encode(ranker.get(), alone, param="query")  # to name the one at fault
        pairs = [(request.query, document) for document in request.documents]
        rows, num_tokens = await self._compute(ranker, pairs, "documents")
        scores = tuple(float(row[0]) for row in rows)
        return RankingResult(ranker.model_id, "cross_encoder", scores, num_tokens)

    async def _rank_by_cosine(
        self, job: Job[RankingResult], model: Model, request: RankingRequest
    ) -> RankingResult:
        query = await self._vectors(job, model, [request.query], "query")
        found = await self._vectors(job, model, request.documents, "documents")
        scores = await asyncio.to_thread(cosine_similarities, query.vectors[0], found.vectors)
        num_tokens = query.num_tokens + found.num_tokens
        return RankingResult(found.model_id, "embedding_cosine", tuple(scores), num_tokens)

    async def _compute(
        self, slot: EncoderSlot, inputs: Sequence[tuple[Input, ...]], param: str
    ) -> tuple[list[Vectors], int]:
        """Return the numbers of each input, and how many tokens they have together."""
        encoder = slot.get()
        encodings = await self._turns.encode(encoder, inputs, param=param)
        num_tokens = sum(len(encoding.token_ids) for encoding in encodings)
        self._telemetry.prompt_tokens.inc(num_tokens)
        return await self._turns.compute(encoder, encodings), num_tokens

    def _note_busy(self, change: int) -> None:
        self._service.num_running_elsewhere += change
