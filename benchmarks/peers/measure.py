"""One turn of one server: start it, load it with one, eight and 32 streams, and stop it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from random import Random

from benchmarks.bandwidth import read_bandwidth
from benchmarks.peers.peer import Peer, Precision
from benchmarks.server_process import MemoryWatch, free_port, running
from palma.bench.benchmark import make_tasks
from palma.bench.client import ServerClient, Target, Task, probe
from palma.bench.lengths import Lengths
from palma.bench.load import Budget, Level, run_level
from palma.bench.prompts import WordRate, random_words, word_rate
from palma.bench.summary import LevelSummary, summarize

REQUEST_TIMEOUT_S = 900.0
PROBE_WORDS = (8, 72)


@dataclass(frozen=True, slots=True)
class Workload:
    """One kind of load; lengths are in tokens, `num_requests` for each stream."""

    name: str
    num_streams: int
    prompt: Lengths
    output: Lengths
    num_requests: int = 2


WORKLOADS = (
    Workload("1", 1, Lengths(128, 128), Lengths(128, 128)),
    Workload("8", 8, Lengths(32, 256), Lengths(64, 64)),
    Workload("32", 32, Lengths(32, 256), Lengths(64, 64)),
    Workload("prefill", 1, Lengths(1024, 1024), Lengths(2, 2), num_requests=3),
)


@dataclass(frozen=True, slots=True)
class Turn:
    """What one turn measured.

    Attributes:
        tokens_per_s: By workload: one stream's decode rate, else all completion tokens a second.
        ttft_s: Of the 1,024-token prompts, median.
        itl_s: Median gap with 8 streams.
        read_bandwidth: Bytes a second, the mean of just before and just after.
        peak_bytes: Most resident memory of the server and its children.
        num_failed: Requests without a whole answer.
        num_tokens: Mean prompt and completion tokens by workload: equal for all servers if they
            did the same work.
    """

    tokens_per_s: dict[str, float]
    ttft_s: float
    itl_s: float
    read_bandwidth: float
    peak_bytes: int
    num_failed: int
    num_tokens: dict[str, tuple[float, float]]

    def bandwidth_share(self, weight_bytes: int) -> float:
        """Return bytes of weights read a second by one stream, over what the memory gives."""
        return self.tokens_per_s["1"] * weight_bytes / self.read_bandwidth


@dataclass(frozen=True, slots=True)
class Place:
    """Where models, peers and logs are, and whose turn it is."""

    model_dir: Path
    peers_dir: Path
    log: Path


def take_turn(peer: Peer, precision: Precision, place: Place, seed: int) -> Turn:
    """Measure one server; each seed has its own prompts, the same for every server."""
    before = read_bandwidth()
    port = free_port()
    server = peer.start(place.model_dir, port, precision, place.peers_dir, place.log)
    with MemoryWatch(server) as memory, running(server, port, peer.ready_path) as url:
        model = peer.model_name(place.model_dir, precision)
        summaries = asyncio.run(_measure(url, model, peer.needs_done, seed))
    after = read_bandwidth()
    tokens_per_s = {name: one.output_tokens_per_s for name, one in summaries.items()}
    tokens_per_s["1"] = summaries["1"].decode_tokens_per_s.p50
    return Turn(
        tokens_per_s=tokens_per_s,
        ttft_s=summaries["prefill"].ttft_s.p50,
        itl_s=summaries["8"].itl_s.p50,
        read_bandwidth=(before + after) / 2,
        peak_bytes=memory.peak_bytes,
        num_failed=sum(one.num_requests - one.num_ok for one in summaries.values()),
        num_tokens={
            name: (one.mean_prompt_tokens, one.mean_completion_tokens)
            for name, one in summaries.items()
        },
    )


async def _measure(url: str, model: str, needs_done: bool, seed: int) -> dict[str, LevelSummary]:
    async with ServerClient(url, timeout_s=REQUEST_TIMEOUT_S, needs_done=needs_done) as client:
        target, words = await _meet(client, model or await client.first_model(), seed)
        return {
            workload.name: await _run(client, target, workload, words, seed)
            for workload in WORKLOADS
        }


async def _meet(client: ServerClient, model: str, seed: int) -> tuple[Target, WordRate]:
    """Find out what the server takes and how long words are; this warms it up a little, too."""
    rng = Random(f"{seed} probe")
    short, long = (Task(random_words(rng, number), 2) for number in PROBE_WORDS)
    target, first = await probe(client, Target(model), lambda: short)
    second = await client.measure(target, long)
    if not 0 < first.num_prompt_tokens < second.num_prompt_tokens:
        raise RuntimeError(f"it does not tell how long prompts are: {first}, {second}")
    return target, word_rate(
        (PROBE_WORDS[0], first.num_prompt_tokens), (PROBE_WORDS[1], second.num_prompt_tokens)
    )


async def _run(
    client: ServerClient, target: Target, workload: Workload, words: WordRate, seed: int
) -> LevelSummary:
    """Warm up with a short request a stream, then measure."""
    rng = Random(f"{seed} {workload.name}")
    level = Level(concurrency=workload.num_streams)
    warmup = make_tasks(rng, words, workload.prompt, Lengths(2, 2))
    num_streams = workload.num_streams
    await run_level(
        client, target, level, warmup,
        budget=Budget(num_streams), rng=rng, on_end=lambda _: None,
    )  # fmt: skip
    tasks = make_tasks(rng, words, workload.prompt, workload.output)
    measured = await run_level(
        client, target, level, tasks,
        budget=Budget(num_streams * workload.num_requests), rng=rng, on_end=lambda _: None,
    )  # fmt: skip
    return summarize(level, measured)


def weight_bytes(model_dir: Path, precision: Precision) -> int:
    """Return the bytes of weights that one decode step reads: all but the input embedding."""
    config = json.loads((model_dir / "config.json").read_text())
    embedding = config["vocab_size"] * config["hidden_size"]
    bits = {"bf16": 16, "fp16": 16, "int8": 8, "int4": 4.5, "q8_0": 8.5, "q4_0": 4.5}[precision]
    num_weights = (model_dir / "model.safetensors").stat().st_size // 2
    read_weights = num_weights if config["tie_word_embeddings"] else num_weights - embedding
    return round(read_weights * bits / 8)
