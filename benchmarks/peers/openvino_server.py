"""A small OpenAI-compatible server around OpenVINO GenAI's ContinuousBatchingPipeline.

    python openvino_server.py FOLDER PORT

Streamed chat completions with a fixed number of tokens, and nothing else: what a benchmark needs.
It runs in OpenVINO's own virtual environment, so it imports nothing of Palma. The pipeline is
stepped on one thread, which gets requests through a queue and passes token ids to the event loop.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import queue
import sys
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

KV_CACHE_GB = 2
MAX_RUNNING = 32


@dataclass
class Job:
    """One request: its prompt's ids, how many to generate, and where they go."""

    prompt_ids: list[int]
    max_tokens: int
    loop: asyncio.AbstractEventLoop
    tokens: asyncio.Queue[list[int] | None] = field(default_factory=asyncio.Queue)
    num_tokens: int = 0

    def send(self, token_ids: list[int] | None) -> None:
        """Pass new ids on, None at the end; from any thread."""
        self.loop.call_soon_threadsafe(self.tokens.put_nowait, token_ids)


class Stepper:
    """Owns the pipeline and the thread that steps it."""

    def __init__(self, folder: str) -> None:
        import openvino_genai

        self._genai: Any = openvino_genai
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = KV_CACHE_GB
        scheduler.max_num_seqs = MAX_RUNNING
        scheduler.enable_prefix_caching = False
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(folder, scheduler, "CPU")
        self._jobs: queue.Queue[Job] = queue.Queue()
        self._ids = itertools.count()
        threading.Thread(target=self._run, daemon=True).start()

    def submit(self, job: Job) -> None:
        """Queue a request; from any thread."""
        self._jobs.put(job)

    def _run(self) -> None:
        running: list[tuple[Any, Job]] = []
        while True:
            while not running or not self._jobs.empty():
                job = self._jobs.get()
                running.append((self._add(job), job))
            self._pipeline.step()
            running = [(handle, job) for handle, job in running if not self._pass_on(handle, job)]

    def _add(self, job: Job) -> Any:
        import numpy as np
        import openvino

        config = self._genai.GenerationConfig()
        config.max_new_tokens = job.max_tokens
        config.ignore_eos = True
        prompt = openvino.Tensor(np.array([job.prompt_ids], dtype=np.int64))
        return self._pipeline.add_request(next(self._ids), prompt, config)

    def _pass_on(self, handle: Any, job: Job) -> bool:
        """Send what a step made; returns whether the request is over."""
        while handle.can_read():
            for output in handle.read().values():
                job.num_tokens += len(output.generated_ids)
                job.send(list(output.generated_ids))
        is_over: bool = handle.get_status() != self._genai.GenerationStatus.RUNNING
        if is_over:
            job.send(None)
        return is_over


def make_app(folder: str) -> Any:
    """Load the model and return the application."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response, StreamingResponse
    from starlette.routing import Route
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    pieces = [tokenizer.decode([token_id]) for token_id in range(len(tokenizer))]
    stepper = Stepper(folder)

    async def models(_: Request) -> Response:
        return JSONResponse({"data": [{"id": "openvino"}]})

    async def chat(request: Request) -> Response:
        body = await request.json()
        prompt = tokenizer.apply_chat_template(
            body["messages"], tokenize=False, add_generation_prompt=True
        )
        prompt_ids = tokenizer.encode(prompt, add_special_tokens=False)
        job = Job(prompt_ids, body["max_tokens"], asyncio.get_running_loop())
        stepper.submit(job)
        return StreamingResponse(events(job, pieces), media_type="text/event-stream")

    return Starlette(
        routes=[
            Route("/v1/models", models),
            Route("/v1/chat/completions", chat, methods=["POST"]),
        ]
    )


async def events(job: Job, pieces: list[str]) -> AsyncIterator[str]:
    """Yield the answer's events; each token of these models is text of its own."""
    while (token_ids := await job.tokens.get()) is not None:
        text = "".join(pieces[token_id] for token_id in token_ids)
        yield event({"choices": [{"index": 0, "delta": {"content": text}}]})
    yield event({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]})
    usage = {"prompt_tokens": len(job.prompt_ids), "completion_tokens": job.num_tokens}
    yield event({"choices": [], "usage": usage})
    yield "data: [DONE]\n\n"


def event(body: dict[str, Any]) -> str:
    """Return one server-sent event."""
    return f"data: {json.dumps(body)}\n\n"


def main() -> None:
    """Serve the model that the command line names."""
    import uvicorn

    folder, port = sys.argv[1:]
    uvicorn.run(make_app(folder), host="127.0.0.1", port=int(port), log_level="warning")


if __name__ == "__main__":
    main()
