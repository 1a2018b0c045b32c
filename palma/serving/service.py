"""One request from acceptance to its last chunk: queue bound, prompt, engine, deadline, counts."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import time
from concurrent.futures import Executor

from palma.core.config import Settings
from palma.core.errors import (
    Draining,
    EngineFailure,
    InvalidRequest,
    PalmaError,
    QueueFull,
    QueueTimeout,
    RequestCancelled,
)
from palma.core.telemetry import Telemetry
from palma.core.types import GenerationRequest
from palma.engine.base import EngineRequest, TokenDelta, stop_token_ids
from palma.serving.answer import AnswerBuilder, AnswerPlan
from palma.serving.generation import Generation
from palma.serving.prompt import encode_chat, encode_raw, fit_to_window
from palma.serving.registry import ModelRegistry, ServedModel

logger = logging.getLogger(__name__)

MAX_RETRY_AFTER_S = 60
"""Official SDKs give up on a Retry-After of more than two minutes."""

DRAINING_RETRY_AFTER_S = 5
"""By then a load balancer has noticed, or a new server has started."""


class GenerationService:
    """Takes requests and runs each in a background task of its own.

    At most THREADS_MAX_WORKERS requests generate at once and MAX_WAITING_REQUESTS wait; the
    next one is refused at the door. All methods belong to the event loop.
    """

    def __init__(
        self,
        settings: Settings,
        registry: ModelRegistry,
        executor: Executor,
        telemetry: Telemetry,
    ) -> None:
        self.registry = registry
        self.is_draining = False
        self._executor = executor
        self._telemetry = telemetry
        self._num_workers = settings.threads_max_workers
        self._stream_interval_s = settings.stream_interval_s
        self._max_in_flight = settings.threads_max_workers + settings.max_waiting_requests
        self._in_flight: dict[str, tuple[Generation, asyncio.Task[None]]] = {}
        self._numbers = itertools.count()
        self._mean_duration_s = 1.0

    def start(self, request: GenerationRequest) -> Generation:
        """Take a request in and return its answer to be.

        Raises:
            Draining: The server is shutting down.
            ModelNotFound, ModelLoading, Unavailable: See `ModelRegistry.get`.
            QueueFull: As many requests wait as may.
        """
        return self.start_all([request])[0]

    def start_all(self, requests: list[GenerationRequest]) -> list[Generation]:
        """Take all of these requests in or none; raises what `start` does, and

        Raises:
            InvalidRequest: They are more than this server ever takes at once.
        """
        if self.is_draining:
            raise Draining("the server is shutting down", retry_after_s=DRAINING_RETRY_AFTER_S)
        served = [self.registry.get(request.model) for request in requests]
        if len(requests) > self._max_in_flight:
            raise InvalidRequest(
                f"the request asks for {len(requests)} answers, and this server works on at most "
                f"{self._max_in_flight} at a time; ask for fewer"
            )
        if len(self._in_flight) + len(requests) > self._max_in_flight:
            raise QueueFull(
                f"{len(self._in_flight)} requests are running or waiting, and at most "
                f"{self._max_in_flight} may",
                retry_after_s=self._retry_after_s(),
            )
        return [self._start(*pair) for pair in zip(requests, served, strict=True)]

    def _start(self, request: GenerationRequest, served: ServedModel) -> Generation:
        generation = Generation(request, served, f"{request.request_id}#{next(self._numbers)}")
        task = asyncio.create_task(self._run(generation), name=generation.engine_id)
        self._in_flight[generation.engine_id] = (generation, task)
        return generation

    @property
    def num_in_flight(self) -> int:
        """Requests that have been taken and not ended."""
        return len(self._in_flight)

    @property
    def num_running(self) -> int:
        """Requests that the engine computes."""
        return self.registry.stats().num_running

    @property
    def num_waiting(self) -> int:
        """Requests taken that the engine does not compute yet."""
        return max(0, self.num_in_flight - self.num_running)

    def refuse_new_requests(self) -> None:
        """Take nothing new from now on; may be called from a signal handler."""
        self.is_draining = True

    async def drain(self, grace_s: float) -> None:
        """Take nothing new; give what runs `grace_s` seconds, then end it with an error."""
        self.refuse_new_requests()
        if tasks := [task for _, task in self._in_flight.values()]:
            await asyncio.wait(tasks, timeout=grace_s)
        for generation, _ in list(self._in_flight.values()):
            message = "the server shut down before the answer was complete"
            generation.fail(Draining(message, retry_after_s=DRAINING_RETRY_AFTER_S))

    async def _run(self, generation: Generation) -> None:
        """The background task of one request."""
        try:
            await self._submit(generation)
            await self._wait_for_turn(generation)
            await generation.ended.wait()
        except PalmaError as error:
            generation.fail(error)
        except Exception:  # nobody awaits this task: an error lost here is a client that hangs
            logger.exception("%s: failed before the engine had it", generation.engine_id)
            generation.fail(EngineFailure("the request failed; the log says why"))
        finally:
            generation.served.engine.cancel(generation.engine_id)
            del self._in_flight[generation.engine_id]
            self._record(generation)

    async def _submit(self, generation: Generation) -> None:
        """Tokenize on the executor, then hand the sequence to the engine."""
        loop = asyncio.get_running_loop()
        request, plan = await loop.run_in_executor(
            self._executor, _prepare, generation, self._stream_interval_s
        )
        if generation.ended.is_set():  # the client left meanwhile
            return
        builder = _answer_builder(generation, plan, loop)

        def sink(delta: TokenDelta) -> None:
            if delta.started:
                loop.call_soon_threadsafe(generation.started.set)
            builder(delta)

        generation.served.engine.submit(request, sink)
        self._telemetry.prompt_tokens.inc(len(request.prompt_token_ids))
        generation.accept()

    async def _wait_for_turn(self, generation: Generation) -> None:
        """Wait until the engine starts the sequence, no longer than the client would."""
        timeout_s = generation.request.queue_timeout_s
        if timeout_s is None:
            return
        waited_s = time.monotonic() - generation.arrived_at
        try:
            async with asyncio.timeout(max(0.0, timeout_s - waited_s)):
                await generation.started.wait()
        except TimeoutError:
            raise QueueTimeout(
                f"no worker was free within the {timeout_s:g} s that the client waits",
                retry_after_s=self._retry_after_s(),
            ) from None

    def _retry_after_s(self) -> int:
        """Estimate when a place in the queue is free: the mean duration of late requests."""
        return max(1, min(MAX_RETRY_AFTER_S, math.ceil(self._mean_duration_s / self._num_workers)))

    def _record(self, generation: Generation) -> None:
        duration_s = time.monotonic() - generation.arrived_at
        self._telemetry.requests.labels(outcome=generation.outcome).inc()
        self._telemetry.duration_s.observe(duration_s)
        if generation.first_text_at is not None:
            self._telemetry.ttft_s.observe(generation.first_text_at - generation.arrived_at)
        if generation.usage is not None:
            self._telemetry.completion_tokens.inc(generation.usage.num_completion_tokens)
            self._mean_duration_s += 0.2 * (duration_s - self._mean_duration_s)
        logger.info("%s: %s after %.3f s", generation.engine_id, generation.outcome, duration_s)


def _prepare(generation: Generation, interval_s: float) -> tuple[EngineRequest, AnswerPlan]:
    """Build the engine's request and the plan of its answer; runs on the executor."""
    request, engine = generation.request, generation.served.engine
    if generation.ended.is_set():
        raise RequestCancelled("the client left before its prompt was read")
    max_model_len = engine.info.max_model_len
    if request.prompt is None:
        prompt_token_ids = encode_chat(engine.tokenizer, request.messages, max_model_len)
    else:
        prompt_token_ids = encode_raw(engine.tokenizer, request.prompt, max_model_len)
    params = fit_to_window(request, len(prompt_token_ids), max_model_len)
    engine_request = EngineRequest(
        generation.engine_id,
        prompt_token_ids,
        params,
        wants_prompt_logprobs=request.echo and params.num_logprobs is not None,
    )
    return engine_request, _answer_plan(generation, engine_request, interval_s)


def _answer_plan(
    generation: Generation, engine_request: EngineRequest, interval_s: float
) -> AnswerPlan:
    """Say how the answer to a request is built."""
    request, engine = generation.request, generation.served.engine
    prompt_token_ids = list(engine_request.prompt_token_ids)
    echo = ""
    if request.echo:
        is_text = isinstance(request.prompt, str)
        echo = str(request.prompt) if is_text else engine.tokenizer.decode(prompt_token_ids)
    return AnswerPlan(
        tokenizer=engine.tokenizer,
        prompt_token_ids=prompt_token_ids,
        echo=echo,
        stop=request.stop,
        stop_token_ids=stop_token_ids(engine_request.sampling_params, engine.info),
        interval_s=interval_s,
    )


def _answer_builder(
    generation: Generation, plan: AnswerPlan, loop: asyncio.AbstractEventLoop
) -> AnswerBuilder:
    """Connect the engine's thread to the generation on the event loop."""
    engine = generation.served.engine
    return AnswerBuilder(
        plan,
        emit=lambda chunk: loop.call_soon_threadsafe(generation.push, chunk),
        fail=lambda error: loop.call_soon_threadsafe(generation.fail, error),
        cancel=lambda: engine.cancel(generation.engine_id),
    )
