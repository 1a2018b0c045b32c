"""Small kernels that move the slots' state between steps, so that the host need not know it."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["num_updates"])
def update_kernel(state, updates, num_updates, BLOCK: tl.constexpr):
    """Write `updates[1, i]` to `state[updates[0, i]]`. Grid: (cdiv(num_updates, BLOCK),)."""
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = index < num_updates
    target = tl.load(updates + index, mask=inside)
    value = tl.load(updates + num_updates + index, mask=inside)
    tl.store(state + target, value, mask=inside)


@triton.jit(do_not_specialize=["num_rows"])
def gather_kernel(
    row_slots, num_tokens, last_tokens, token_ids, positions, num_rows, BLOCK: tl.constexpr
):
    """Look up each row's token and its position. Grid: (cdiv(num_rows, BLOCK),)."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = row < num_rows
    slot = tl.load(row_slots + row, mask=inside, other=0)
    token_id = tl.load(last_tokens + slot, mask=inside, other=0)
    position = tl.load(num_tokens + slot, mask=inside, other=1) - 1
    tl.store(token_ids + row, token_id.to(tl.int64), mask=inside)
    tl.store(positions + row, position.to(tl.int64), mask=inside)


@triton.jit(do_not_specialize=["num_rows"])
def advance_kernel(slots, chosen, num_tokens, last_tokens, num_rows, BLOCK: tl.constexpr):
    """Make the chosen tokens their sequences' last ones. Grid: (cdiv(num_rows, BLOCK),).

    A row without a choice (-1) goes on with token 0: the host ends its sequence.
    """
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = row < num_rows
    slot = tl.load(slots + row, mask=inside, other=0)
    token_id = tl.maximum(tl.load(chosen + row, mask=inside, other=0), 0)
    count = tl.load(num_tokens + slot, mask=inside, other=0)
    tl.store(last_tokens + slot, token_id.to(tl.int32), mask=inside)
    tl.store(num_tokens + slot, count + 1, mask=inside)
