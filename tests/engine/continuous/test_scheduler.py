"""The scheduler without tensors: order, budget, preemption, and that everybody gets there."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from palma.core.types import SamplingParams
from palma.engine.base import EngineRequest, TokenDelta
from palma.engine.continuous.block_pool import BlockPool
from palma.engine.continuous.scheduler import Scheduler, Sequence

BLOCK_SIZE = 2


def ignore(_: TokenDelta) -> None:
    """A sink for tests that look at the scheduler alone."""


def add(
    scheduler: Scheduler, name: str, num_prompt: int, num_completion: int = 3, priority: int = 0
) -> Sequence:
    # Every sequence has tokens of its own, so that none shares a prefix unless a test wants it.
    prompt = [hash((name, i)) for i in range(num_prompt)]
    params = SamplingParams(max_tokens=num_completion)
    return scheduler.add(EngineRequest(name, prompt, params, priority=priority), ignore)


def step(scheduler: Scheduler, max_prefill_tokens: int = 4) -> list[str]:
    """Do what an engine does in a step, with made-up tokens; return who ended."""
    batch = scheduler.schedule(max_prefill_tokens)
    assert sum(chunk.num_tokens for chunk in batch.prefills) <= max_prefill_tokens
    for sequence in batch.decodes:
        assert sequence.num_uncomputed == 1
    ended = []
    for sequence, num_tokens in [
        *((s, 1) for s in batch.decodes),
        *((c.sequence, c.num_tokens) for c in batch.prefills),
    ]:
        end = sequence.num_computed + num_tokens
        assert len(sequence.block_table) * BLOCK_SIZE >= end, "computed without a block"
        scheduler.commit(sequence, num_tokens)
        if sequence.num_uncomputed == 0:
            sequence.token_ids.append(end)
            if sequence.num_completion_tokens == sequence.request.sampling_params.max_tokens:
                scheduler.remove(sequence)
                ended.append(sequence.request.request_id)
    scheduler.pool.check([sequence.block_table for sequence in scheduler.running])
    slots = [sequence.state_slot for sequence in scheduler.running]
    assert None not in slots
    assert len(set(slots)) == len(slots), "two sequences have one slot"
    return ended


def names(sequences: list[Sequence]) -> list[str]:
    return [sequence.request.request_id for sequence in sequences]


def test_a_long_prompt_is_cut_and_others_decode_beside_it() -> None:
    scheduler = Scheduler(BlockPool(100, BLOCK_SIZE), max_running=4)
    short = add(scheduler, "short", 2, num_completion=50)
    step(scheduler)
    long = add(scheduler, "long", 11)

    for num_computed in (4, 8, 11):
        num_before = short.num_completion_tokens
        step(scheduler)
        assert long.num_computed == num_computed
        assert short.num_completion_tokens == num_before + 1


def test_a_prompt_that_may_not_be_cut_is_computed_in_one_step() -> None:
    scheduler = Scheduler(BlockPool(100, BLOCK_SIZE), max_running=4, splits_prompts=False)
    first, second = add(scheduler, "first", 11), add(scheduler, "second", 2)

    chunks = scheduler.schedule(4).prefills

    assert [(chunk.sequence, chunk.num_tokens) for chunk in chunks] == [(first, 11)]
    assert second.state_slot is None


def test_a_slot_is_a_sequence_s_own_until_it_ends() -> None:
    scheduler = Scheduler(BlockPool(100, BLOCK_SIZE), max_running=2)
    first, second = add(scheduler, "first", 2), add(scheduler, "second", 2)
    third = add(scheduler, "third", 2)
    step(scheduler)
    slots = {first.state_slot, second.state_slot}

    scheduler.remove(first)
    step(scheduler)

    assert slots == {0, 1}
    assert {second.state_slot, third.state_slot} == slots
    assert first.state_slot is None


def test_sequences_start_in_the_order_they_came_and_priority_goes_before_it() -> None:
    scheduler = Scheduler(BlockPool(100, BLOCK_SIZE), max_running=1)
    for name, priority in (("first", 0), ("second", 0), ("urgent", -1)):
        add(scheduler, name, 2, priority=priority)

    order = [name for _ in range(20) for name in step(scheduler)]

    assert order == ["urgent", "first", "second"]


def test_prompts_that_wait_are_counted_as_far_as_there_are_places() -> None:
    scheduler = Scheduler(BlockPool(100, BLOCK_SIZE), max_running=3)
    assert scheduler.num_prompts == 0
    for name in "abcde":
        add(scheduler, name, num_prompt=4)
    assert scheduler.num_prompts == 3, "two of the five have no place yet"
    step(scheduler, max_prefill_tokens=6)  # a's whole prompt, and half of b's
    assert scheduler.num_prompts == 2, "a decodes, b and c compute their prompts"


def test_the_last_in_rank_is_preempted_and_comes_back_with_its_tokens() -> None:
    scheduler = Scheduler(BlockPool(5, BLOCK_SIZE), max_running=2)
    first = add(scheduler, "first", 4, num_completion=6)
    second = add(scheduler, "second", 2, num_completion=6)
    was_preempted = False
    ended: list[str] = []

    for _ in range(40):
        ended += step(scheduler)
        was_preempted |= second not in scheduler.running and second.num_completion_tokens > 0
        if not scheduler.has_work:
            break

    assert was_preempted
    assert ended == ["first", "second"]
    assert first.num_completion_tokens == second.num_completion_tokens == 6


def test_removing_a_waiting_or_running_sequence_leaves_nothing_behind() -> None:
    scheduler = Scheduler(BlockPool(10, BLOCK_SIZE), max_running=1)
    running, waiting = add(scheduler, "running", 4), add(scheduler, "waiting", 4)
    step(scheduler)

    scheduler.remove(waiting)
    scheduler.remove(running)

    assert not scheduler.has_work
    scheduler.pool.check([])


@given(
    num_blocks=st.integers(8, 20),
    max_running=st.integers(1, 5),
    budget=st.integers(1, 7),
    arrivals=st.lists(
        st.tuples(
            st.integers(1, 8),  # prompt tokens
            st.integers(1, 7),  # completion tokens
            st.integers(0, 2),  # priority
            st.integers(0, 3),  # steps until the next one comes
            st.booleans(),  # cancelled half way
        ),
        max_size=12,
    ),
)
@settings(max_examples=150, deadline=None)
def test_everybody_ends_and_every_block_comes_back(
    num_blocks: int,
    max_running: int,
    budget: int,
    arrivals: list[tuple[int, int, int, int, bool]],
) -> None:
    scheduler = Scheduler(BlockPool(num_blocks, BLOCK_SIZE), max_running)
    ended: list[str] = []
    cancelled: set[str] = set()

    for number, (num_prompt, num_completion, priority, pause, is_leaver) in enumerate(arrivals):
        sequence = add(scheduler, str(number), num_prompt, num_completion, priority)
        for _ in range(pause):
            ended += step(scheduler, budget)
        if is_leaver and str(number) not in ended:
            scheduler.remove(sequence)
            cancelled.add(str(number))
    for _ in range(600):
        if not scheduler.has_work:
            break
        ended += step(scheduler, budget)

    assert not scheduler.has_work, "somebody starves"
    assert sorted([*ended, *cancelled]) == sorted(str(n) for n in range(len(arrivals)))
    scheduler.pool.check([])
    for number in range(max_running):
        add(scheduler, f"after-{number}", 1)
    step(scheduler, max_running)
    assert {s.state_slot for s in scheduler.running} == set(range(max_running)), "a slot is lost"
