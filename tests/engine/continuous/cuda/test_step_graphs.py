"""Steps that are recorded once and filled up: the same tokens as without.

Where there is no GPU, recording is emulated: a pass is done again by the host, into the same
places.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tests.engine.continuous.cuda.conftest import HAS_GPU
from tests.engine.suite import submit
from tests.tiny_models import tiny_llama, tiny_loaded_model

pytest.importorskip("triton")

from palma.engine.continuous.cuda import creation, slot_table, step_graphs
from tests.engine.continuous.cuda.engines import (
    DEVICE,
    kernels_for_tests,
    make_cuda_engine,
)

PROMPTS = [[1, 2, 3], list(range(50, 90)), [7], [200] * 12, list(range(9, 150))]
MAX_TOKENS = 6


class Emulated:
    """Does a pass again where a graph would."""

    def record(self, run: Callable[[], torch.Tensor]) -> torch.Tensor:
        self._run = run
        self._result = run().clone()
        return self._result

    def replay(self) -> None:
        self._result.copy_(self._run())


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How often a recorded pass was done."""
    names: list[str] = []
    recorded = step_graphs.CudaGraph if HAS_GPU else Emulated
    replay = recorded.replay

    def counted(self: object) -> None:
        names.append("replay")
        replay(self)  # type: ignore[arg-type]

    monkeypatch.setattr(recorded, "replay", counted)
    if not HAS_GPU:
        monkeypatch.setattr(creation, "cuda_graph_class", lambda _: Emulated)
        monkeypatch.setattr(step_graphs, "MIXED_ROW_SIZES", (2,))
        monkeypatch.setattr(step_graphs, "PROMPT_SIZES", (16, 64))
    return names


def test_tokens_equal_generate(replays: list[str]) -> None:
    with kernels_for_tests(), ThreadPoolExecutor(1) as executor:
        engine = make_cuda_engine(tiny_loaded_model(device=DEVICE), executor, 3)
        num_trials = len(replays)
        running = [
            submit(engine, str(number), prompt, max_tokens=MAX_TOKENS)
            for number, prompt in enumerate(PROMPTS)
        ]
        for collected in running:
            assert collected.wait() == "length"
        engine.close()

    for prompt, collected in zip(PROMPTS, running, strict=True):
        inputs = torch.tensor([prompt])
        output = tiny_llama().generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=MAX_TOKENS,
            do_sample=False,
        )
        assert collected.token_ids == output[0, len(prompt) :].tolist()
    assert len(replays) > num_trials + MAX_TOKENS, "hardly any step was a recorded one"


def test_a_window_smaller_than_any_recorded_step_is_served(replays: list[str]) -> None:
    loaded = dataclasses.replace(tiny_loaded_model(device=DEVICE), max_model_len=15)
    with kernels_for_tests(), ThreadPoolExecutor(1) as executor:
        engine = make_cuda_engine(loaded, executor, 3)
        running = [submit(engine, str(n), [5, 6, n], max_tokens=8) for n in range(4)]
        for collected in running:
            assert collected.wait() == "length"
        engine.close()


def test_what_the_device_was_not_told_is_told_again(
    replays: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An allocation fails once; the requests of then and later ones are right all the same."""
    calls: list[int] = []
    send = slot_table.to_device

    def fails_once(numbers: torch.Tensor, device: torch.device) -> torch.Tensor:
        calls.append(len(numbers))
        if len(calls) == 2:
            raise torch.OutOfMemoryError("pretended")
        return send(numbers, device)

    prompts = [[1, 2, 3], [7], list(range(50, 90))]
    with kernels_for_tests(), ThreadPoolExecutor(1) as executor:
        engine = make_cuda_engine(tiny_loaded_model(device=DEVICE), executor, 3)
        alone = [submit(engine, f"alone-{p}", p, max_tokens=MAX_TOKENS) for p in prompts]
        for collected in alone:
            collected.wait()
        monkeypatch.setattr(slot_table, "to_device", fails_once)
        for attempt in range(3):
            running = [submit(engine, f"{attempt}-{p}", p, max_tokens=MAX_TOKENS) for p in prompts]
            for collected, expected in zip(running, alone, strict=True):
                assert collected.wait() == "length"
                assert collected.token_ids == expected.token_ids
        engine.close()
    assert len(calls) > 2, "it never failed"
