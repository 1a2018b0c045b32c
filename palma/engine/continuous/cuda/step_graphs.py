"""Steps as CUDA graphs: one launch in place of a thousand."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from collections.abc import Sequence as Rows
from dataclasses import dataclass

import torch

from palma.engine.continuous.cuda.prompt_inputs import PassShape, PromptInputs, last_rows
from palma.engine.continuous.cuda.runner import CudaRunner, graph_sizes
from palma.engine.continuous.scheduler import Chunk, Sequence

logger = logging.getLogger(__name__)

PROMPT_SIZES = (128, 256, 512, 1024, 2048)
"""Tokens of prompts that steps are filled up to."""

MIXED_ROW_SIZES = (8, 64, 256)
"""Decoding rows that steps with prompts are filled up to: they cost little beside the prompts."""

MAX_CHUNKS = 16
"""Prompts of a step."""


@dataclass(frozen=True, slots=True)
class CapturedStep:
    """A graph with the places of its inputs and outputs.

    Attributes:
        prompts: (num_numbers,), int64: see PassShape; None without prompts.
        logits: (num_rows + num_kept, vocab_size).
        duration_s: What it took in its trial, without any sequence.
    """

    graph: torch.cuda.CUDAGraph
    prompts: torch.Tensor | None
    logits: torch.Tensor
    duration_s: float


class StepGraphs:
    """Passes of some sizes, captured once; belongs to the runner's thread.

    A step takes the smallest graph that has room for it. What is too large for all of them, or
    cannot be captured, is launched operation by operation.

    Args:
        runner: Its tensors keep their places while this lives.
        num_slots: Most rows of a batch.
        max_prompt_tokens: Most tokens of prompts in a step.
    """

    def __init__(self, runner: CudaRunner, num_slots: int, max_prompt_tokens: int) -> None:
        self._runner = runner
        self._device = runner.slots.block_tables.device
        self.row_sizes = graph_sizes(num_slots)
        fitting = [size for size in MIXED_ROW_SIZES if size < self.row_sizes[-1]]
        self.mixed_row_sizes = [*fitting, self.row_sizes[-1]]
        self.prompt_sizes = [size for size in PROMPT_SIZES if size <= max_prompt_tokens]
        largest = self.row_sizes[-1] + max_prompt_tokens
        self._numbers = torch.zeros(2, largest, dtype=torch.int64, device=self._device)
        self._captured: dict[PassShape, CapturedStep] = {}

    def capture(self) -> None:
        """Capture all sizes; see `capture_parts`."""
        for _ in self.capture_parts():
            pass

    def capture_parts(self) -> Iterator[None]:
        """Capture all sizes, one at a time, the largest first: the others fit into its memory.

        A model that does something no graph can hold goes on without, and the log says why.
        """
        if self._device.type != "cuda":
            return
        started = time.monotonic()
        pool = torch.cuda.graph_pool_handle()
        captured: dict[PassShape, CapturedStep] = {}
        for shape in self._shapes():
            try:
                captured[shape] = self._capture(shape, pool)
            except Exception as error:  # noqa: BLE001  # whatever the model does: it runs without
                torch.cuda.synchronize()
                message = str(error).partition("\n")[0]
                logger.warning("steps run without CUDA graphs: %s", message)
                return
            yield
        self._captured = captured
        took_s = time.monotonic() - started
        logger.info("captured %d CUDA graphs in %.1f s", len(captured), took_s)

    def decode(self, sequences: Rows[Sequence]) -> torch.Tensor:
        """Compute the last token of each sequence.

        Returns:
            (num_sequences, vocab_size); valid until the next call.
        """
        captured = self._captured.get(self._decode_shape(len(sequences)))
        if captured is None:
            return self._runner.step(sequences, [])
        num_rows = len(captured.logits)
        self._runner.send_rows(sequences, num_rows)
        captured.graph.replay()
        return captured.logits[: len(sequences)]

    def step(self, sequences: Rows[Sequence], chunks: Rows[Chunk]) -> torch.Tensor:
        """Compute the last token of sequences and the next ones of others.

        Returns:
            (num_sequences + num_chunks, vocab_size): the logits after the last of each; valid
            until the next call.
        """
        num_tokens = sum(chunk.num_tokens for chunk in chunks)
        shape = self._mixed_shape(len(sequences), num_tokens)
        captured = None if shape is None else self._captured.get(shape)
        if shape is None or captured is None or len(chunks) > MAX_CHUNKS:
            return self._runner.step(sequences, chunks)
        assert captured.prompts is not None
        self._runner.send_rows(sequences, shape.num_rows, chunks)
        numbers = self._runner.describe(chunks, last_rows(chunks), shape)
        captured.prompts.copy_(numbers.pin_memory(), non_blocking=True)
        captured.graph.replay()
        if len(sequences) == shape.num_rows:
            return captured.logits[: len(sequences) + len(chunks)]
        first = shape.num_rows
        return torch.cat(
            [captured.logits[: len(sequences)], captured.logits[first : first + len(chunks)]]
        )

    def decode_s(self, num_rows: int) -> float | None:
        """Return what a decode step of so many rows took in its trial, if there was one."""
        captured = self._captured.get(self._decode_shape(num_rows))
        return None if captured is None else captured.duration_s

    def step_s(self, num_rows: int, num_tokens: int) -> float | None:
        """Return the same of a step with tokens of prompts."""
        shape = self._mixed_shape(num_rows, num_tokens)
        captured = None if shape is None else self._captured.get(shape)
        return None if captured is None else captured.duration_s

    def _shapes(self) -> Iterator[PassShape]:
        for num_tokens in reversed(self.prompt_sizes):
            for num_rows in reversed(self.mixed_row_sizes):
                shape = self._mixed_shape(num_rows, num_tokens)
                assert shape is not None
                yield shape
        for num_rows in reversed(self.row_sizes):
            yield self._decode_shape(num_rows)

    def _decode_shape(self, num_rows: int) -> PassShape:
        size = next((size for size in self.row_sizes if size >= num_rows), num_rows)
        return PassShape(size, 0, 0, 0)

    def _mixed_shape(self, num_rows: int, num_tokens: int) -> PassShape | None:
        rows = next((size for size in self.mixed_row_sizes if size >= num_rows), None)
        tokens = next((size for size in self.prompt_sizes if size >= num_tokens), None)
        if rows is None or tokens is None:
            return None
        num_tiles = -(-tokens // self._runner.tile_size) + MAX_CHUNKS
        return PassShape(rows, tokens, num_tiles, MAX_CHUNKS)

    @torch.inference_mode()
    def _capture(self, shape: PassShape, pool: tuple[int, int]) -> CapturedStep:
        self._runner.send_rows([], shape.num_rows)
        numbers, prompts = None, None
        if shape.num_tokens:
            empty = self._runner.describe([], [], shape)
            numbers = empty.to(self._device)
            prompts = PromptInputs.view(numbers, shape)
        token_ids, positions = self._numbers[:, : shape.num_rows + shape.num_tokens]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # kernels are compiled, libraries choose theirs
            self._runner.run(token_ids, positions, prompts)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            logits = self._runner.run(token_ids, positions, prompts)
        return CapturedStep(graph, numbers, logits, _duration_s(graph))


def _duration_s(graph: torch.cuda.CUDAGraph) -> float:
    """Return what a replay takes; the first one is not counted."""
    graph.replay()
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    before.record()
    graph.replay()
    after.record()
    after.synchronize()
    return float(before.elapsed_time(after)) / 1000
