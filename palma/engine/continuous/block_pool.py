"""Which block of the KV cache belongs to whom: reference counts, prefix reuse, eviction.

Pure bookkeeping: the tensors are in `kv_cache`. A block holds the keys and values of
`block_size` tokens. Full blocks are remembered by their exact tokens and those before them, so
that a later sequence with the same beginning can share them. A block that nobody uses stays
remembered until its place is needed, least recently used first.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

BlockKey = tuple[Hashable, tuple[int, ...]]
"""What came before (the serial number of the parent's content, or the salt) and the tokens."""


class NoFreeBlock(Exception):
    """Every block is in use; somebody must be preempted."""


@dataclass(slots=True)
class _Block:
    num_users: int = 0
    key: BlockKey | None = None
    serial: int | None = None  # names the content, and is never used twice


class BlockPool:
    """Hands out the blocks of a KV cache.

    Args:
        num_blocks: Blocks there are.
        block_size: Tokens a block holds.
        reuse_prefixes: Whether full blocks are remembered for later sequences.
    """

    def __init__(self, num_blocks: int, block_size: int, *, reuse_prefixes: bool = True) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._reuse_prefixes = reuse_prefixes
        self._blocks = [_Block() for _ in range(num_blocks)]
        self._empty = list(range(num_blocks - 1, -1, -1))
        self._unused: OrderedDict[int, None] = OrderedDict()  # remembered, oldest first
        self._by_key: dict[BlockKey, int] = {}
        self._serials = itertools.count()

    @property
    def num_free(self) -> int:
        """Blocks that can be had now, forgetting what they hold where needed."""
        return len(self._empty) + len(self._unused)

    def allocate(self) -> int:
        """Return a block for one user.

        Raises:
            NoFreeBlock: All are in use.
        """
        if self._empty:
            block_id = self._empty.pop()
        elif self._unused:
            block_id, _ = self._unused.popitem(last=False)
            self._forget(block_id)
        else:
            raise NoFreeBlock
        self._blocks[block_id].num_users = 1
        return block_id

    def release(self, block_table: Sequence[int]) -> None:
        """Give back a sequence's blocks; its last ones will be the first to be evicted."""
        for block_id in reversed(block_table):
            block = self._blocks[block_id]
            assert block.num_users > 0, f"block {block_id} was given back twice"
            block.num_users -= 1
            if block.num_users == 0:
                if block.key is None:
                    self._empty.append(block_id)
                else:
                    self._unused[block_id] = None

    def take_prefix(self, token_ids: Sequence[int], salt: Hashable = None) -> list[int]:
        """Return the blocks that hold a sequence's beginning already, now also used by it.

        At least one token is left over: whoever wants logits must compute one.
        """
        found: list[int] = []
        parent: Hashable = ("salt", salt)
        for start in range(0, len(token_ids) - self.block_size, self.block_size):
            key = (parent, tuple(token_ids[start : start + self.block_size]))
            block_id = self._by_key.get(key)
            if block_id is None:
                break
            found.append(block_id)
            parent = self._blocks[block_id].serial
        for block_id in found:
            self._unused.pop(block_id, None)
            self._blocks[block_id].num_users += 1
        return found

    def remember(
        self,
        block_table: Sequence[int],
        index: int,
        token_ids: Sequence[int],
        salt: Hashable = None,
    ) -> None:
        """Note that the block at `index` of a table is full of these tokens.

        Args:
            block_table: The sequence's blocks; those before `index` have been remembered.
            index: Which of them became full.
            token_ids: Its tokens, `block_size` of them.
            salt: Sequences with different salts never share.
        """
        if not self._reuse_prefixes:
            return
        block = self._blocks[block_table[index]]
        parent: Hashable = ("salt", salt)
        if index > 0:
            parent = self._blocks[block_table[index - 1]].serial
            if parent is None:  # an equal block was remembered first: this chain ends
                return
        key = (parent, tuple(token_ids))
        if block.key is None and key not in self._by_key:
            block.key = key
            block.serial = next(self._serials)
            self._by_key[key] = block_table[index]

    def check(self, block_tables: Sequence[Sequence[int]]) -> None:
        """Assert that exactly the blocks of these tables are in use: no leak, no theft."""
        users = [0] * self.num_blocks
        for block_table in block_tables:
            for block_id in block_table:
                users[block_id] += 1
        assert users == [block.num_users for block in self._blocks], "user counts are wrong"
        idle = sorted([*self._empty, *self._unused])
        assert idle == [i for i, n in enumerate(users) if n == 0], "free lists are wrong"

    def _forget(self, block_id: int) -> None:
        block = self._blocks[block_id]
        assert block.key is not None
        del self._by_key[block.key]
        block.key = block.serial = None
