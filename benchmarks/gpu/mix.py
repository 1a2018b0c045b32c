"""Many requests of many lengths, all submitted at once: in this process, then through HTTP."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from typing import Any

import httpx

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.decode import draw_prompt
from benchmarks.gpu.streams import duration_s, run_all, tokens_per_s
from benchmarks.gpu.table import Goal
from benchmarks.gpu.workload import Job, draw_jobs
from palma.bench.summary import percentile
from palma.core.config import Settings
from palma.core.types import Tokenizer
from palma.engine.base import Engine, EngineRequest, EngineStats, Sink

HTTP_GOAL = Goal(0.90, 0.97, "%")
IN_PROCESS_SEED, HTTP_SEED, WARMUP_SEED = 1, 2, 3
NUM_WARMUPS = 4
NUM_COMPARED_TOKENS = 8
"""How many first tokens of each answer are kept, to be compared with the peer's."""


def mix256(bench: Bench) -> None:
    """The list in this process, after a few other requests."""
    others = draw_jobs(bench.workload, bench.model.word_token_ids, WARMUP_SEED)[:NUM_WARMUPS]
    run_all(bench.engine, others, bench.left_s)
    jobs = draw_jobs(bench.workload, bench.model.word_token_ids, IN_PROCESS_SEED)
    streams = run_all(bench.engine, jobs, bench.left_s)
    rate = tokens_per_s(streams)
    ttfts = sorted(stream.ttft_s for stream in streams)
    bench.note(
        tokens_per_s=rate,
        duration_s=duration_s(streams),
        num_output_tokens=sum(job.num_tokens for job in jobs),
        num_prompt_tokens=sum(len(job.prompt_token_ids) for job in jobs),
        ttft_p50_s=percentile(ttfts, 50),
        ttft_p99_s=percentile(ttfts, 99),
        first_tokens=[stream.token_ids[:NUM_COMPARED_TOKENS] for stream in streams],
    )
    bench.add(
        f"{len(jobs)} mixed requests, in process",
        f"{rate:.0f} tok/s",
        f"{duration_s(streams):.1f} s, TTFT p50 {percentile(ttfts, 50):.2f} s",
    )


class LentEngine:
    """An engine that outlives the server it is lent to."""

    def __init__(self, engine: Engine) -> None:
        self.info = engine.info
        self._engine = engine

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self._engine.tokenizer

    def submit(self, request: EngineRequest, sink: Sink) -> None:
        """Queue a sequence; see `Engine.submit`."""
        self._engine.submit(request, sink)

    def cancel(self, request_id: str) -> None:
        """End a sequence; see `Engine.cancel`."""
        self._engine.cancel(request_id)

    def stats(self) -> EngineStats:
        """Return the counts of this moment."""
        return self._engine.stats()

    def close(self) -> None:
        """Leave the engine as it is: whoever lent it closes it."""


def over_http(bench: Bench) -> None:
    """Requests of the same lengths as in `mix256`, streamed by `palma serve`'s own server.

    The server runs in this process around the same engine, the clients in processes of their
    own. Prompts are others than in process: nothing of them is in the cache.
    """
    if "mix256" not in bench.figures:
        _measure_in_process(bench)
    jobs = draw_jobs(bench.workload, bench.model.word_token_ids, HTTP_SEED)
    with _serving(bench) as (port, model_id), _clients(bench, jobs, port, model_id) as clients:
        for client in clients:
            _say(client, "go")
        answers = [
            answer
            for client in clients
            for answer in json.loads(client.communicate(timeout=bench.left_s)[0])
        ]
    errors = [answer["error"] for answer in answers if answer["error"]]
    if errors:
        raise RuntimeError(f"{len(errors)} of {len(answers)} requests failed: {errors[0]}")
    num_tokens = sum(answer["num_tokens"] for answer in answers)
    if num_tokens != sum(job.num_tokens for job in jobs):
        raise RuntimeError(f"{num_tokens} tokens came through HTTP; more or fewer were asked for")
    took_s = max(a["ended_s"] for a in answers) - min(a["started_s"] for a in answers)
    in_process = float(bench.figures["mix256"]["tokens_per_s"])
    bench.note(tokens_per_s=num_tokens / took_s, duration_s=took_s, num_clients=bench.num_clients)
    bench.add(
        f"{len(jobs)} mixed requests, through HTTP",
        f"{num_tokens / took_s:.0f} tok/s",
        f"{in_process:.0f} tok/s in process",
        ratio=num_tokens / took_s / in_process,
        goal=HTTP_GOAL,
    )


def _measure_in_process(bench: Bench) -> None:
    part, bench.part = bench.part, "mix256"
    try:
        mix256(bench)
    finally:
        bench.part = part


@contextlib.contextmanager
def _serving(bench: Bench) -> Iterator[tuple[int, str]]:
    """Serve the engine on a free port; yields the port and the name of the model."""
    from palma.api.app import create_app
    from palma.api.server import bind, build_server, raise_file_limit

    lent = LentEngine(bench.engine)

    def load(_settings: Settings, _executor: Executor) -> Engine:
        return lent

    settings = bench.settings()
    listener = bind(settings.host, settings.port)
    raise_file_limit()
    server = build_server(create_app(settings, load=load), settings)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    port = listener.getsockname()[1]
    try:
        yield port, _warm_up(bench, f"http://127.0.0.1:{port}")
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()


def _warm_up(bench: Bench, url: str) -> str:
    """Wait until the server is ready, make one request, and return the name of its model."""
    deadline = time.monotonic() + min(60.0, bench.left_s)
    with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
        while not _is_ready(client):
            if time.monotonic() > deadline:
                raise TimeoutError("the server did not become ready")
            time.sleep(0.05)
        model_id = str(client.get("/v1/models").json()["data"][0]["id"])
        body = request_body(model_id, Job(draw_prompt(bench, "http warm", 16), 4))
        client.post("/v1/completions", json=body).raise_for_status()
    return model_id


def _is_ready(client: httpx.Client) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return client.get("/readyz").status_code == 200
    return False


def request_body(model_id: str, job: Job) -> dict[str, Any]:
    """Return the JSON of a streamed completion of exactly so many tokens."""
    return {
        "model": model_id,
        "prompt": job.prompt_token_ids,
        "max_tokens": job.num_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@contextlib.contextmanager
def _clients(
    bench: Bench, jobs: Sequence[Job], port: int, model_id: str
) -> Iterator[list[subprocess.Popen[str]]]:
    """Yield client processes that have their share of the requests, and wait for a line."""
    command = [sys.executable, "-m", "benchmarks.gpu.http_client"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    clients = [subprocess.Popen(command, **pipes) for _ in range(bench.num_clients)]
    try:
        for number, client in enumerate(clients):
            share = jobs[number :: bench.num_clients]
            bodies = [request_body(model_id, job) for job in share]
            _say(client, json.dumps({"port": port, "bodies": bodies}))
        for client in clients:
            assert client.stdout is not None
            if client.stdout.readline().strip() != "ready":
                raise RuntimeError("a client process did not start")
        yield clients
    finally:
        for client in clients:
            client.kill()
            client.wait()
            for pipe in (client.stdin, client.stdout):
                if pipe is not None:
                    pipe.close()


def _say(client: subprocess.Popen[str], line: str) -> None:
    assert client.stdin is not None
    client.stdin.write(f"{line}\n")
    client.stdin.flush()
