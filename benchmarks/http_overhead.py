"""What a streamed token costs beside the model: processor time of the server, 64 streams at once.

    python -m benchmarks.http_overhead --peers-dir PEERS

Palma runs its mock engine, which computes nothing, with the usual interval between two pieces of
a stream and with none (every token is an event). Palma's continuous engine and the other servers
run a one-layer model so small that most of a token's cost is not the model's. Processor time is
counted, of the server and its children, so that other processes matter little. The servers take
turns, a fresh process and a burst to warm up at each.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
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
NUM_BURSTS = 3
MODEL_DIR = Path(__file__).parent / "models" / "llama-tiny"
EACH_TOKEN = ("--stream-interval-s", "0")


@dataclass(frozen=True, slots=True)
class Contender:
    """A server to be measured.

    Attributes:
        start: Begins it on a port, with a file for what it prints.
        model: The name that requests have to give; empty for the first that it lists.
    """

    name: str
    start: Callable[[int, Path], Server]
    ready_path: str = "/readyz"
    needs_done: bool = True
    model: str = ""


def mock(name: str, *flags: str) -> Contender:
    """Return Palma without a model."""

    def begin(port: int, log: Path) -> Server:
        command = [sys.executable, "-m", "palma", "serve", "--engine", "mock"]
        command += ["--threads-max-workers", str(NUM_STREAMS), *flags]
        return start([*command, "--port", str(port)], environment(), log)

    return Contender(name, begin)


def with_model(name: str, peer: Peer, peers_dir: Path) -> Contender:
    """Return a server with the small model."""
    precision: Precision = "bf16"
    peer.prepare(MODEL_DIR, precision, peers_dir)
    return Contender(
        name,
        lambda port, log: peer.start(MODEL_DIR, port, precision, peers_dir, log),
        peer.ready_path,
        peer.needs_done,
        peer.model_name(MODEL_DIR, precision),
    )


def contenders(peers_dir: Path) -> list[Contender]:
    """Return the servers that are installed."""
    continuous = ("--engine", "continuous", "--threads-max-workers", str(NUM_STREAMS))
    peers: dict[str, Peer] = {
        "palma, continuous engine": PalmaServe(continuous),
        "palma, continuous engine, each token an event": PalmaServe((*continuous, *EACH_TOKEN)),
        "llama.cpp": LlamaCpp(),
        "transformers serve, continuous batching": TransformersServe(continuous_batching=True),
    }
    return [
        mock("palma, mock engine"),
        mock("palma, mock engine, each token an event", *EACH_TOKEN),
        *(
            with_model(name, peer, peers_dir)
            for name, peer in peers.items()
            if peer.is_installed(peers_dir)
        ),
    ]


def processor_s(server: Server) -> float:
    """Return the seconds that a server and its children have computed."""
    parent = psutil.Process(server.pid)
    times = [process.cpu_times() for process in [parent, *parent.children(recursive=True)]]
    return float(sum(time.user + time.system for time in times))


@dataclass(frozen=True, slots=True)
class Load:
    """How much is asked of each server: so many bursts, each stream so many tokens in each."""

    num_bursts: int
    num_tokens: int


async def burst(client: ServerClient, target: Target, num_tokens: int) -> int:
    """Run all streams once and return the tokens that came."""
    task = Task(f"count to {num_tokens}", num_tokens)
    answers = await asyncio.gather(*(client.measure(target, task) for _ in range(NUM_STREAMS)))
    failed = [answer for answer in answers if answer.error is not None]
    assert not failed, (failed[0].error, failed[0].detail)
    return sum(answer.num_completion_tokens for answer in answers)


async def measure(url: str, server: Server, contender: Contender, load: Load) -> list[float]:
    """Return streamed tokens for each second of processor time, a figure a burst."""
    async with ServerClient(url, needs_done=contender.needs_done) as client:
        first = Target(contender.model or await client.first_model())
        target, _ = await probe(client, first, lambda: Task("count to 5", 5))
        await burst(client, target, load.num_tokens)
        rates = []
        for _ in range(load.num_bursts):
            before = processor_s(server)
            num_tokens = await burst(client, target, load.num_tokens)
            rates.append(num_tokens / (processor_s(server) - before))
    return rates


def measure_fresh(contender: Contender, load: Load) -> list[float]:
    """Start a server, measure it and end it."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        server = contender.start(port, Path(folder) / "log")
        with running(server, port, contender.ready_path) as url:
            return asyncio.run(measure(url, server, contender, load))


def main() -> None:
    """Measure everybody in turns and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers-dir", type=Path, required=True)
    parser.add_argument("--only", nargs="+", default=[""], help="parts of names")
    parser.add_argument("--rounds", type=int, default=NUM_ROUNDS)
    parser.add_argument("--bursts", type=int, default=NUM_BURSTS, help="in each round")
    parser.add_argument("--tokens", type=int, default=NUM_TOKENS, help="of a stream in a burst")
    args = parser.parse_args()
    load = Load(args.bursts, args.tokens)
    make_checkpoint("tiny", MODEL_DIR)
    rates: dict[str, list[float]] = {}
    for _ in range(args.rounds):
        for contender in contenders(args.peers_dir.resolve()):
            if any(part in contender.name for part in args.only):
                measured = measure_fresh(contender, load)
                rates.setdefault(contender.name, []).extend(measured)
    print("| server | streamed tokens for a second of processor time | lowest - highest | bursts |")
    print("|---|---|---|---|")
    for name, all_rates in rates.items():
        low, middle, high = min(all_rates), statistics.median(all_rates), max(all_rates)
        print(f"| {name} | {middle:,.0f} | {low:,.0f} - {high:,.0f} | {len(all_rates)} |")


if __name__ == "__main__":
    main()
