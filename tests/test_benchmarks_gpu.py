"""The GPU benchmark runs: tiny, on the CPU, with every figure in its place."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.model import RandomModel, make_model
from benchmarks.gpu.table import Goal, Row
from benchmarks.gpu.workload import FULL, draw_jobs

PARTS = "limits,start,batch1,batch64,ttft,itl,mix256,http,peer"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one run of the whole script wrote."""
    path: Path = tmp_path_factory.mktemp("gpu") / "out.json"
    command = [sys.executable, "-m", "benchmarks.gpu", "--model", "tiny", "--device", "cpu"]
    command += ["--only", PARTS, "--peers", "flash", "--clients", "2", "--json", str(path)]
    subprocess.run(command, check=True, cwd=Path(__file__).parent.parent, timeout=55)
    written: dict[str, Any] = json.loads(path.read_text())
    return written


def test_every_part_has_its_figures(report: dict[str, Any]) -> None:
    assert list(report["parts"]) == PARTS.split(",")
    assert not [name for name, part in report["parts"].items() if "error" in part]
    assert not [row["name"] for row in report["rows"] if row["result"] == "failed"]


def test_the_peer_computes_the_same_tokens(report: dict[str, Any]) -> None:
    """With the attention that is lent to it; with a wrong mask about 15 % are the same."""
    assert report["parts"]["peer"]["flash"]["agreement"] > 0.6


def test_all_tokens_come_through_http(report: dict[str, Any]) -> None:
    mix, http = report["parts"]["mix256"], report["parts"]["http"]

    assert http["tokens_per_s"] * http["duration_s"] == pytest.approx(mix["num_output_tokens"])


def test_requests_of_another_seed_are_as_long_and_share_nothing() -> None:
    token_ids = list(range(3000))
    first, second = draw_jobs(FULL, token_ids, 1), draw_jobs(FULL, token_ids, 2)

    lengths = [
        [(len(job.prompt_token_ids), job.num_tokens) for job in jobs] for jobs in (first, second)
    ]
    assert lengths[0] == lengths[1]
    assert len({tuple(job.prompt_token_ids[:3]) for job in (*first, *second)}) == 512
    assert {100 <= number <= 1024 for pair in lengths[0] for number in pair} == {True}


@pytest.fixture(scope="module")
def tiny() -> RandomModel:
    """A random model as the benchmark makes it."""
    return make_model("tiny", "cpu", 8192)


def test_a_step_reads_all_weights_but_the_embedding_table_and_the_cache(tiny: RandomModel) -> None:
    table_bytes = 4096 * 64 * 2
    kv_bytes = 2 * 2 * 2 * 64 * 2  # keys and values, layers, heads, width, bytes of a number

    assert tiny.weight_bytes == tiny.loaded.weights.num_bytes - table_bytes
    assert tiny.step_bytes(3, 10) == tiny.weight_bytes + 3 * 10 * kv_bytes


def test_only_text_is_generated(tiny: RandomModel) -> None:
    import torch

    logits = tiny.loaded.model(torch.tensor([tiny.word_token_ids[:64]])).logits[0]

    assert torch.isfinite(logits).all()
    assert set(logits.argmax(dim=-1).tolist()) <= set(tiny.word_token_ids)


@pytest.mark.parametrize(
    ("goal", "figure", "reached"),
    [
        (Goal(0.7, 0.85, "%"), 0.9, "stretch"),
        (Goal(0.7, 0.85, "%"), 0.7, "must"),
        (Goal(0.7, 0.85, "%"), 0.69, "no"),
        (Goal(45, 30, "ms", is_upper=True), 31, "must"),
        (Goal(45, 30, "ms", is_upper=True), 46, "no"),
        (Goal(1, None, "%"), 1, "must"),
    ],
)
def test_a_row_says_which_goal_is_reached(goal: Goal, figure: float, reached: str) -> None:
    assert Row("name", "result", ratio=figure, goal=goal).reached == reached
    assert Row("name", "result", value=figure, goal=goal).reached == reached
