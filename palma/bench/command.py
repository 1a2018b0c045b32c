"""The flags of `palma bench`. Only the command itself imports what it runs on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from palma.core.errors import PalmaError, SettingsError

if TYPE_CHECKING:
    from palma.bench.benchmark import Benchmark, Plan
    from palma.bench.client import ServerClient

DEFAULT_URL = "http://127.0.0.1:8000"


Url = Annotated[str, typer.Option(help="The server to measure.")]
Model = Annotated[
    str | None, typer.Option(help="Model to ask for; unset: the first of /v1/models.")
]
ApiKey = Annotated[
    str | None, typer.Option(help="Sent as a bearer token.", envvar="PALMA_BENCH_API_KEY")
]
Endpoint = Annotated[Literal["chat", "completions"], typer.Option(help="Which route to call.")]
Concurrency = Annotated[
    str | None,
    typer.Option(help="Closed loop: requests kept running, a level each, like 1,8,32.  [1]"),
]
Rate = Annotated[
    str | None,
    typer.Option(help="Open loop: requests a second with Poisson arrivals, like 0.5,2."),
]
NumRequests = Annotated[
    int | None,
    typer.Option(min=1, help="Requests a level; unset: 4 a stream, at least 16."),
]
Seconds = Annotated[
    float | None,
    typer.Option(min=0.1, help="Start requests for so long a level; the last ones finish."),
]
PromptTokens = Annotated[
    str, typer.Option(help="About how long prompts are: 128, 32-256 or lognormal:mean,sigma.")
]
OutputTokens = Annotated[str, typer.Option(help="How long answers are; the same three forms.")]
Temperature = Annotated[float, typer.Option(min=0, help="0 is greedy.")]
NumWarmup = Annotated[int, typer.Option(min=0, help="Requests before each level, uncounted.")]
Seed = Annotated[
    int, typer.Option(help="Same seed, same prompts: change it for a server that caches.")
]
TimeoutS = Annotated[
    float, typer.Option(min=0.1, help="Seconds without a byte after which a request failed.")
]
NeedsDone = Annotated[
    bool,
    typer.Option(help="Whether only [DONE] ends a stream; --no-done: a finish_reason does too."),
]
JsonFile = Annotated[Path | None, typer.Option(help="Write all results to this file.")]
PlotFile = Annotated[
    Path | None, typer.Option(help="Draw throughput and latency against load into this PNG.")
]


def bench(
    *,
    url: Url = DEFAULT_URL,
    model: Model = None,
    api_key: ApiKey = None,
    endpoint: Endpoint = "chat",
    concurrency: Concurrency = None,
    rate: Rate = None,
    requests: NumRequests = None,
    seconds: Seconds = None,
    prompt_tokens: PromptTokens = "128",
    output_tokens: OutputTokens = "128",
    temperature: Temperature = 0.0,
    warmup: NumWarmup = 2,
    seed: Seed = 0,
    timeout: TimeoutS = 600.0,
    done: NeedsDone = True,
    json: JsonFile = None,
    plot: PlotFile = None,
) -> None:
    """Measure a server: tokens a second, time to first token, latencies. Any OpenAI-compatible one.

    Failed requests (429, 5xx, broken or unfinished streams) are counted by kind, never as success;
    the exit status is 1 when none succeeded.
    """
    from palma.bench.benchmark import Plan
    from palma.bench.client import ServerClient
    from palma.bench.load import parse_levels
    from palma.bench.plot import require_matplotlib

    for path in (json, plot):
        if path is not None and not path.absolute().parent.is_dir():
            raise SettingsError(f"{path}: its folder does not exist")
    if plot is not None:
        require_matplotlib()
    plan = Plan(
        levels=parse_levels(concurrency, rate),
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        model=model,
        endpoint=endpoint,
        temperature=temperature,
        num_requests=requests,
        seconds=seconds,
        num_warmup=warmup,
        seed=seed,
    )
    client = ServerClient(url, api_key=api_key, timeout_s=timeout, needs_done=done)
    _show(_run(plan, client), json, plot)


def _run(plan: Plan, client: ServerClient) -> Benchmark:
    import asyncio

    from rich.console import Console

    from palma.bench.benchmark import Benchmark

    async def run() -> Benchmark:
        async with client:
            benchmark = Benchmark(plan, client, Console(stderr=True))
            await benchmark.run()
            return benchmark

    return asyncio.run(run())


def _show(benchmark: Benchmark, json: Path | None, plot: Path | None) -> None:
    """Print the table, write the files, and fail when nothing succeeded."""
    import orjson
    from rich.console import Console

    from palma.bench.plot import draw
    from palma.bench.report import remarks, results_table

    console = Console()
    console.print(f"{benchmark.target.model} at {benchmark.client.url}")
    console.print(results_table(benchmark.summaries))
    for remark in remarks(benchmark.summaries):
        console.print(remark, highlight=False, soft_wrap=True)
    if json is not None:
        json.write_bytes(orjson.dumps(benchmark.to_json(), option=orjson.OPT_INDENT_2))
    if plot is not None:
        draw(benchmark.summaries, f"{benchmark.target.model}", plot)
    if not any(summary.num_ok for summary in benchmark.summaries):
        raise PalmaError("not one request succeeded")
