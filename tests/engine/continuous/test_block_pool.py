"""The block pool's bookkeeping: nothing leaks, nothing is shared by accident."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from palma.engine.continuous.block_pool import BlockPool, NoFreeBlock

BLOCK_SIZE = 2


def fill(pool: BlockPool, token_ids: list[int], salt: str | None = None) -> list[int]:
    """Store a sequence as the scheduler does; return its block table."""
    table = pool.take_prefix(token_ids, salt)
    num_shared = len(table)
    while len(table) * pool.block_size < len(token_ids):
        table.append(pool.allocate())
    for index in range(num_shared, len(token_ids) // pool.block_size):
        start = index * pool.block_size
        pool.remember(table, index, token_ids[start : start + pool.block_size], salt)
    return table


def test_a_later_sequence_shares_the_full_blocks_of_an_equal_beginning() -> None:
    pool = BlockPool(10, BLOCK_SIZE)
    first = fill(pool, [1, 2, 3, 4, 5])

    second = fill(pool, [1, 2, 3, 4, 9])

    assert second[:2] == first[:2]
    assert second[2] != first[2]
    pool.check([first, second])


def test_at_least_one_token_is_left_to_compute() -> None:
    pool = BlockPool(10, BLOCK_SIZE)
    fill(pool, [1, 2, 3, 4])

    assert len(pool.take_prefix([1, 2, 3, 4])) == 1


def test_a_block_is_not_shared_when_what_came_before_differs() -> None:
    pool = BlockPool(10, BLOCK_SIZE)
    fill(pool, [1, 2, 3, 4, 5])

    assert pool.take_prefix([9, 9, 3, 4, 5]) == []


def test_other_salts_share_nothing() -> None:
    pool = BlockPool(10, BLOCK_SIZE)
    fill(pool, [1, 2, 3], salt="alice")

    assert pool.take_prefix([1, 2, 3], "bob") == []
    assert pool.take_prefix([1, 2, 3], None) == []
    assert len(pool.take_prefix([1, 2, 3], "alice")) == 1


def test_the_least_recently_used_content_is_forgotten_first() -> None:
    pool = BlockPool(4, BLOCK_SIZE)
    pool.release(fill(pool, [1, 2, 0]))
    pool.release(fill(pool, [3, 4, 0]))
    pool.release(fill(pool, [1, 2, 0]))  # used again

    taken = [pool.allocate() for _ in range(3)]

    assert pool.take_prefix([3, 4, 0]) == []
    found = pool.take_prefix([1, 2, 0])
    assert len(found) == 1
    pool.check([taken, found])


def test_a_child_is_not_found_through_a_parent_that_was_forgotten_and_came_again() -> None:
    pool = BlockPool(3, BLOCK_SIZE)
    pool.release(fill(pool, [1, 2, 3, 4, 5]))
    taken = [pool.allocate() for _ in range(3)]  # everything is forgotten
    pool.release(taken)

    assert pool.take_prefix([1, 2, 3, 4, 5]) == []


def test_without_reuse_nothing_is_shared() -> None:
    pool = BlockPool(10, BLOCK_SIZE, reuse_prefixes=False)
    fill(pool, [1, 2, 3])

    assert pool.take_prefix([1, 2, 3]) == []


def test_an_exhausted_pool_says_so() -> None:
    pool = BlockPool(1, BLOCK_SIZE)
    pool.allocate()

    with pytest.raises(NoFreeBlock):
        pool.allocate()


class PoolMachine(RuleBasedStateMachine):
    """Random sequences come and go; what a block holds is tracked beside the pool."""

    @initialize(num_blocks=st.integers(1, 12), block_size=st.integers(1, 3))
    def start(self, num_blocks: int, block_size: int) -> None:
        self.pool = BlockPool(num_blocks, block_size)
        self.tables: list[list[int]] = []
        self.content: dict[int, tuple[str | None, tuple[int, ...]]] = {}

    @rule(
        token_ids=st.lists(st.integers(0, 1), min_size=1, max_size=10),
        salt=st.sampled_from([None, "a"]),
    )
    def come(self, token_ids: list[int], salt: str | None) -> None:
        size = self.pool.block_size
        table = self.pool.take_prefix(token_ids, salt)
        assert len(table) * size < len(token_ids)
        for index, block_id in enumerate(table):
            expected = (salt, tuple(token_ids[: (index + 1) * size]))
            assert self.content[block_id] == expected, "a block was shared by accident"
        num_shared = len(table)
        try:
            while len(table) * size < len(token_ids):
                table.append(self.pool.allocate())
        except NoFreeBlock:
            self.pool.release(table)
            return
        for index in range(num_shared, len(token_ids) // size):
            self.content[table[index]] = (salt, tuple(token_ids[: (index + 1) * size]))
            self.pool.remember(table, index, token_ids[index * size : (index + 1) * size], salt)
        for index in range(len(token_ids) // size, len(table)):
            self.content.pop(table[index], None)
        self.tables.append(table)

    @rule(data=st.data())
    def go(self, data: st.DataObject) -> None:
        if self.tables:
            index = data.draw(st.integers(0, len(self.tables) - 1))
            self.pool.release(self.tables.pop(index))

    @invariant()
    def adds_up(self) -> None:
        if hasattr(self, "pool"):
            self.pool.check(self.tables)


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
