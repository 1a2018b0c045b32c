"""Steps as CUDA graphs: one launch in place of a thousand."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from palma.engine.continuous.cuda.mark import Mark
from palma.engine.continuous.cuda.prompt_inputs import PassShape, PromptInputs, last_rows
from palma.engine.continuous.cuda.runner import CudaRunner, graph_sizes
from palma.engine.continuous.cuda.slot_table import pinned
from palma.engine.continuous.scheduler import Chunk, Sequence

logger = logging.getLogger(__name__)

capture_lock = threading.Lock()
"""Held by whoever captures a graph, or compiles: a compiler may synchronize the whole device."""

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

    graph: RecordedPass
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
        make_graph: Makes what records a pass; None: every pass is launched in parts.
    """

    def __init__(
        self,
        runner: CudaRunner,
        num_slots: int,
        max_prompt_tokens: int,
        make_graph: Callable[[], RecordedPass] | None,
    ) -> None:
        self._runner = runner
        self._make_graph = make_graph
        self._device = runner.slots.block_tables.device
        self.row_sizes = graph_sizes(num_slots)
        fitting = [size for size in MIXED_ROW_SIZES if size < self.row_sizes[-1]]
        self.mixed_row_sizes = [*fitting, self.row_sizes[-1]]
        self.prompt_sizes = [size for size in PROMPT_SIZES if size <= max_prompt_tokens]
        largest = self.row_sizes[-1] + max_prompt_tokens
        self._numbers = torch.zeros(2, largest, dtype=torch.int64, device=self._device)
        self._captured: dict[PassShape, CapturedStep] = {}

    def clear(self) -> None:
        """Give the memory of the graphs back."""
        self._captured.clear()

    def capture(self) -> None:
        """Capture all sizes; see `capture_parts`."""
        for is_captured in self.capture_parts():
            if not is_captured:
                time.sleep(0.05)

    def capture_parts(self) -> Iterator[bool]:
        """Capture all sizes, one at a time, the largest first: the others fit into its memory.

        Each part tells whether it could be done: while another model is compiled none can.

        A model that does something no graph can hold goes on without, and the log says why.
        """
        if self._make_graph is None:
            return
        started = time.monotonic()
        captured: dict[PassShape, CapturedStep] = {}
        for shape in self._shapes():
            while not capture_lock.acquire(blocking=False):
                yield False
            try:
                captured[shape] = self._capture(shape)
            except Exception as error:  # noqa: BLE001  # whatever the model does: it runs without
                message = str(error).partition("\n")[0]
                instead = "with the graphs of before" if self._captured else "without CUDA graphs"
                logger.warning("steps run %s: %s", instead, message)
                return
            finally:
                capture_lock.release()
            yield True
        self._captured = captured
        took_s = time.monotonic() - started
        logger.info(
            "captured %d CUDA graphs in %.1f s; %s", len(captured), took_s, self._durations()
        )

    @torch.inference_mode()
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

    @torch.inference_mode()
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
        captured.prompts.copy_(pinned(numbers, self._device), non_blocking=True)
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

    def _durations(self) -> str:
        """Say what steps take without any sequence."""
        rows, tokens = self.row_sizes, self.prompt_sizes
        decode = [f"{1000 * (self.decode_s(n) or 0):.2f}" for n in (rows[0], rows[-1])]
        mixed = [f"{1000 * (self.step_s(rows[-1], n) or 0):.1f}" for n in tokens]
        return (
            f"a step takes {decode[0]} ms for 1 sequence, {decode[1]} for {rows[-1]}, and with "
            f"{', '.join(map(str, tokens))} prompt tokens beside these {', '.join(mixed)} ms"
        )

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
    def _capture(self, shape: PassShape) -> CapturedStep:
        self._runner.send_rows([], shape.num_rows)
        numbers, prompts = None, None
        if shape.num_tokens:
            numbers = self._runner.describe([], [], shape).to(self._device)
            prompts = PromptInputs.view(numbers, shape)
        token_ids, positions = self._numbers[:, : shape.num_rows + shape.num_tokens]
        assert self._make_graph is not None
        graph = self._make_graph()
        logits = graph.record(lambda: self._runner.run(token_ids, positions, prompts))
        return CapturedStep(graph, numbers, logits, _duration_s(graph, self._device))


class RecordedPass(Protocol):
    """Something that was done once, and can be done again."""

    def record(self, run: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Do it; return where its result will be each time."""

    def replay(self) -> None:
        """Do it again with what is in its inputs now."""


class CudaGraph:
    """A RecordedPass on a GPU; all of them share their memory.

    Args:
        pool: The memory.
    """

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._graph = torch.cuda.CUDAGraph()

    def record(self, run: Callable[[], torch.Tensor]) -> torch.Tensor:
        """See `RecordedPass.record`."""
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # kernels are compiled, libraries choose theirs
            run()
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(self._graph, pool=self._pool, capture_error_mode="thread_local"):
            return run()

    def replay(self) -> None:
        """See `RecordedPass.replay`."""
        self._graph.replay()


def cuda_graph_class(device: torch.device) -> Callable[[], RecordedPass] | None:
    """Return what makes CUDA graphs that share their memory; None where there are none."""
    if device.type != "cuda":
        return None
    pool = torch.cuda.graph_pool_handle()
    return lambda: CudaGraph(pool)


def _duration_s(graph: RecordedPass, device: torch.device) -> float:
    """Return what a replay takes; the first one is not counted."""
    graph.replay()
    before = Mark(device)
    graph.replay()
    after = Mark(device)
    after.wait()
    return before.seconds_until(after)
