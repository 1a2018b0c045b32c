"""What a given form costs: tokens a second of many requests at once, constrained and free.

    python -m benchmarks.structured --model 135m

Every answer is cut at the same number of tokens: the schema's array never ends before. The kinds
take turns, and each round is compared with the free one of the same turn, so that a computer that
slows down does so for all. The server's processor time a token is told as well: others on the
computer change it less than the speed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.peers.palma_serve import PalmaServe
from benchmarks.random_llama import SHAPES, make_checkpoint
from benchmarks.server_process import Server, free_port, running

MODELS_FOLDER = Path(__file__).parent / "models"
PATIENCE_S = 600.0

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "roles": {"type": "array", "items": {"enum": ["reader", "writer", "owner"]}},
    },
    "required": ["name", "age", "roles"],
    "additionalProperties": False,
}
PEOPLE = {"type": "array", "items": PERSON, "minItems": 1000}

KINDS: dict[str, dict[str, Any]] = {
    "free": {"ignore_eos": True},
    "schema": {
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": PEOPLE}}
    },
    "regex": {"regex": "([a-z]{2,9}[ ,.])*[0-9]{9999}"},
}


@dataclass(frozen=True, slots=True)
class Round:
    """As many requests of one kind at once: their tokens together, and what a token took."""

    tokens_a_second: float
    processor_ms: float


async def ask_at_once(
    client: httpx.AsyncClient,
    server: psutil.Process,
    fields: dict[str, Any],
    arguments: argparse.Namespace,
) -> Round:
    """Ask as many requests at once and return what they took."""
    body = {
        "messages": [{"role": "user", "content": "Name some people."}],
        "max_tokens": arguments.max_tokens,
        "temperature": arguments.temperature,
        **fields,
    }
    started, processor_s = time.perf_counter(), _processor_s(server)
    asked = [
        client.post("/v1/chat/completions", json={**body, "seed": seed})
        for seed in range(arguments.requests)
    ]
    answers = [response.raise_for_status().json() for response in await asyncio.gather(*asked)]
    duration_s = time.perf_counter() - started
    processor_s = _processor_s(server) - processor_s
    num_tokens: int = sum(answer["usage"]["completion_tokens"] for answer in answers)
    assert num_tokens == arguments.requests * arguments.max_tokens, "an answer ended early"
    return Round(num_tokens / duration_s, 1000 * processor_s / num_tokens)


def _processor_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    seconds: float = times.user + times.system
    return seconds


async def measure(
    url: str, server: Server, arguments: argparse.Namespace
) -> dict[str, list[Round]]:
    """Return the rounds by kind; the first of each only warms up."""
    rounds: dict[str, list[Round]] = {kind: [] for kind in KINDS}
    process = psutil.Process(server.pid)
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S) as client:
        models = (await client.get("/v1/models")).json()
        name = {"model": models["data"][0]["id"]}
        for number in range(arguments.rounds + 1):
            for kind, fields in KINDS.items():
                found = await ask_at_once(client, process, {**name, **fields}, arguments)
                if number > 0:
                    rounds[kind].append(found)
    return rounds


def row(kind: str, rounds: list[Round], free: list[Round]) -> str:
    """Return a row of the table; what is compared is of the same turn."""
    pairs = list(zip(rounds, free, strict=True))
    speed = statistics.median(one.tokens_a_second for one in rounds)
    relative = statistics.median(one.tokens_a_second / base.tokens_a_second for one, base in pairs)
    processor = statistics.median(one.processor_ms for one in rounds)
    more = statistics.median(one.processor_ms / base.processor_ms for one, base in pairs)
    told = json.dumps([round(one.tokens_a_second, 1) for one in rounds])
    return f"| {kind} | {speed:.1f} | {relative:.1%} | {processor:.2f} | {more:.1%} | {told} |"


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=SHAPES, default="135m")
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--flags", nargs="*", default=["--engine", "continuous"])
    arguments = parser.parse_args()
    folder = make_checkpoint(arguments.model, MODELS_FOLDER / f"llama-{arguments.model}")
    port = free_port()
    peer = PalmaServe(tuple(arguments.flags))
    server = peer.start(folder, port, "bf16", folder, Path("/dev/null"))
    with running(server, port, peer.ready_path) as url:
        rounds = asyncio.run(measure(url, server, arguments))
    print("| kind | tokens/s | against free | processor ms/token | against free | rounds |")
    print("|---|---|---|---|---|---|")
    for kind, found in rounds.items():
        print(row(kind, found, rounds["free"]))


if __name__ == "__main__":
    main()
