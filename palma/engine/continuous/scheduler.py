"""Who computes what in the next step: waiting, running, preemption, chunked prefill.

Pure Python, no tensors. A step decodes every running sequence whose prompt is done, and spends
a budget of tokens on prompts: so a long prompt takes several steps, and the others' next tokens
never wait for the whole of it.
"""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass, field

from palma.engine.base import EngineRequest, Sink, TokenLogprobs
from palma.engine.continuous.block_pool import BlockPool, NoFreeBlock

PENDING = -1
"""Stands for a token that the device has chosen and the host does not know yet."""


@dataclass(eq=False, slots=True)
class Sequence:
    """What an engine decodes: a prompt and what has been added to it.

    Attributes:
        token_ids: Prompt and completion.
        num_computed: Tokens from the start whose keys and values are in the cache.
        block_table: The blocks that hold them, in order.
        state_slot: Where its states are, in models that have some; None while it waits.
        num_cached: Of these, tokens that were found there and not computed, at first admission.
        arrival: The order in which sequences came; it survives preemption.
        num_pending: Of the last tokens, those that the device has chosen and the host does not know
            yet; -1 stands for each.
        num_remembered: Blocks whose tokens the pool has been told.
        prompt_logprobs: What is known so far of the prompt's tokens; None once it was told, or
            when nobody asks.
    """

    request: EngineRequest
    sink: Sink
    arrival: int
    token_ids: list[int]
    num_computed: int = 0
    block_table: list[int] = field(default_factory=list)
    state_slot: int | None = None
    num_cached: int | None = None
    num_pending: int = 0
    num_remembered: int = 0
    prompt_logprobs: list[TokenLogprobs] | None = None

    @property
    def num_prompt_tokens(self) -> int:
        """Tokens that the client sent."""
        return len(self.request.prompt_token_ids)

    @property
    def num_completion_tokens(self) -> int:
        """Tokens that were added."""
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def num_uncomputed(self) -> int:
        """Tokens that a forward pass must still see."""
        return len(self.token_ids) - self.num_computed

    @property
    def is_decoding(self) -> bool:
        """Whether the next pass sees one token and chooses the next one."""
        return (
            self.num_uncomputed == 1
            and not self.request.wants_embedding
            and not self.awaits_last_token
        )

    @property
    def awaits_last_token(self) -> bool:
        """Whether the device has chosen all of its tokens, and the host will know them soon."""
        max_tokens = self.request.sampling_params.max_tokens
        return self.num_pending > 0 and self.num_completion_tokens == max_tokens

    @property
    def rank(self) -> tuple[int, int]:
        """Smaller goes first: priority, then order of arrival."""
        return (self.request.priority, self.arrival)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a sequence's prompt for one step."""

    sequence: Sequence
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Batch:
    """The work of one step."""

    decodes: list[Sequence] = field(default_factory=list)
    prefills: list[Chunk] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not self.decodes and not self.prefills


class Scheduler:
    """Keeps sequences in order and gives them blocks and slots.

    Args:
        pool: Where the blocks come from.
        max_running: Most sequences that compute at once; as many slots there are for states.
        splits_prompts: Whether a prompt may be computed in several steps.
        max_chunks: Most prompts of a step.
    """

    def __init__(
        self,
        pool: BlockPool,
        max_running: int,
        *,
        splits_prompts: bool = True,
        max_chunks: int | None = None,
    ) -> None:
        self.pool = pool
        self.running: list[Sequence] = []
        self._max_running = max_running
        self._splits_prompts = splits_prompts
        self._max_chunks = max_running if max_chunks is None else max_chunks
        self._free_slots = list(range(max_running - 1, -1, -1))
        self._waiting: list[tuple[tuple[int, int], Sequence]] = []
        self._arrivals = itertools.count()

    @property
    def num_waiting(self) -> int:
        """Sequences that wait for their first turn, or for their next one after preemption."""
        return len(self._waiting)

    @property
    def num_prompts(self) -> int:
        """Sequences that compute their prompts or wait to, as far as there are places for them."""
        num_decoding = sum(sequence.is_decoding for sequence in self.running)
        num_places = self._max_running - num_decoding
        return min(num_places, len(self.running) - num_decoding + self.num_waiting)

    @property
    def has_work(self) -> bool:
        """Whether any sequence waits or runs."""
        return bool(self.running or self._waiting)

    def add(self, request: EngineRequest, sink: Sink) -> Sequence:
        """Queue a request."""
        sequence = Sequence(request, sink, next(self._arrivals), list(request.prompt_token_ids))
        if request.wants_prompt_logprobs:
            sequence.prompt_logprobs = []
        heapq.heappush(self._waiting, (sequence.rank, sequence))
        return sequence

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it is, and its blocks and slot back."""
        if sequence in self.running:
            self.running.remove(sequence)
        else:
            self._waiting = [entry for entry in self._waiting if entry[1] is not sequence]
            heapq.heapify(self._waiting)
        self._take_room_back(sequence)

    def schedule(self, max_prefill_tokens: int) -> Batch:
        """Return the work of the next step; every sequence in it has the blocks it needs.

        Args:
            max_prefill_tokens: Prompt tokens that this step may compute, at least 1.
        """
        decodes = self._schedule_decodes()
        return Batch(decodes, self._schedule_prefills(max_prefill_tokens))

    def commit(self, sequence: Sequence, num_tokens: int) -> None:
        """Note that the next tokens of a sequence have been computed and are in its blocks."""
        sequence.num_computed += num_tokens
        self._remember_full_blocks(sequence)

    def expect(self, sequence: Sequence) -> None:
        """Note that the device chooses a token, which the next passes may go on from."""
        sequence.token_ids.append(PENDING)
        sequence.num_pending += 1

    def settle(self, sequence: Sequence, token_id: int) -> None:
        """Note which token the device has chosen: the first of those that are expected."""
        sequence.token_ids[-sequence.num_pending] = token_id
        sequence.num_pending -= 1
        self._remember_full_blocks(sequence)

    @property
    def must_preempt(self) -> bool:
        """Whether the next step needs more blocks than there are."""
        size = self.pool.block_size
        needed = sum(
            len(s.token_ids) > len(s.block_table) * size for s in self.running if s.is_decoding
        )
        return needed > self.pool.num_free

    def _remember_full_blocks(self, sequence: Sequence) -> None:
        """Tell the pool of blocks that are full of tokens that are computed and known."""
        size = self.pool.block_size
        num_known = min(sequence.num_computed, len(sequence.token_ids) - sequence.num_pending)
        for index in range(sequence.num_remembered, num_known // size):
            tokens = sequence.token_ids[index * size : (index + 1) * size]
            self.pool.remember(sequence.block_table, index, tokens, sequence.request.cache_salt)
            sequence.num_remembered = index + 1

    def _schedule_decodes(self) -> list[Sequence]:
        for sequence in sorted(self.running, key=lambda s: s.rank):
            if sequence.is_decoding:
                self._grow(sequence)
        return [s for s in self.running if s.is_decoding]

    def _schedule_prefills(self, budget: int) -> list[Chunk]:
        chunks: list[Chunk] = []
        for sequence in sorted(self.running, key=lambda s: s.rank):
            if budget <= 0 or len(chunks) == self._max_chunks:
                break
            if not sequence.is_decoding and not sequence.awaits_last_token:
                num_tokens = min(budget, sequence.num_uncomputed)
                chunks.append(Chunk(sequence, num_tokens))
                budget -= num_tokens
        while (
            budget > 0
            and self._waiting
            and len(self.running) < self._max_running
            and len(chunks) < self._max_chunks
        ):
            admitted = self._admit()
            if admitted is None:
                break
            num_tokens = admitted.num_uncomputed
            if self._splits_prompts:
                num_tokens = min(budget, num_tokens)
            chunks.append(Chunk(admitted, num_tokens))
            budget -= num_tokens
        return chunks

    def _admit(self) -> Sequence | None:
        """Move the first waiting sequence to the running ones if all of its tokens fit."""
        sequence = self._waiting[0][1]
        shared = self._take_prefix(sequence)
        num_needed = self._num_blocks(len(sequence.token_ids)) - len(shared)
        if num_needed > self.pool.num_free:
            self.pool.release(shared)
            return None
        heapq.heappop(self._waiting)
        sequence.block_table = shared + [self.pool.allocate() for _ in range(num_needed)]
        sequence.state_slot = self._free_slots.pop()
        sequence.num_computed = len(shared) * self.pool.block_size
        sequence.num_remembered = len(shared)
        if sequence.num_cached is None:
            sequence.num_cached = sequence.num_computed
        self.running.append(sequence)
        return sequence

    def _take_prefix(self, sequence: Sequence) -> list[int]:
        """Share the cached blocks that a sequence begins with, unless all must be computed."""
        if sequence.prompt_logprobs is not None or sequence.request.wants_embedding:
            return []
        return self.pool.take_prefix(sequence.token_ids, sequence.request.cache_salt)

    def _grow(self, sequence: Sequence) -> None:
        """Give a sequence the block for its next token, preempting the last in rank if need be.

        The last in rank may be the sequence itself. Prompts need no growth: all of a prompt's
        blocks were given at its admission.
        """
        needed = self._num_blocks(len(sequence.token_ids))
        while sequence in self.running and len(sequence.block_table) < needed:
            try:
                sequence.block_table.append(self.pool.allocate())
            except NoFreeBlock:
                self._preempt(max(self.running, key=lambda s: s.rank))

    def _preempt(self, sequence: Sequence) -> None:
        """Send a sequence back to the queue; its tokens are kept and computed again later."""
        self.running.remove(sequence)
        self._take_room_back(sequence)
        heapq.heappush(self._waiting, (sequence.rank, sequence))

    def _take_room_back(self, sequence: Sequence) -> None:
        if sequence.state_slot is not None:
            self._free_slots.append(sequence.state_slot)
            sequence.state_slot = None
        self.pool.release(sequence.block_table)
        sequence.block_table = []
        sequence.num_computed = sequence.num_remembered = 0

    def _num_blocks(self, num_tokens: int) -> int:
        return -(-num_tokens // self.pool.block_size)
