"""A sample client of the Llama Stack routes: prints an answer as it comes, then its speed.

    python scripts/use.py "What is the capital of France?"
    python scripts/use.py --completion --max-tokens 50 "Once upon a time"

Where the server asks for a key or a token, put it into API_KEY.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx


def main() -> None:
    """Ask, print, and measure."""
    arguments = parse_arguments()
    key = os.environ.get("API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with httpx.Client(base_url=arguments.url, headers=headers, timeout=None) as client:  # noqa: S113
            ask(client, arguments)
    except httpx.HTTPError as error:
        sys.exit(f"use: {arguments.url}: {error}")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Ask a Palma server, and see how fast it is.")
    parser.add_argument("prompt", nargs="?", default="What is the capital of France?")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", help="unset: the first one that the server lists")
    parser.add_argument("--max-tokens", type=int, default=100)
    parser.add_argument("--temperature", type=float, help="unset: always the likeliest token")
    parser.add_argument("--completion", action="store_true", help="go on with the prompt's text")
    return parser.parse_args()


def ask(client: httpx.Client, arguments: argparse.Namespace) -> None:
    """Print the answer's text as it comes, then how many tokens a second that was."""
    path, body = request_for(arguments, arguments.model or first_model(client))
    num_tokens, first_at, started = 0, None, time.monotonic()
    for chunk in stream(client, path, body):
        text = chunk["delta"] if "delta" in chunk else chunk["event"]["delta"]["text"]
        if text and first_at is None:
            first_at = time.monotonic()
        print(text, end="", flush=True)
        for metric in chunk["metrics"] or ():
            if metric["metric"] == "completion_tokens":
                num_tokens = metric["value"]
    seconds = time.monotonic() - started
    first_s = (first_at or time.monotonic()) - started
    print(f"\n\n{num_tokens} tokens in {seconds:.2f} s, the first text after {first_s:.2f} s")
    print(f"{num_tokens / seconds:.1f} tokens/s")


def request_for(arguments: argparse.Namespace, model: str) -> tuple[str, dict[str, Any]]:
    """Return the path and the body that ask for a stream."""
    sampling_params = {"max_tokens": arguments.max_tokens}
    if arguments.temperature is not None:
        sampling_params["temperature"] = arguments.temperature
    body = {"model": model, "sampling_params": sampling_params, "stream": True}
    if arguments.completion:
        return "/inference/completion", {**body, "content": arguments.prompt}
    messages = [{"role": "user", "content": arguments.prompt}]
    return "/inference/chat_completion", {**body, "messages": messages}


def first_model(client: httpx.Client) -> str:
    """Return the name of the first model that the server lists."""
    response = client.get("/v1/models")
    if response.is_error:
        sys.exit(f"use: {response.text}")
    return str(response.json()["data"][0]["id"])


def stream(client: httpx.Client, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the objects of an answer, one a line; an error ends the program."""
    with client.stream("POST", path, json=body) as response:
        if response.is_error:
            sys.exit(f"use: {response.read().decode()}")
        for line in response.iter_lines():
            chunk = json.loads(line)
            if "error" in chunk:
                sys.exit(f"\nuse: {chunk['error']['message']}")
            yield chunk


if __name__ == "__main__":
    main()
