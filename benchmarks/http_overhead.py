"""What a streamed token costs beside the model: processor time of the server, 64 streams at once.

    python -m benchmarks.http_overhead --peers-dir PEERS

Palma runs its mock engine, which computes nothing, with the usual interval between two pieces of
a stream and with none (every token is an event). All servers, Palma's continuous engine too, also
run a one-layer model so small that most of a token's cost is not the model's. Processor time is
counted, of the server and its children, so that other processes do not matter.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import psutil

from benchmarks.peers.llama_cpp import LlamaCpp
from benchmarks.peers.palma_serve import PalmaServe
from benchmarks.peers.peer import Peer, Precision, environment
from benchmarks.peers.transformers_serve import TransformersServe
from benchmarks.random_llama import make_checkpoint
from benchmarks.server_process import Server, free_port, running, start
from palma.bench.client import ServerClient, Target, Task, probe

NUM_STREAMS = 64
NUM_TOKENS = 500
NUM_ROUNDS = 3
MODEL_DIR = Path(__file__).parent / "models" / "llama-tiny"


def mock_server(interval_s: str) -> Callable[[int, Path], Server]:
    """Return what starts Palma without a model."""

    def begin(port: int, log: Path) -> Server:
        command = [sys.executable, "-m", "palma", "serve", "--engine", "mock"]
        command += ["--threads-max-workers", str(NUM_STREAMS), "--stream-interval-s", interval_s]
        return start([*command, "--port", str(port)], environment(), log)

    return begin


def model_server(
    peer: Peer, precision: Precision, peers_dir: Path
) -> Callable[[int, Path], Server]:
    """Return what starts a server with the small model."""
    peer.prepare(MODEL_DIR, precision, peers_dir)
    return lambda port, log: peer.start(MODEL_DIR, port, precision, peers_dir, log)


def processor_s(server: Server) -> float:
    """Return the seconds that a server and its children have computed."""
    parent = psutil.Process(server.pid)
    times = [process.cpu_times() for process in [parent, *parent.children(recursive=True)]]
    return float(sum(time.user + time.system for time in times))


async def burst(client: ServerClient, target: Target) -> int:
    """Run all streams once and return the tokens that came."""
    task = Task(f"count to {NUM_TOKENS}", NUM_TOKENS)
    answers = await asyncio.gather(*(client.measure(target, task) for _ in range(NUM_STREAMS)))
    assert all(answer.error is None for answer in answers), answers[0]
    return sum(answer.num_completion_tokens for answer in answers)


async def measure(url: str, server: Server, *, needs_done: bool) -> list[float]:
    """Return streamed tokens for each second of processor time, a figure a round."""
    async with ServerClient(url, needs_done=needs_done) as client:
        first = Target(await client.first_model())
        target, _ = await probe(client, first, lambda: Task("count to 5", 5))
        await burst(client, target)
        rates = []
        for _ in range(NUM_ROUNDS):
            before = processor_s(server)
            num_tokens = await burst(client, target)
            rates.append(num_tokens / (processor_s(server) - before))
    return rates


def main() -> None:
    """Measure everybody in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers-dir", type=Path, required=True)
    peers_dir = parser.parse_args().peers_dir.resolve()
    make_checkpoint("tiny", MODEL_DIR)
    every_token = ("--engine", "continuous", "--stream-interval-s", "0")
    servers = {
        "palma, mock engine": (mock_server("0.02"), "/readyz", True),
        "palma, mock engine, each token an event": (mock_server("0"), "/readyz", True),
        "palma, continuous engine": (
            model_server(PalmaServe(("--engine", "continuous")), "bf16", peers_dir),
            "/readyz",
            True,
        ),
        "palma, continuous engine, each token an event": (
            model_server(PalmaServe(every_token), "bf16", peers_dir),
            "/readyz",
            True,
        ),
    }
    for name, peer in (
        ("llama.cpp", LlamaCpp()),
        ("transformers serve, continuous batching", TransformersServe(continuous_batching=True)),
    ):
        if peer.is_installed(peers_dir):
            begin = model_server(peer, "bf16", peers_dir)
            servers[name] = (begin, peer.ready_path, peer.needs_done)
    print("| server | streamed tokens for a second of processor time | lowest - highest |")
    print("|---|---|---|")
    for name, (begin, ready_path, needs_done) in servers.items():
        port = free_port()
        with tempfile.TemporaryDirectory() as folder:
            server = begin(port, Path(folder) / "log")
            with running(server, port, ready_path) as url:
                rates = sorted(asyncio.run(measure(url, server, needs_done=needs_done)))
        middle = rates[len(rates) // 2]
        print(f"| {name} | {middle:,.0f} | {rates[0]:,.0f} - {rates[-1]:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
