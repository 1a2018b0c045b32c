"""The continuous engine with one step in flight.

The device chooses the tokens and goes on from them, so a step is launched before the host knows
those of the one before; what the host does with them (ends, deltas, the next schedule) takes no
time from the device. A sequence whose end is only seen then has computed one token for nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from palma.core.errors import EngineFailure
from palma.engine.continuous.cuda.compiled_layers import CompiledLayers
from palma.engine.continuous.cuda.layer_compilation import CompiledAdoption, LayerCompilation
from palma.engine.continuous.cuda.mark import Mark
from palma.engine.continuous.cuda.runner import CudaRunner
from palma.engine.continuous.cuda.sampling import DeviceSampler
from palma.engine.continuous.cuda.slot_table import to_device
from palma.engine.continuous.cuda.step_graphs import MAX_CHUNKS, StepGraphs
from palma.engine.continuous.cuda.step_pacer import StepPacer
from palma.engine.continuous.engine import ContinuousEngine, needs_own_pass
from palma.engine.continuous.kv_cache import KVCache
from palma.engine.continuous.pacer import PrefillPacer
from palma.engine.continuous.scheduler import Chunk, Sequence
from palma.engine.sampler import Choice

if TYPE_CHECKING:
    from palma.models.loader import LoadedModel

logger = logging.getLogger(__name__)

MAX_PREFILL_TOKENS = 2048
"""Of a step; an H200 computes as many of an 8B model in 60 ms."""


class CudaEngine(ContinuousEngine):
    """Decodes all running sequences together on a GPU.

    Args:
        loaded: The model; its attention belongs to this engine until `close`.
        executor: Where the step loop runs, as one long-lived job.
        max_running: Most sequences that compute at once.
        runner: Of this model; its cache has a block more than are handed out.
        graphs: Of this runner.
        sample: A cache that has seen all layers, for their shapes.
        compiles_layers: Whether to compile the layers meanwhile, and to take them into use.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        executor: Executor,
        max_running: int,
        *,
        runner: CudaRunner,
        graphs: StepGraphs,
        sample: KVCache,
        compiles_layers: bool = False,
    ) -> None:
        self._cuda = runner
        self._graphs = graphs
        self._device_sampler = DeviceSampler(max_running + 1, loaded.model.device)
        self._slot_owners: list[Sequence | None] = [None] * max_running
        self._in_flight: LaunchedStep | None = None
        self._compile_kernels(loaded)
        self._step_pacer = StepPacer(graphs, PrefillPacer(MAX_PREFILL_TOKENS))
        super().__init__(
            loaded,
            executor,
            max_running,
            num_blocks=runner.kv_cache.num_blocks - 1,
            block_size=runner.kv_cache.block_size,
            max_prefill_tokens=MAX_PREFILL_TOKENS,
            runner=runner,
            max_chunks=MAX_CHUNKS,
        )
        self._sample = sample
        self._at_full_speed = threading.Event()
        self._compilation = LayerCompilation(
            loaded.model, self._note_compiled, self._at_full_speed.set
        )
        if compiles_layers:
            self._compilation.start()
        else:
            self._at_full_speed.set()

    def _compile_kernels(self, loaded: LoadedModel) -> None:
        """Have the kernels around a pass compiled before anybody waits for them."""
        table, model = self._cuda.slots, loaded.model
        slots = torch.full((1,), table.trash_slot, dtype=torch.int32, device=model.device)
        logits = torch.zeros(1, loaded.vocab_size, dtype=model.dtype, device=model.device)
        chosen = self._device_sampler.sample(logits, slots, table.num_tokens[slots])
        table.advance([], slots, chosen)

    def wait_ready(self) -> None:
        """Return when nothing is being compiled or captured any more."""
        self._at_full_speed.wait()

    def close(self) -> None:
        """Cancel everything and wait for the running step, and for the compiler."""
        with self._wake:
            self._is_closing = True
            self._wake.notify()
        self._compilation.close()
        super().close()
        self._compilation.layers.remove()
        self._graphs.clear()
        self._in_flight = self._adoption = self._next_adoption = None
        self._slot_owners.clear()
        self._at_full_speed.set()

    def _note_compiled(self, layers: CompiledLayers) -> None:
        """Have compiled layers taken into use; called by the thread that compiled them."""
        adoption = CompiledAdoption(self._model, layers, self._cuda, self._graphs, self._sample)
        self._begin_adoption(adoption)

    def step(self) -> None:
        """Launch the next step, then handle the tokens of the one before."""
        if self._adoption is not None and not self._adoption.is_blocked:
            self._settle_in_flight()
            self._advance_adoption()
            if self._adoption is None:
                self._at_full_speed.set()
        if self._scheduler.must_preempt:
            self._settle_in_flight()  # only what is known can be computed again
        num_decoding = sum(s.is_decoding for s in self._scheduler.running)
        batch = self._scheduler.schedule(self._step_pacer.budget(num_decoding))
        chunks = [chunk for chunk in batch.prefills if self._is_started(chunk)]
        shared = [chunk for chunk in chunks if not needs_own_pass(chunk)]
        launched = self._launch(batch.decodes, shared) if batch.decodes or shared else None
        self._settle_in_flight()
        self._in_flight = launched
        if launched is not None and launched.host_rows:
            self._settle_in_flight()  # their next tokens are known to the host alone
        for chunk in chunks:
            if needs_own_pass(chunk):
                self._prefill(chunk)
        self._last_step = time.monotonic()

    def _launch(self, decodes: list[Sequence], chunks: list[Chunk]) -> LaunchedStep | None:
        """Begin a step; what breaks it is found by computing its sequences one by one."""
        started = Mark(self._device)
        try:
            graphs = self._graphs
            logits = graphs.step(decodes, chunks) if chunks else graphs.decode(decodes)
        except Exception:
            logger.exception("a step failed as a whole; its sequences are computed one by one")
            self._compute_one_by_one(decodes, chunks)
            return None
        for sequence in decodes:
            self._scheduler.commit(sequence, 1)
        for chunk in chunks:
            self._scheduler.commit(chunk.sequence, chunk.num_tokens)
        complete = [*decodes, *(chunk.sequence for chunk in chunks)]
        rows = {
            sequence: row for row, sequence in enumerate(complete) if not sequence.num_uncomputed
        }
        host_rows = {s: row for s, row in rows.items() if not self._is_chosen_on_device(s)}
        chosen_on_device = [s for s in rows if s not in host_rows]
        token_ids = None
        if chosen_on_device:
            own = [rows[sequence] for sequence in chosen_on_device]
            token_ids = self._choose_on_device(chosen_on_device, _take_rows(logits, own))
        return LaunchedStep(
            started=started,
            done=Mark(self._device),
            num_prompt_tokens=sum(chunk.num_tokens for chunk in chunks),
            sequences=chosen_on_device,
            token_ids=token_ids,
            host_rows=host_rows,
            logits=logits if host_rows else None,
        )

    def _compute_one_by_one(self, decodes: list[Sequence], chunks: list[Chunk]) -> None:
        self._settle_in_flight()
        for sequence in decodes:
            if self._is_alive(sequence) and sequence.is_decoding:
                self._decode([sequence])
        for chunk in chunks:
            if self._is_alive(chunk.sequence):
                self._prefill(chunk)

    def _choose_on_device(self, sequences: list[Sequence], logits: torch.Tensor) -> torch.Tensor:
        """Choose tokens, go on from them, and begin to copy them: (num_sequences,), int64."""
        newcomers = [s for s in sequences if self._slot_owners[_slot(s)] is not s]
        if newcomers:
            slots_of_newcomers = [_slot(sequence) for sequence in newcomers]
            params = [s.request.sampling_params for s in newcomers]
            self._device_sampler.set(slots_of_newcomers, params)
            for sequence in newcomers:
                self._slot_owners[_slot(sequence)] = sequence
        table = self._cuda.slots
        numbers = torch.tensor([_slot(sequence) for sequence in sequences], dtype=torch.int32)
        slots = to_device(numbers, self._device)
        positions = table.num_tokens.index_select(0, slots)
        chosen = self._device_sampler.sample(logits, slots, positions)
        table.advance(sequences, slots, chosen)
        for sequence in sequences:
            self._scheduler.expect(sequence)
        if self._device.type != "cuda":
            return chosen
        on_host = torch.empty(len(sequences), dtype=torch.int64, pin_memory=True)
        return on_host.copy_(chosen, non_blocking=True)

    def _settle_in_flight(self) -> None:
        """Wait for the step in flight, if there is one, and handle its tokens."""
        launched, self._in_flight = self._in_flight, None
        if launched is None:
            return
        launched.done.wait()
        self._note_duration(launched)
        if launched.token_ids is not None:
            token_ids = launched.token_ids.tolist()
            for sequence, token_id in zip(launched.sequences, token_ids, strict=True):
                if self._is_alive(sequence):
                    self._settle(sequence, token_id)
        alive = [sequence for sequence in launched.host_rows if self._is_alive(sequence)]
        if alive:
            assert launched.logits is not None
            rows = [launched.host_rows[sequence] for sequence in alive]
            self._choose_tokens(alive, _take_rows(launched.logits, rows).float())

    def _settle(self, sequence: Sequence, token_id: int) -> None:
        if token_id < 0:
            self._fail(
                sequence, EngineFailure("the model's output for this request is not a number")
            )
            return
        self._scheduler.settle(sequence, token_id)
        self._tell_token(sequence, Choice(token_id))

    def _note_duration(self, launched: LaunchedStep) -> None:
        duration_s = launched.started.seconds_until(launched.done)
        if launched.num_prompt_tokens:
            self._step_pacer.fallback.note_together(launched.num_prompt_tokens, duration_s)
        else:
            self._step_pacer.fallback.note_decode(duration_s)

    def _is_chosen_on_device(self, sequence: Sequence) -> bool:
        request = sequence.request
        return (
            request.logits_hook is None
            and request.token_mask is None
            and request.sampling_params.max_tokens != 0
            and DeviceSampler.takes(request.sampling_params)
        )

    def _is_alive(self, sequence: Sequence) -> bool:
        return self._sequences.get(sequence.request.request_id) is sequence


@dataclass(slots=True)
class LaunchedStep:
    """A step that the device computes, or has computed.

    Attributes:
        started: When its work began.
        done: When all of it is over.
        num_prompt_tokens: Tokens of prompts in it.
        sequences: Whose tokens the device chooses.
        token_ids: (num_sequences,), int64, on the host once the step is done.
        host_rows: Whose tokens the host chooses, with their rows of the logits.
        logits: (num_rows, vocab_size), if the host needs them.
    """

    started: Mark
    done: Mark
    num_prompt_tokens: int
    sequences: list[Sequence]
    token_ids: torch.Tensor | None
    host_rows: dict[Sequence, int]
    logits: torch.Tensor | None


def _slot(sequence: Sequence) -> int:
    assert sequence.state_slot is not None, "only running sequences are computed"
    return sequence.state_slot


def _take_rows(logits: torch.Tensor, rows: list[int]) -> torch.Tensor:
    """Return some rows; a view where they are the first ones."""
    if rows == list(range(len(rows))):
        return logits[: len(rows)]
    return logits[to_device(torch.tensor(rows), logits.device)]
