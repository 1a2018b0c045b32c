"""One request from acceptance to its last chunk: queue bound, prompt, engine, deadline, counts."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import sys
import time
from collections.abc import Callable, Sized
from concurrent.futures import Executor
from typing import Protocol, TypeVar

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
from palma.core.types import ChatPrompt, GenerationRequest, Tokenizer
from palma.engine.base import (
    Engine,
    EngineRequest,
    TokenDelta,
    TokenMask,
    check_request,
    stop_token_ids,
)
from palma.serving.answer import AnswerBuilder, AnswerPlan
from palma.serving.form import AnswerForm, answer_form
from palma.serving.generation import Generation
from palma.serving.grammars import GrammarCompiler
from palma.serving.handover import Handover
from palma.serving.instance import ServedModel
from palma.serving.prompt import encode_chat, encode_raw, fit_to_window, settle_bias
from palma.serving.registry import ModelRegistry
from palma.serving.scored_tokens import text_offsets
from palma.serving.thinking.plan import Vocabularies, with_template
from palma.serving.tools.prompt import check_history
from palma.serving.truncation import drop_oldest

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_RETRY_AFTER_S = 60
"""Official SDKs give up on a Retry-After of more than two minutes."""

DRAINING_RETRY_AFTER_S = 5
"""By then a load balancer has noticed, or a new server has started."""


class Queue(Protocol):
    """A model and what it works on."""

    @property
    def in_flight(self) -> Sized:
        """Work that has been taken and has not ended."""


class Job(Protocol):
    """What holds a place in the queue: a generation, or work of another kind."""

    engine_id: str

    def fail(self, error: PalmaError) -> None:
        """End it with an error, unless it has ended."""


class GenerationService:
    """Takes requests and runs each in a background task of its own.

    At most THREADS_MAX_WORKERS requests of a model generate at once and MAX_WAITING_REQUESTS
    wait; the next one is refused at the door. All methods belong to the event loop.

    Args:
        settings: The server's.
        registry: Knows the models.
        executor: Where prompts are read; each engine has threads of its own.
        telemetry: Counts.
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
        self._in_flight: dict[str, tuple[Job, asyncio.Task[None]]] = {}
        self._num_counted = 0  # prompts whose tokens are being counted
        self.num_running_elsewhere = 0  # jobs that a model without an engine computes
        self._numbers = itertools.count()
        self._grammars = GrammarCompiler(executor)
        self._handover = Handover(asyncio.get_running_loop())
        self._vocabularies = Vocabularies()
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
        served = self._admit(requests)
        return [self._start(*pair) for pair in zip(requests, served, strict=True)]

    async def count_prompt_tokens(self, request: GenerationRequest) -> int:
        """Return how many tokens a request's prompt has, generating none; raises what `start` does.

        Raises:
            ContextLengthExceeded: The text is too long for the window whatever its tokens are.
        """

        def encode(engine: Engine) -> list[int]:
            chat = chat_prompt(request, engine.tokenizer)
            return _encode(request, chat, engine.tokenizer, engine.info.max_model_len)

        return len(await self.with_engine(request.model, encode))

    async def with_engine(self, model: str | None, use: Callable[[Engine], T]) -> T:
        """Run something with a model's engine where prompts are read, off the event loop.

        It raises what `start` and `use` raise, and counts as a request that waits.
        """
        self.require_open()
        served = self.registry.get(model)
        self.require_room(1, served)
        loop = asyncio.get_running_loop()
        self._num_counted += 1
        try:
            return await loop.run_in_executor(self._executor, use, served.engine)
        finally:
            self._num_counted -= 1

    def _admit(self, requests: list[GenerationRequest]) -> list[ServedModel]:
        """Look up the models of requests that may enter together."""
        self.require_open()
        served = [self.registry.get(request.model) for request in requests]
        for queue in {id(each): each for each in served}.values():
            self.require_room(sum(each is queue for each in served), queue)
        return served

    def require_open(self) -> None:
        """Raise Draining when the server takes nothing new."""
        if self.is_draining:
            raise Draining("the server is shutting down", retry_after_s=DRAINING_RETRY_AFTER_S)

    def require_room(self, num_requests: int, queue: Queue) -> None:
        """Refuse what does not fit into a model's queue.

        Raises:
            InvalidRequest: The requests are more than this server ever takes at once.
            QueueFull: As many requests wait as may.
        """
        if num_requests > self._max_in_flight:
            raise InvalidRequest(
                f"the request asks for {num_requests} answers, and this server works on at most "
                f"{self._max_in_flight} at a time; ask for fewer"
            )
        num_inside = len(queue.in_flight) + self._num_counted
        if num_inside + num_requests > self._max_in_flight:
            raise QueueFull(
                f"{num_inside} requests are running or waiting, and at most "
                f"{self._max_in_flight} may",
                retry_after_s=self._retry_after_s(),
            )

    def new_id(self, request_id: str) -> str:
        """Return an id for the engine that no other work has."""
        return f"{request_id}#{next(self._numbers)}"

    def track(self, job: Job, task: asyncio.Task[None]) -> None:
        """Give work of another kind a place in the queue until its task ends."""
        self._in_flight[job.engine_id] = (job, task)
        task.add_done_callback(lambda _: self._in_flight.pop(job.engine_id))

    def _start(self, request: GenerationRequest, served: ServedModel) -> Generation:
        generation = Generation(request, served, self.new_id(request.request_id))
        task = asyncio.create_task(self._run(generation), name=generation.engine_id)
        self._in_flight[generation.engine_id] = (generation, task)
        served.begin(generation)
        return generation

    @property
    def num_in_flight(self) -> int:
        """Requests that have been taken and not ended."""
        return len(self._in_flight)

    @property
    def num_running(self) -> int:
        """Requests that a model computes."""
        return self.registry.stats().num_running + self.num_running_elsewhere

    @property
    def num_waiting(self) -> int:
        """Requests taken that the engine does not compute yet."""
        return max(0, self.num_in_flight - self.num_running)

    def refuse_new_requests(self) -> None:
        """Take nothing new from now on; may be called from a signal handler."""
        self.is_draining = True

    def close(self) -> None:
        """End what `drain` leaves: the process in which grammars are tried."""
        self._grammars.close()

    async def drain(self, grace_s: float) -> None:
        """Take nothing new; give what runs `grace_s` seconds, then end it with an error."""
        self.refuse_new_requests()
        if tasks := [task for _, task in self._in_flight.values()]:
            await asyncio.wait(tasks, timeout=grace_s)
        for job, _ in list(self._in_flight.values()):
            message = "the server shut down before the answer was complete"
            job.fail(Draining(message, retry_after_s=DRAINING_RETRY_AFTER_S))

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
            generation.served.end(generation)
            del self._in_flight[generation.engine_id]
            self._record(generation)

    async def _submit(self, generation: Generation) -> None:
        """Tokenize on the executor, then hand the sequence to the engine."""
        loop = asyncio.get_running_loop()
        asked = generation.request
        engine = generation.served.engine
        form = await _form(asked, engine)
        mask = await self._grammars.mask(form.constraints, asked.sampling_params, engine)
        request, plan = await loop.run_in_executor(
            self._executor,
            _prepare,
            generation,
            form,
            mask,
            self._vocabularies,
            self._stream_interval_s,
        )
        if generation.ended.is_set():  # the client left meanwhile
            return
        builder = _answer_builder(generation, plan, self._handover)

        def sink(delta: TokenDelta) -> None:
            generation.note_progress(delta)
            if delta.started:
                self._handover.post(generation.started.set)
            builder(delta)

        engine.submit(request, sink)
        self._telemetry.prompt_tokens.inc(len(request.prompt_token_ids))
        generation.accept(len(request.prompt_token_ids))

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


async def _form(request: GenerationRequest, engine: Engine) -> AnswerForm:
    """Return the form of the answer; the schemas of many tools take some time to read."""
    if request.tool_use is None:
        return answer_form(request, engine)
    return await asyncio.to_thread(answer_form, request, engine)


def _prepare(
    generation: Generation,
    form: AnswerForm,
    mask: TokenMask | None,
    vocabularies: Vocabularies,
    interval_s: float,
) -> tuple[EngineRequest, AnswerPlan]:
    """Build the engine's request and the plan of its answer; runs on the executor."""
    request, engine = generation.request, generation.served.engine
    if generation.ended.is_set():
        raise RequestCancelled("the client left before its prompt was read")
    max_model_len = min(engine.info.max_model_len, request.max_model_len or sys.maxsize)
    chat = chat_prompt(request, engine.tokenizer)
    if request.num_fixed_messages is not None:
        whole = chat
        chat = drop_oldest(request, whole, engine.tokenizer, max_model_len)
        generation.num_dropped_messages = len(whole.messages) - len(chat.messages)
    prompt_token_ids = _encode(request, chat, engine.tokenizer, max_model_len)
    params = fit_to_window(request, len(prompt_token_ids), max_model_len)
    params = settle_bias(params, engine.tokenizer)
    if form.thinking is not None:
        mask = form.thinking.mask(mask, prompt_token_ids, params, engine, vocabularies)
    engine_request = EngineRequest(
        generation.engine_id,
        prompt_token_ids,
        params,
        token_mask=mask,
        wants_prompt_logprobs=request.echo and params.num_logprobs is not None,
    )
    if request.echo:  # ids from outside the vocabulary have no text
        check_request(engine_request, engine.info)
    return engine_request, _answer_plan(generation, engine_request, form, interval_s)


def chat_prompt(request: GenerationRequest, tokenizer: Tokenizer) -> ChatPrompt:
    """Return what the chat template is to render for a request.

    Raises:
        InvalidRequest: See `check_history`.
    """
    check_history(request.messages, request.prompt_param)
    use = request.tool_use
    chat = ChatPrompt(
        request.messages,
        use.tools if use is not None and use.choice != "none" else (),
        request.continue_final_message,
        request.thinking.enabled,
    )
    return with_template(chat, request, tokenizer.chat_template)


def _encode(
    request: GenerationRequest, chat: ChatPrompt, tokenizer: Tokenizer, max_model_len: int
) -> list[int]:
    plain = None if tokenizer.chat_template else request.plain_prompt
    prompt = plain if request.prompt is None else request.prompt
    if prompt is not None:
        return encode_raw(tokenizer, prompt, max_model_len, request.prompt_param)
    return encode_chat(tokenizer, chat, max_model_len, request.prompt_param)


def _answer_plan(
    generation: Generation, engine_request: EngineRequest, form: AnswerForm, interval_s: float
) -> AnswerPlan:
    """Say how the answer to a request is built."""
    request, engine = generation.request, generation.served.engine
    prompt_token_ids = list(engine_request.prompt_token_ids)
    echo, offsets = "", []
    if request.echo:
        is_text = isinstance(request.prompt, str)
        echo = str(request.prompt) if is_text else engine.tokenizer.decode_prompt(prompt_token_ids)
    if engine_request.wants_prompt_logprobs:
        offsets = text_offsets(engine.tokenizer, prompt_token_ids, echo)
    return AnswerPlan(
        tokenizer=engine.tokenizer,
        prompt_token_ids=prompt_token_ids,
        echo=echo,
        prompt_offsets=offsets,
        scores_end_token=request.scores_end_token,
        stop=request.stop,
        stop_token_ids=stop_token_ids(engine_request.sampling_params, engine.info),
        interval_s=interval_s,
        reader=form.reader(prompt_token_ids),
        marks=form.marks,
    )


def _answer_builder(generation: Generation, plan: AnswerPlan, handover: Handover) -> AnswerBuilder:
    """Connect the engine's thread to the generation on the event loop."""
    engine = generation.served.engine
    return AnswerBuilder(
        plan,
        emit=lambda chunk: handover.post(generation.push, chunk),
        fail=lambda error: handover.post(generation.fail, error),
        cancel=lambda: engine.cancel(generation.engine_id),
    )
