"""What HTTP costs one stream: tokens a second through `palma serve` against bare `generate`.

    python -m benchmarks.one_stream

The same model answers the same prompt greedily with the same number of tokens, in turns: once
by `model.generate` called directly in this process, once through `/v1/chat/completions` streamed
from a server process. Both run in float32 with the same number of threads; while one works the
other waits. The figure is the ratio of the two times of each pair, their median over the pairs.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson

from benchmarks.random_llama import make_checkpoint
from benchmarks.server_process import free_port, running, start
from palma.core.config import Settings
from palma.models.loader import LoadedModel, load_model
from palma.models.spec import resolve_spec

PROMPT = "Count to 50."
MODELS_FOLDER = Path(__file__).parent / "models"


@contextlib.contextmanager
def palma_serve(model_id: str | None) -> Iterator[str]:
    """Start `palma serve` in a process of its own and yield its URL when it is ready."""
    port = free_port()
    command = [sys.executable, "-m", "palma", "serve", "--port", str(port), "--device", "cpu"]
    if model_id is not None:
        command += ["--model-id", model_id]
    with running(start(command), port, "/readyz") as url:
        yield url


def time_generate(loaded: LoadedModel, prompt_ids: list[int], num_tokens: int) -> tuple[float, int]:
    """Return the seconds that a direct `generate` takes, and its completion tokens."""
    import torch

    if loaded.choice.num_threads is not None:
        torch.set_num_threads(loaded.choice.num_threads)
    inputs = torch.tensor([prompt_ids])
    model: Any = loaded.model
    started = time.perf_counter()
    with torch.inference_mode():
        output = model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=num_tokens,
            do_sample=False,
        )
    return time.perf_counter() - started, output.shape[1] - inputs.shape[1]


def time_http(client: httpx.Client, model_id: str, num_tokens: int) -> tuple[float, int]:
    """Return the seconds that the same takes as a stream, and its completion tokens."""
    body = {
        "model": model_id,
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": num_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    usage: dict[str, int] = {}
    started = time.perf_counter()
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            if '"completion_tokens"' in line:
                usage = orjson.loads(line.removeprefix("data: "))["usage"]
    return time.perf_counter() - started, usage["completion_tokens"]


def measure(name: str, model_path: Path | None, num_tokens: int, num_pairs: int) -> str:
    """Return a row of the table: name, tokens, both rates, and the ratio with its spread."""
    from palma.core.types import ChatPrompt
    from palma.serving.prompt import encode_chat

    settings = Settings(device="cpu", model_id=str(model_path) if model_path else None)
    loaded = load_model(resolve_spec(settings), settings)
    prompt = encode_chat(loaded.tokenizer, ChatPrompt((_user_message(),)), loaded.max_model_len)
    direct, served, ratios = [], [], []
    with palma_serve(settings.model_id) as url, httpx.Client(base_url=url, timeout=600) as client:
        for pair in range(num_pairs + 1):
            direct_s, num_direct = time_generate(loaded, prompt, num_tokens)
            http_s, num_http = time_http(client, loaded.model_id, num_tokens)
            assert num_direct == num_http, "both must do the same work"
            if pair > 0:  # the first warms up
                direct.append(num_direct / direct_s)
                served.append(num_http / http_s)
                ratios.append(direct_s / http_s)
    low, *_, high = statistics.quantiles(ratios, n=4)
    return (
        f"| {name} | {num_direct} | {statistics.median(direct):.1f} | "
        f"{statistics.median(served):.1f} | {statistics.median(ratios):.1%} | "
        f"{low:.1%} - {high:.1%} |"
    )


def _user_message() -> Any:
    from palma.core.types import Message

    return Message("user", PROMPT)


def main() -> None:
    """Measure both models and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=30)
    arguments = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    random_model = make_checkpoint("135m", MODELS_FOLDER / "llama-135m")
    print("| model | tokens | generate, tok/s | HTTP stream, tok/s | ratio | middle half |")
    print("| --- | --- | --- | --- | --- | --- |")
    print(measure("palmita", None, 400, arguments.pairs), flush=True)
    print(measure("random 135M Llama", random_model, 64, arguments.pairs), flush=True)


if __name__ == "__main__":
    main()
