"""The C++ decode kernel against attention in float64, and how it comes to be."""

from __future__ import annotations

import logging
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from palma.core.types import SamplingParams
from palma.engine.base import EngineRequest
from palma.engine.continuous.attention import ForwardContext
from palma.engine.continuous.cpu_kernel import (
    DecodeKernel,
    KernelBuild,
    build,
    load_kernel,
)
from palma.engine.continuous.kv_cache import KVCache
from palma.engine.continuous.runner import Runner
from palma.engine.continuous.scheduler import Chunk, Sequence
from palma.engine.continuous.score_rules import ScoreRules
from tests.tiny_models import tiny_llama

MAX_RELATIVE_ERROR = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
LENGTHS = [1, 400, 16, 17, 64, 65]
"""One alone, whole blocks and tiles, one more than those, and one that threads share."""


@dataclass
class Case:
    """A decode step over a cache whose blocks lie in any order, with NaN where nobody wrote."""

    num_heads: int = 8
    num_kv_heads: int = 2
    head_dim: int = 64
    value_dim: int = 64
    dtype: torch.dtype = torch.float32
    block_size: int = 16
    scaling: float | None = None
    sliding_window: int | None = None
    softcap: float | None = None
    has_sinks: bool = False

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        batch, max_blocks = len(LENGTHS), -(-max(LENGTHS) // self.block_size)
        num_slots = batch * max_blocks * self.block_size
        self.keys = torch.full((self.num_kv_heads, num_slots, self.head_dim), torch.nan)
        self.values = torch.full((self.num_kv_heads, num_slots, self.value_dim), torch.nan)
        self.keys, self.values = self.keys.to(self.dtype), self.values.to(self.dtype)
        tables = torch.randperm(batch * max_blocks, dtype=torch.int32)
        self.block_tables = tables.view(batch, max_blocks)
        self.kv_lengths = torch.tensor(LENGTHS, dtype=torch.int32)
        for row, length in enumerate(LENGTHS):
            slots = self.slots(row)[: length - 1]
            for cache in (self.keys, self.values):
                cache[:, slots] = torch.randn(cache.shape[0], length - 1, cache.shape[2]).to(
                    self.dtype
                )
        # Strided, as views of a model's projections are.
        self.query = self.random(batch, 1, self.num_heads, self.head_dim).transpose(1, 2)
        self.key = self.random(batch, 1, self.num_kv_heads, self.head_dim).transpose(1, 2)
        self.value = self.random(batch, 1, self.num_kv_heads, self.value_dim).transpose(1, 2)
        self.sinks = torch.randn(self.num_heads) if self.has_sinks else None

    def random(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape).to(self.dtype)

    def slots(self, row: int) -> torch.Tensor:
        offsets = torch.arange(self.block_size)
        slots = (self.block_tables[row][:, None] * self.block_size + offsets).flatten()
        return slots[: LENGTHS[row]].long()

    def attend(self, kernel: DecodeKernel) -> torch.Tensor:
        return kernel.attend(
            self.query,
            self.key,
            self.value,
            self.keys,
            self.values,
            block_tables=self.block_tables,
            kv_lengths=self.kv_lengths,
            block_size=self.block_size,
            rules=ScoreRules(self.scaling, self.sliding_window, self.softcap, self.sinks),
        )

    def expected(self, row: int) -> torch.Tensor:
        """(num_heads, value_dim), float64, from the definition; the new token is appended."""
        slots = self.slots(row)[:-1]
        keys = torch.cat([self.keys[:, slots], self.key[row]], dim=1).double()
        values = torch.cat([self.values[:, slots], self.value[row]], dim=1).double()
        num_groups = self.num_heads // self.num_kv_heads
        first = max(0, LENGTHS[row] - (self.sliding_window or LENGTHS[row]))
        keys = keys[:, first:].repeat_interleave(num_groups, 0)
        values = values[:, first:].repeat_interleave(num_groups, 0)
        scores = (keys @ self.query[row].double().transpose(1, 2))[:, :, 0]
        scores = scores * (self.head_dim**-0.5 if self.scaling is None else self.scaling)
        if self.softcap is not None:
            scores = self.softcap * torch.tanh(scores / self.softcap)
        if self.sinks is not None:
            scores = torch.cat([scores, self.sinks.double()[:, None]], dim=1)
        weights = scores.softmax(1)[:, : keys.shape[1]]
        return (weights[:, None] @ values)[:, 0]


def assert_right(case: Case, kernel: DecodeKernel) -> None:
    expected = torch.stack([case.expected(row) for row in range(len(LENGTHS))])

    actual = case.attend(kernel)[:, 0].double()

    error = (actual - expected).abs().max() / expected.abs().max()
    assert float(error) < MAX_RELATIVE_ERROR[case.dtype]
    for row in range(len(LENGTHS)):
        assert torch.equal(case.keys[:, case.slots(row)[-1]], case.key[row, :, 0])
        assert torch.equal(case.values[:, case.slots(row)[-1]], case.value[row, :, 0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("head_dim", [8, 64, 80, 128, 256])
@pytest.mark.parametrize("group_size", [1, 3, 8])
def test_it_computes_attention(
    kernel: DecodeKernel, group_size: int, head_dim: int, dtype: torch.dtype
) -> None:
    case = Case(2 * group_size, 2, head_dim=head_dim, value_dim=head_dim, dtype=dtype)

    assert_right(case, kernel)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "case",
    [
        {"num_kv_heads": 4},
        {"num_heads": 24},
        {"num_heads": 40, "num_kv_heads": 1},
        {"sliding_window": 1},
        {"sliding_window": 50},
        {"softcap": 2.0},
        {"softcap": 50.0, "scaling": 0.3},
        {"has_sinks": True},
        {"has_sinks": True, "sliding_window": 128, "num_heads": 2},
        {"value_dim": 36},
        {"block_size": 4},
        {"scaling": 1.0},
    ],
    ids=str,
)
def test_it_does_what_models_ask_for(
    kernel: DecodeKernel, case: dict[str, int], dtype: torch.dtype
) -> None:
    assert_right(Case(**case, dtype=dtype), kernel)  # type: ignore[arg-type]


@pytest.mark.parametrize("num_threads", [1, 3])
def test_it_computes_the_same_with_any_number_of_threads(
    kernel: DecodeKernel, num_threads: int
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        assert_right(Case(), kernel)
    finally:
        torch.set_num_threads(before)


def test_a_nan_stays_in_its_own_sequence(kernel: DecodeKernel) -> None:
    case = Case()
    case.key[1] = torch.nan

    attended = case.attend(kernel)

    assert attended[1].isnan().all()
    assert not attended[[0, *range(2, len(LENGTHS))]].isnan().any()


def test_what_it_cannot_compute_it_does_not_take(kernel: DecodeKernel) -> None:
    one, two = torch.zeros(2, 4, 1, 8), torch.zeros(2, 4, 2, 8)

    assert kernel.takes(one, one, one)
    assert kernel.takes(one.bfloat16(), one.bfloat16(), one.bfloat16())
    assert not kernel.takes(two, two, two)
    assert not kernel.takes(one.half(), one.half(), one.half())
    assert not kernel.takes(one, one.bfloat16(), one)
    assert not kernel.takes(one[..., ::2], one, one)


def test_greedy_tokens_equal_generate(kernel: DecodeKernel) -> None:
    model = tiny_llama()
    prompts = [[1, 2, 3], list(range(50, 90)), [7]]
    expected = []
    for prompt in prompts:
        output = model.generate(torch.tensor([prompt]), max_new_tokens=20, do_sample=False)
        expected.append([int(token_id) for token_id in output[0]])
    runner = Runner(model, KVCache(num_blocks=48, block_size=8))
    runner.use_kernel(kernel)
    sequences = [
        Sequence(
            EngineRequest(f"request-{n}", prompt, SamplingParams()),
            lambda _: None,
            n,
            list(prompt),
            block_table=list(range(47 - n, -1, -3)),
        )
        for n, prompt in enumerate(prompts)
    ]

    for sequence in sequences:
        logits = runner.prefill(Chunk(sequence, sequence.num_uncomputed))
        sequence.token_ids.append(int(logits.argmax()))
    for _ in range(19):
        for sequence, logits in zip(sequences, runner.decode(sequences), strict=True):
            sequence.token_ids.append(int(logits.argmax()))

    assert [sequence.token_ids for sequence in sequences] == expected


def test_the_context_finds_slots_only_for_the_portable_path() -> None:
    context = ForwardContext(KVCache(num_blocks=8, block_size=4))
    context.begin(
        torch.tensor([[5, 2], [7, 7]], dtype=torch.int32),
        torch.tensor([6, 3], dtype=torch.int32),
        torch.tensor([[5], [2]]),
    )

    assert context.past_slots.tolist() == [[20, 21, 22, 23, 8, 9], [28, 29, 30, 28, 28, 28]]
    assert context.new_slots.tolist() == [9, 30]


def test_a_second_start_does_not_compile(cache_folder: Path, kernel: DecodeKernel) -> None:
    def no_compiler(_: list[str]) -> None:
        raise AssertionError("it was built already")

    load_kernel(cache_folder, no_compiler)


def test_two_builds_at_once_leave_one_whole_library(
    cache_folder: Path, kernel: DecodeKernel, tmp_path: Path
) -> None:
    finished = next(cache_folder.glob("*.so")).read_bytes()
    together = threading.Barrier(2, timeout=10)

    def copy(command: list[str]) -> None:
        together.wait()
        Path(command[-1]).write_bytes(finished)

    with ThreadPoolExecutor(2) as executor:
        for future in [executor.submit(load_kernel, tmp_path, copy) for _ in range(2)]:
            future.result()

    assert [path.read_bytes() for path in tmp_path.iterdir()] == [finished]


def test_the_engine_gets_the_kernel_from_a_thread(cache_folder: Path, kernel: DecodeKernel) -> None:
    ready: list[DecodeKernel] = []
    arrived = threading.Event()

    def on_ready(found: DecodeKernel) -> None:
        ready.append(found)
        arrived.set()

    building = KernelBuild(on_ready, cache_folder=cache_folder)

    assert arrived.wait(10)
    building.close()
    assert len(ready) == 1


def test_switched_off_it_does_nothing(tmp_path: Path) -> None:
    building = KernelBuild(ignore, is_enabled=False, cache_folder=tmp_path)

    building.close()

    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel is built on Linux only")
@pytest.mark.parametrize(
    ("compilers", "reason"),
    [(("no-such-compiler",), "none of no-such-compiler is installed"), (("false",), "failed")],
)
def test_without_a_kernel_the_log_says_why_once(
    compilers: tuple[str, ...],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(build, "COMPILERS", compilers)
    failed = threading.Event()
    caplog.set_level(logging.INFO)

    building = KernelBuild(lambda _: failed.set(), cache_folder=tmp_path)
    building._thread.join()
    building.close()

    assert not failed.is_set()
    assert [record.message for record in caplog.records if reason in record.message]
    assert len(caplog.records) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel is built on Linux only")
def test_closing_stops_the_compiler_and_what_it_has_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While the shell's `sleep` lives, nobody who waits for the shell's output gets to its end."""
    compiler = tmp_path / "endless"
    compiler.write_text("#!/bin/sh\necho here > $0.started\nsleep 600\n")
    compiler.chmod(0o700)
    monkeypatch.setattr(build, "COMPILERS", (str(compiler),))
    caplog.set_level(logging.INFO)
    building = KernelBuild(ignore, cache_folder=tmp_path / "cache")
    while not compiler.with_suffix(".started").exists():
        time.sleep(0.01)

    building.close()

    assert [record.message for record in caplog.records] == [
        "decoding without the C++ kernel: the server stops"
    ]


def ignore(_: DecodeKernel) -> None:
    pass
