"""What the device knows of each running sequence, by slot.

The device keeps each sequence's last token and its number of tokens, and brings them up to date
after each choice. So a step can begin before the host knows the tokens of the one before. The
host sends what only it knows: new blocks, new sequences, and tokens that it chose itself.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence as Rows

import torch

from palma.engine.continuous.cuda.kernels.slot_state import (
    advance_kernel,
    gather_kernel,
    update_kernel,
)
from palma.engine.continuous.scheduler import Sequence

ROWS_PER_PROGRAM = 256


class SlotTable:
    """Block tables, last tokens and token counts on the device; belongs to one thread.

    The slot after the last one is nobody's: rows that fill up a batch use it. Its tokens go to a
    block after the last one.

    Args:
        num_slots: Most running sequences.
        max_rows: Most rows of a batch; not less.
        max_blocks: Most blocks of a sequence.
        trash_block: A block that belongs to no sequence.
        device: Where the tensors are.
    """

    def __init__(
        self,
        num_slots: int,
        max_rows: int,
        max_blocks: int,
        trash_block: int,
        device: torch.device,
    ) -> None:
        self.num_slots = num_slots
        self.trash_slot = num_slots
        self._device = device
        self._max_blocks = max_blocks
        all_slots = num_slots + 1
        size = all_slots * (max_blocks + 2) + max_rows
        self._state = torch.full((size,), trash_block, dtype=torch.int32)
        self._first_count = all_slots * max_blocks
        self._first_token = self._first_count + all_slots
        self._first_row = self._first_token + all_slots
        self._state[self._first_count : self._first_token] = 1
        self._state[self._first_token : self._first_row] = 0
        self._state[self._first_row :] = self.trash_slot
        self._state = self._state.to(device)
        self.block_tables = self._state[: self._first_count].view(all_slots, max_blocks)
        self.num_tokens = self._state[self._first_count : self._first_token]
        self.last_tokens = self._state[self._first_token : self._first_row]
        self.row_slots = self._state[self._first_row :]
        self._rows = [self.trash_slot] * max_rows
        self._tables: list[list[int] | None] = [None] * num_slots
        self._num_blocks = [0] * num_slots
        self._num_tokens = [0] * num_slots
        self._targets, self._values = array("i"), array("i")

    def forget(self) -> None:
        """Take nothing for granted that the device was told: all of it is sent again."""
        self._targets, self._values = array("i"), array("i")
        self._rows = [-1] * len(self._rows)
        self._tables = [None] * self.num_slots

    def set_rows(self, sequences: Rows[Sequence], num_rows: int) -> None:
        """Say which sequences the first rows of a batch decode; the rest are nobody's."""
        slots = [s.state_slot for s in sequences] + [self.trash_slot] * (num_rows - len(sequences))
        if slots == self._rows[:num_rows]:
            return
        for row, slot in enumerate(slots):
            assert slot is not None, "only running sequences are computed"
            if slot != self._rows[row]:
                self._rows[row] = slot
                self._set(self._first_row + row, slot)

    def note(self, sequence: Sequence) -> None:
        """Collect what the device does not know yet of a sequence."""
        slot, table = sequence.state_slot, sequence.block_table
        assert slot is not None, "only running sequences are computed"
        if self._tables[slot] is not table:  # another sequence, or the same one anew
            self._tables[slot] = table
            self._num_blocks[slot] = self._num_tokens[slot] = 0
        if self._num_blocks[slot] < len(table):
            for index in range(self._num_blocks[slot], len(table)):
                self._set(slot * self._max_blocks + index, table[index])
            self._num_blocks[slot] = len(table)
        num_tokens = len(sequence.token_ids)
        if self._num_tokens[slot] != num_tokens:
            self._num_tokens[slot] = num_tokens
            self._set(self._first_count + slot, num_tokens)
            self._set(self._first_token + slot, sequence.token_ids[-1])

    def send(self) -> None:
        """Bring the device up to date with what was collected."""
        num_updates = len(self._targets)
        if not num_updates:
            return
        updates = torch.frombuffer(self._targets + self._values, dtype=torch.int32)
        self._targets, self._values = array("i"), array("i")
        on_device = to_device(updates, self._device)
        grid = (-(-num_updates // ROWS_PER_PROGRAM),)
        update_kernel[grid](self._state, on_device, num_updates, BLOCK=ROWS_PER_PROGRAM)

    def gather(self, token_ids: torch.Tensor, positions: torch.Tensor, num_rows: int) -> None:
        """Write the last tokens of the first rows, and where they stand.

        Args:
            token_ids: (at least num_rows,), int64.
            positions: The same.
            num_rows: How many.
        """
        grid = (-(-num_rows // ROWS_PER_PROGRAM),)
        gather_kernel[grid](
            self.row_slots,
            self.num_tokens,
            self.last_tokens,
            token_ids,
            positions,
            num_rows,
            BLOCK=ROWS_PER_PROGRAM,
        )

    def advance(self, sequences: Rows[Sequence], slots: torch.Tensor, chosen: torch.Tensor) -> None:
        """Make the chosen tokens the last ones of their sequences.

        Args:
            sequences: Whose tokens they are.
            slots: Theirs: (num_sequences,), int32.
            chosen: (num_sequences,), int64; -1 where none could be chosen.
        """
        for sequence in sequences:
            assert sequence.state_slot is not None
            self._num_tokens[sequence.state_slot] += 1
        grid = (-(-len(slots) // ROWS_PER_PROGRAM),)
        advance_kernel[grid](
            slots,
            chosen,
            self.num_tokens,
            self.last_tokens,
            len(slots),
            BLOCK=ROWS_PER_PROGRAM,
        )

    def _set(self, target: int, value: int) -> None:
        self._targets.append(target)
        self._values.append(value)


def to_device(numbers: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy numbers to the device without waiting for it."""
    if device.type != "cuda":
        return numbers.to(device, copy=True)
    return pinned(numbers, device).to(device, non_blocking=True)


def pinned(numbers: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return the numbers where a GPU can copy them from while the host goes on."""
    return numbers.pin_memory() if device.type == "cuda" else numbers
