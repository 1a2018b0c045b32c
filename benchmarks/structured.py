"""What a given form costs: tokens a second of many requests at once, constrained and free.

    python -m benchmarks.structured --model 135m

Every answer is cut at the same number of tokens: the schema's array never ends before. Rounds of
each kind follow one another, so that a computer that slows down does so for all.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from pathlib import Path
from typing import Any

import httpx

from benchmarks.peers.palma_serve import PalmaServe
from benchmarks.random_llama import SHAPES, make_checkpoint
from benchmarks.server_process import free_port, running

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


async def tokens_a_second(
    client: httpx.AsyncClient, fields: dict[str, Any], arguments: argparse.Namespace
) -> float:
    """Ask as many requests at once and return how fast their tokens came together."""
    body = {
        "messages": [{"role": "user", "content": "Name some people."}],
        "max_tokens": arguments.max_tokens,
        "temperature": arguments.temperature,
        **fields,
    }
    started = time.perf_counter()
    asked = [
        client.post("/v1/chat/completions", json={**body, "seed": seed})
        for seed in range(arguments.requests)
    ]
    answers = [response.raise_for_status().json() for response in await asyncio.gather(*asked)]
    duration_s = time.perf_counter() - started
    num_tokens: int = sum(answer["usage"]["completion_tokens"] for answer in answers)
    assert num_tokens == arguments.requests * arguments.max_tokens, "an answer ended early"
    return num_tokens / duration_s


async def measure(url: str, arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Return the rate of each round by kind; the first round only warms up."""
    rates: dict[str, list[float]] = {kind: [] for kind in KINDS}
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S) as client:
        models = (await client.get("/v1/models")).json()
        name = {"model": models["data"][0]["id"]}
        for number in range(arguments.rounds + 1):
            for kind, fields in KINDS.items():
                rate = await tokens_a_second(client, {**name, **fields}, arguments)
                if number > 0:
                    rates[kind].append(rate)
    return rates


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
        rates = asyncio.run(measure(url, arguments))
    free = statistics.median(rates["free"])
    print("| kind | tokens/s, median | against free | all rounds |\n|---|---|---|---|")
    for kind, found in rates.items():
        median = statistics.median(found)
        rounds = json.dumps([round(rate, 1) for rate in found])
        print(f"| {kind} | {median:.1f} | {median / free:.1%} | {rounds} |")


if __name__ == "__main__":
    main()
