"""Each kernel against attention in float64, on fresh random inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from tests.engine.continuous.cuda.conftest import HAS_GPU

if HAS_GPU:
    pytestmark = pytest.mark.gpu

pytest.importorskip("triton")

from palma.engine.continuous.cuda.paged_attention import (
    KEY_CACHE,
    VALUE_CACHE,
    PackedBatch,
    Scratch,
    TileShape,
    packed_batch,
    paged_attention_cuda,
)

BLOCK_SIZE = 16
MAX_ERROR = {torch.float32: 1e-3, torch.bfloat16: 1e-2, torch.float16: 2e-3}


@dataclass(frozen=True)
class Case:
    """A batch: the lengths of sequences that decode, and (past, new) of prompts."""

    decodes: tuple[int, ...] = ()
    prompts: tuple[tuple[int, int], ...] = ()
    num_heads: int = 4
    num_kv_heads: int = 2
    key_dim: int = 64
    value_dim: int = 64
    dtype: torch.dtype = torch.float32
    sliding_window: int | None = None
    softcap: float | None = None
    has_sinks: bool = False
    scaling: float | None = None
    num_splits: int = 1


CASES = {
    "one key": Case(decodes=(1,)),
    "lengths": Case(decodes=(1, 15, 16, 17, 64, 65, 130)),
    "split": Case(decodes=(3, 70, 257), num_splits=4),
    "split among more than there are": Case(decodes=(1, 40), num_splits=32),
    "groups": Case(decodes=(33, 90), num_heads=6, num_kv_heads=2, num_splits=2),
    "a head each": Case(decodes=(33, 90), num_heads=3, num_kv_heads=3),
    "one kv head": Case(decodes=(20,), prompts=((0, 9),), num_heads=18, num_kv_heads=1),
    "head of 128": Case(decodes=(50,), prompts=((7, 20),), key_dim=128, value_dim=128),
    "head of 256": Case(decodes=(50,), prompts=((7, 20),), key_dim=256, value_dim=256),
    "head of 80": Case(decodes=(50,), prompts=((7, 20),), key_dim=80, value_dim=80),
    "head of 8": Case(decodes=(50,), prompts=((7, 20),), key_dim=8, value_dim=8),
    "latent": Case(decodes=(50,), prompts=((7, 20),), key_dim=48, value_dim=32),
    "window": Case(decodes=(5, 31, 32, 33, 90), prompts=((0, 50), (70, 9)), sliding_window=32),
    "window, split": Case(decodes=(5, 33, 200), sliding_window=100, num_splits=4),
    "softcap": Case(decodes=(40,), prompts=((3, 30),), softcap=2.0, num_splits=2),
    "sinks": Case(decodes=(40, 1), prompts=((3, 30),), has_sinks=True),
    "sinks, split": Case(decodes=(80, 1), has_sinks=True, num_splits=2),
    "scaling": Case(decodes=(40,), prompts=((3, 30),), scaling=0.5),
    "prompts": Case(prompts=((0, 1), (0, 63), (0, 64), (5, 65), (128, 130))),
    "mixed": Case(decodes=(9, 77), prompts=((16, 70), (0, 5)), num_splits=2),
    "bfloat16": Case(
        decodes=(9, 177), prompts=((16, 70), (0, 5)), num_splits=2, dtype=torch.bfloat16
    ),
    "float16": Case(decodes=(9, 77), prompts=((16, 70),), dtype=torch.float16),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_attention_in_float64(name: str, device: torch.device) -> None:
    case = CASES[name]
    if case.dtype == torch.bfloat16 and device.type == "cpu":
        pytest.skip("Triton's interpreter multiplies bfloat16 as if it were integers")
    torch.manual_seed(len(name))
    scene = Scene(case, device)

    attended = scene.run()

    expected = scene.expected()
    assert not attended.isnan().any(), "something was not written, or read from elsewhere"
    error = (attended.double() - expected).norm() / expected.norm()
    assert error < MAX_ERROR[case.dtype]


@pytest.mark.parametrize("name", ["lengths", "split", "mixed"])
def test_stores_keys_and_values_and_nothing_else(name: str, device: torch.device) -> None:
    scene = Scene(CASES[name], device)
    before = [cache.clone() for cache in scene.caches]

    scene.run()

    for cache, old, new in zip(scene.caches, before, (scene.key, scene.value), strict=True):
        places = scene.new_places()
        assert torch.equal(cache[:, places], new[0])
        cache[:, places] = old[:, places]
        assert torch.equal(cache.nan_to_num(7), old.nan_to_num(7))


class Scene:
    """Random inputs; whatever no sequence owns is NaN, so that a stray read shows."""

    def __init__(self, case: Case, device: torch.device) -> None:
        self.case, self.device = case, device
        self.lengths = [*case.decodes, *(past + new for past, new in case.prompts)]
        num_new = len(case.decodes) + sum(new for _, new in case.prompts)
        self.query = self._random(1, case.num_heads, num_new, case.key_dim)
        self.key = self._random(1, case.num_kv_heads, num_new, case.key_dim)
        self.value = self._random(1, case.num_kv_heads, num_new, case.value_dim)
        self.sinks = self._random(case.num_heads) if case.has_sinks else None
        num_blocks = sum(-(-length // BLOCK_SIZE) for length in self.lengths) + 3
        order = iter(torch.randperm(num_blocks).tolist())
        self.tables = [
            [next(order) for _ in range(-(-length // BLOCK_SIZE))] for length in self.lengths
        ]
        num_slots = num_blocks * BLOCK_SIZE
        shape = (case.num_kv_heads, num_slots)
        self.caches = [
            torch.full((*shape, dim), torch.nan, dtype=case.dtype, device=device)
            for dim in (case.key_dim, case.value_dim)
        ]
        for index, past in enumerate(self._pasts()):
            places = self._places(index)[:past]
            for cache in self.caches:
                cache[:, places] = torch.randn_like(cache[:, places], dtype=torch.float32).to(
                    case.dtype
                )

    def run(self) -> torch.Tensor:
        """Call the attention function as a model does."""
        module: Any = torch.nn.Module()
        setattr(module, KEY_CACHE, self.caches[0])
        setattr(module, VALUE_CACHE, self.caches[1])
        with packed_batch(self._batch()):
            out, _ = paged_attention_cuda(
                module,
                self._as_models_do(self.query),
                self._as_models_do(self.key),
                self._as_models_do(self.value),
                scaling=self.case.scaling,
                sliding_window=self.case.sliding_window,
                softcap=self.case.softcap,
                s_aux=self.sinks,
            )
        return out

    def expected(self) -> torch.Tensor:
        """Attention by its definition, in float64, a sequence at a time."""
        case, out, row = self.case, [], 0
        for index, past in enumerate(self._pasts()):
            num_new = self.lengths[index] - past
            new = slice(row, row + num_new)
            row += num_new
            stored = [cache[:, self._places(index)[:past]] for cache in self.caches]
            keys = torch.cat([stored[0], self.key[0, :, new]], dim=1).double()
            values = torch.cat([stored[1], self.value[0, :, new]], dim=1).double()
            group = case.num_heads // case.num_kv_heads
            keys, values = keys.repeat_interleave(group, 0), values.repeat_interleave(group, 0)
            scale = case.key_dim**-0.5 if case.scaling is None else case.scaling
            scores = self.query[0, :, new].double() @ keys.transpose(1, 2) * scale
            if case.softcap is not None:
                scores = case.softcap * torch.tanh(scores / case.softcap)
            at_key = torch.arange(self.lengths[index], device=self.device)
            at_query = torch.arange(past, self.lengths[index], device=self.device)[:, None]
            seen = at_key <= at_query
            if case.sliding_window is not None:
                seen &= at_key > at_query - case.sliding_window
            scores = scores.masked_fill(~seen, -torch.inf)
            if self.sinks is not None:
                column = self.sinks.double()[:, None, None].expand(-1, num_new, 1)
                scores = torch.cat([scores, column], dim=-1)
            weights = scores.softmax(-1)[..., : self.lengths[index]]
            out.append((weights @ values).transpose(0, 1))
        return torch.cat(out)[None]

    def new_places(self) -> torch.Tensor:
        """Where the new tokens belong."""
        return torch.cat([self._places(i)[past:] for i, past in enumerate(self._pasts())])

    def _batch(self) -> PackedBatch:
        case = self.case
        num_decodes = len(case.decodes)
        width = max(len(table) for table in self.tables)
        tables = torch.full((len(self.tables), width), -1, dtype=torch.int32)
        for slot, table in enumerate(self.tables):
            tables[slot, : len(table)] = torch.tensor(table)
        pasts = self._pasts()
        positions = [
            torch.arange(past, length) for past, length in zip(pasts, self.lengths, strict=True)
        ]
        shape = TileShape.of(case.dtype, max(case.key_dim, case.value_dim))
        tiles, row = [], num_decodes
        for slot, (past, new) in enumerate(case.prompts, num_decodes):
            for start in range(0, new, shape.queries):
                size = min(shape.queries, new - start)
                tiles.append([slot, row + start, past + start, size])
            row += new
        return PackedBatch(
            block_tables=tables.to(self.device),
            row_slots=torch.arange(num_decodes, dtype=torch.int32, device=self.device),
            positions=torch.cat(positions).to(self.device),
            token_slots=self.new_places()[num_decodes:].to(self.device) if tiles else None,
            tiles=torch.tensor(tiles, dtype=torch.int64, device=self.device) if tiles else None,
            block_size=BLOCK_SIZE,
            shape=shape,
            num_splits=case.num_splits,
            scratch=Scratch(self.device),
        )

    def _pasts(self) -> list[int]:
        case = self.case
        return [*(length - 1 for length in case.decodes), *(past for past, _ in case.prompts)]

    def _places(self, index: int) -> torch.Tensor:
        at = torch.arange(self.lengths[index])
        table = torch.tensor(self.tables[index])
        return (table[at // BLOCK_SIZE] * BLOCK_SIZE + at % BLOCK_SIZE).to(self.device)

    def _random(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, device=self.device).to(self.case.dtype)

    def _as_models_do(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the same numbers in the order in memory that projections leave them in."""
        return tensor.transpose(1, 2).contiguous().transpose(1, 2)
