"""The engine for GPUs as tests make it.

Without a GPU its kernels are replaced by a few lines of torch that do the same: Triton's
interpreter takes a second for each step. The kernels have tests of their own, interpreted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from palma.core.config import Settings
from palma.core.types import SamplingParams
from palma.engine.continuous.cuda import engine as engine_module
from palma.engine.continuous.cuda import paged_attention, slot_table
from palma.engine.continuous.cuda.creation import create_cuda_engine
from palma.engine.continuous.cuda.engine import CudaEngine
from palma.engine.continuous.cuda.paged_attention import PackedBatch
from palma.engine.continuous.cuda.sampling import DeviceSampler
from palma.engine.continuous.self_check import check_model
from palma.engine.sampler import candidates, draw
from palma.models.loader import LoadedModel
from tests.engine.continuous.cuda.conftest import HAS_GPU

DEVICE = "cuda:0" if HAS_GPU else "cpu"


def make_cuda_engine(
    loaded: LoadedModel, executor: Executor, max_running: int, *, num_tokens: int = 512
) -> CudaEngine:
    """Return an engine with a cache of so many tokens."""
    settings = Settings(threads_max_workers=max_running, kv_cache_tokens=num_tokens)
    sample = check_model(loaded.model).kv_cache
    return create_cuda_engine(settings, loaded, executor, sample)


@contextmanager
def kernels_for_tests() -> Iterator[None]:
    """Compute without Triton where there is no GPU."""
    with pytest.MonkeyPatch.context() as patch:
        if not HAS_GPU:
            patch.setattr(slot_table, "update_kernel", _Launched(_update))
            patch.setattr(slot_table, "gather_kernel", _Launched(_gather))
            patch.setattr(slot_table, "advance_kernel", _Launched(_advance))
            patch.setattr(paged_attention, "_attend", _attend)
            patch.setattr(engine_module, "DeviceSampler", TorchSampler)
        yield


class _Launched:
    """Is called as a kernel is, with a grid."""

    def __init__(self, function: Callable[..., None]) -> None:
        self._function = function

    def __getitem__(self, _: Any) -> Callable[..., None]:
        return self._function


def _update(state: torch.Tensor, updates: torch.Tensor, count: int, **_: Any) -> None:
    state[updates[:count].long()] = updates[count : 2 * count]


def _gather(  # noqa: PLR0917
    row_slots: torch.Tensor,
    num_tokens: torch.Tensor,
    last_tokens: torch.Tensor,
    token_ids: torch.Tensor,
    positions: torch.Tensor,
    count: int,
    **_: Any,
) -> None:
    slots = row_slots[:count].long()
    token_ids[:count] = last_tokens[slots]
    positions[:count] = num_tokens[slots] - 1


def _advance(
    slots: torch.Tensor,
    chosen: torch.Tensor,
    num_tokens: torch.Tensor,
    last_tokens: torch.Tensor,
    *_: Any,
    **__: Any,
) -> None:
    last_tokens[slots.long()] = chosen.clamp_min(0).int()
    num_tokens[slots.long()] += 1


def _attend(  # noqa: PLR0917
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    sinks: torch.Tensor | None,
    scaling: float,
    sliding_window: int,
    softcap: float,
) -> torch.Tensor:
    """Attention by its definition, a row after the other."""
    batch: PackedBatch = paged_attention._current.batch
    out = query.new_zeros(1, query.shape[2], query.shape[1], value.shape[3])
    rows = [(row, int(slot), int(batch.positions[row])) for row, slot in enumerate(batch.row_slots)]
    if batch.tiles is not None:
        rows += [
            (first + i, slot, position + i)
            for slot, first, position, length in batch.tiles.tolist()
            for i in range(length)
        ]
    group = query.shape[1] // key.shape[1]
    places = {}
    for row, slot, position in rows:
        at = torch.arange(position + 1)
        table, size = batch.block_tables[slot].long(), batch.block_size
        places[row] = table[at // size] * size + at % size
        key_cache[:, places[row][-1]] = key[0, :, row]
        value_cache[:, places[row][-1]] = value[0, :, row]
    for row, _, position in rows:
        seen = places[row][max(0, position + 1 - sliding_window) if sliding_window else 0 :]
        keys, values = (
            cache[:, seen].repeat_interleave(group, 0) for cache in (key_cache, value_cache)
        )
        scores = (keys @ query[0, :, row, :, None])[..., 0] * scaling
        if softcap:
            scores = softcap * torch.tanh(scores / softcap)
        if sinks is not None:
            scores = torch.cat([scores, sinks[:, None]], dim=-1)
        weights = scores.softmax(-1)[:, : len(seen)]
        out[0, row] = (weights[:, None] @ values)[:, 0]
    return out


class TorchSampler(DeviceSampler):
    """Draws as the kernels do, by the slot's parameters, its seed and the position."""

    def __init__(self, num_slots: int, device: torch.device) -> None:
        self._by_slot = [SamplingParams(temperature=0)] * num_slots

    def set(self, slots: Sequence[int], params: Sequence[SamplingParams]) -> None:
        for slot, own in zip(slots, params, strict=True):
            self._by_slot[slot] = own

    def sample(
        self, logits: torch.Tensor, slots: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        rows = zip(logits.float(), slots.tolist(), positions.tolist(), strict=True)
        return torch.tensor([self._choose(row, self._by_slot[slot], at) for row, slot, at in rows])

    def _choose(self, logits: torch.Tensor, params: SamplingParams, position: int) -> int:
        if not logits.max().isfinite():
            return -1
        if params.is_greedy:
            return int(logits.argmax())
        generator = torch.Generator()
        if params.seed is not None:
            generator.manual_seed(params.seed * 100_003 + position)
        else:
            generator.seed()
        weights, token_ids = candidates(logits, params)
        return int(token_ids[draw(weights, generator)])
