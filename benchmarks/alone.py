"""Four promises of Palma's continuous engine, measured over HTTP without any other server.

    python -m benchmarks.alone --model 115m

- prefix: the time to the first token of a prompt whose first 480 tokens were computed before,
  against one that is new;
- stall: the 99th percentile of the gaps in running streams while 2,000-token prompts arrive,
  against the median of the same gaps;
- neighbour: the gap in one stream while another process keeps a core busy, against alone;
- memory: what 32 streams of 512 tokens add to the idle server beyond their KV cache, against it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from random import Random

from benchmarks.peers.palma_serve import PalmaServe
from benchmarks.random_llama import make_checkpoint
from benchmarks.server_process import MemoryWatch, free_port, running
from palma.bench.client import Measurement, ServerClient, Target, Task, probe
from palma.bench.prompts import WordRate, random_words, word_rate
from palma.bench.summary import percentile

MODELS_FOLDER = Path(__file__).parent / "models"
PREFIX_TOKENS = 480
LONG_PROMPT_TOKENS = 2000
NUM_STREAMS = 32
STREAM_TOKENS = 512


class Session:
    """One server with what is known about it."""

    def __init__(self, client: ServerClient, target: Target, words: WordRate) -> None:
        self.client = client
        self.target = target
        self.words = words
        self.rng = Random(0)

    def text(self, num_tokens: int) -> str:
        """Return a new prompt of about that many tokens."""
        return random_words(self.rng, self.words.words_for(num_tokens))

    async def ask(self, prompt: str, max_tokens: int) -> Measurement:
        """Make one request, which must succeed."""
        measured = await self.client.measure(self.target, Task(prompt, max_tokens))
        assert measured.error is None, f"{measured.error}: {measured.detail}"
        return measured


async def meet(client: ServerClient) -> Session:
    """Probe a server."""
    target = Target(await client.first_model())
    target, _ = await probe(client, target, lambda: Task("warm up", 2))
    session = Session(client, target, WordRate())
    counts = [
        (number, (await session.ask(random_words(session.rng, number), 2)).num_prompt_tokens)
        for number in (16, 96)
    ]
    session.words = word_rate(counts[0], counts[1])
    return session


async def prefix_ratio(session: Session, num_pairs: int = 8) -> str:
    """Return the ratio of the times to the first token, hit over cold."""
    ratios, cached = [], []
    for _ in range(num_pairs):
        prefix = session.text(PREFIX_TOKENS)
        cold = await session.ask(f"{prefix} {session.text(16)}", 2)
        hit = await session.ask(f"{prefix} {session.text(16)}", 2)
        ratios.append(hit.ttft_s / cold.ttft_s)
        details = hit.usage.get("prompt_tokens_details") or {}
        cached.append(details.get("cached_tokens") or 0)
    return f"{statistics.median(ratios):.1%} ({statistics.median(cached):g} tokens cached)"


async def stall_ratio(session: Session, num_streams: int = 4, num_prompts: int = 6) -> str:
    """Return p99 over median of the gaps of running streams while long prompts arrive."""
    streams = [asyncio.create_task(session.ask(session.text(32), 1000)) for _ in range(num_streams)]
    await asyncio.sleep(1)
    prompts = [await session.ask(session.text(LONG_PROMPT_TOKENS), 2) for _ in range(num_prompts)]
    begin, end = prompts[0].started_s, prompts[-1].ended_s
    gaps = sorted(
        gap
        for stream in await asyncio.gather(*streams)
        for gap, at in zip(stream.itls_s, stream.text_times[1:], strict=True)
        if begin <= at <= end
    )
    median, p99 = percentile(gaps, 50), percentile(gaps, 99)
    return f"{p99 / median:.1f}x ({median * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms)"


async def neighbour_ratio(session: Session, num_pairs: int = 5) -> str:
    """Return the ratio of one stream's median gaps, beside a busy process over alone."""
    ratios = []
    for _ in range(num_pairs):
        alone = await session.ask(session.text(32), 100)
        with busy_neighbour():
            beside = await session.ask(session.text(32), 100)
        ratios.append(statistics.median(beside.itls_s) / statistics.median(alone.itls_s))
    return f"{statistics.median(ratios):.2f}x"


@contextlib.contextmanager
def busy_neighbour() -> Iterator[None]:
    """Keep one core busy with another process."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


async def memory_ratio(session: Session, memory: MemoryWatch, kv_token_bytes: int) -> str:
    """Return the growth beyond the KV cache, over the KV cache."""
    idle = memory.now_bytes()
    half = STREAM_TOKENS // 2
    await asyncio.gather(*(session.ask(session.text(half), half) for _ in range(NUM_STREAMS)))
    kv_bytes = NUM_STREAMS * STREAM_TOKENS * kv_token_bytes
    growth = memory.peak_bytes - idle
    return (
        f"{(growth - kv_bytes) / kv_bytes:.2f}x (idle {idle / 1e6:,.0f} MB, "
        f"grew by {growth / 1e6:,.0f} MB, KV cache {kv_bytes / 1e6:,.0f} MB)"
    )


def kv_token_bytes(model_dir: Path) -> int:
    """Return the bytes of keys and values of one token in 16 bits."""
    config = json.loads((model_dir / "config.json").read_text())
    width: int = config["num_key_value_heads"] * config["head_dim"]
    return 2 * 2 * width * int(config["num_hidden_layers"])


def main() -> None:
    """Measure and print a table; what fails is a row that says so."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=("115m", "1.1b"), default="115m")
    parser.add_argument("--flags", nargs="*", default=["--engine", "continuous"])
    arguments = parser.parse_args()
    folder = make_checkpoint(arguments.model, MODELS_FOLDER / f"llama-{arguments.model}")
    port = free_port()
    peer = PalmaServe(tuple(arguments.flags))
    server = peer.start(folder, port, "bf16", folder, Path("/dev/null"))
    with MemoryWatch(server) as memory, running(server, port, peer.ready_path) as url:
        rows = asyncio.run(_measure(url, memory, kv_token_bytes(folder)))
    print("| measured | result | must | stretch |\n|---|---|---|---|")
    print("\n".join(rows))


async def _measure(url: str, memory: MemoryWatch, token_bytes: int) -> list[str]:
    async with ServerClient(url) as client:
        session = await meet(client)
        checks: list[tuple[str, Callable[[], Awaitable[str]], str]] = [
            ("memory", lambda: memory_ratio(session, memory, token_bytes), "1x | 0.3x"),
            ("prefix", lambda: prefix_ratio(session), "8 % | 3 %"),
            ("stall", lambda: stall_ratio(session), "3x | 2x"),
            ("neighbour", lambda: neighbour_ratio(session), "2x | 1.5x"),
        ]
        rows = []
        for name, check, goals in checks:
            try:
                rows.append(f"| {name} | {await check()} | {goals} |")
            except AssertionError as error:
                rows.append(f"| {name} | failed: {error} | {goals} |")
        return rows


if __name__ == "__main__":
    main()
