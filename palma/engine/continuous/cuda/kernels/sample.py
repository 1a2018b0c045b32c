"""Triton kernels that choose a token for each row of logits, without sorting a row.

`scan` reads every logit once, a row split over several programs. Of each group of GROUP tokens it
leaves the greatest logit and the sum of the weights, exp((logit - greatest) / temperature).

`settle` has one program for each row. It draws a group by its weight, then a token of the group:
one draw from the softmax of the whole row. A draw keeps the token of the greatest weight / noise,
with exponential noise (the Gumbel-max trick, arXiv:1611.00712, without its logarithms).

The candidates of top_k, top_p and min_p are all tokens from some logit up. A token is one of them
if it is not below the floor, which is top_k's and min_p's, and if what is strictly likelier weighs
less than top_p of the whole. A draw that fails rules out everything up to its logit, and the next
one is from the rest, with fresh noise. What is kept at last has exactly the softmax of the
candidates, since every draw was from a set that holds them all. Only the groups whose greatest
logit is high enough are read, which are few.

Noise comes from Philox4x32-7 (Salmon et al., SC11), keyed by the sequence's seed and counted by
token, position and draw: it depends on nothing else, such as the row or the batch.
"""

from __future__ import annotations

import triton
import triton.language as tl

GROUP = tl.constexpr(64)
"""Tokens that stand together: 128 bytes of bfloat16."""

MAX_DRAWS = tl.constexpr(64)
"""Draws from the rest before the likeliest token is taken, which is always a candidate.

Each halves, on average, what is ruled out but still drawn from.
"""

NUM_PARAM_WORDS = tl.constexpr(8)
"""int32 words of a slot's parameters: seed (low, high), temperature, top_p, ln(min_p), top_k, and
two that are not read. Temperature 0 is greedy; top_p 1, minus infinity and top_k 0 are off."""

PHILOX_ROUNDS = tl.constexpr(7)
"""The fewest that pass BigCrush."""

DRAW_OF_GROUP = tl.constexpr(0)
DRAW_IN_GROUP = tl.constexpr(1)
DRAW_FROM_REST = tl.constexpr(2)
"""The first of them."""


@triton.jit(do_not_specialize_on_alignment=["slots_ptr"])
def scan(
    logits_ptr,  # (num_rows, vocab_size)
    row_stride,
    slots_ptr,  # (num_rows,)
    params_ptr,  # (num_slots, NUM_PARAM_WORDS), int32
    tops_ptr,  # (num_rows, work_stride), float32
    weights_ptr,  # (num_rows, work_stride), float32
    work_stride,
    vocab_size,
    GROUPS: tl.constexpr,
):
    """Look over GROUPS groups of a row; grid (num_rows, ceil(num_groups / GROUPS)).

    The greatest logit of a group with NaN is plus infinity. Greedy rows get no weights.
    """
    row = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1) * GROUPS + tl.arange(0, GROUPS)
    _, x = _load(logits_ptr + row * row_stride, group, vocab_size)
    top = tl.max(tl.where(x == x, x, float("inf")), 1)
    tl.store(tops_ptr + row * work_stride + group, top)
    _seed, temperature, _top_p, _log_min_p, _top_k = _params(params_ptr, slots_ptr, row)
    if temperature > 0:
        zero = tl.where(tl.abs(top) == float("inf"), 0.0, top)  # no difference of infinities
        weights = tl.exp((x - zero[:, None]) * (1 / temperature))
        tl.store(weights_ptr + row * work_stride + group, tl.sum(weights, 1))


@triton.jit(do_not_specialize_on_alignment=["slots_ptr", "positions_ptr"])
def settle(
    logits_ptr,  # (num_rows, vocab_size)
    row_stride,
    slots_ptr,  # (num_rows,)
    positions_ptr,  # (num_rows,)
    params_ptr,  # (num_slots, NUM_PARAM_WORDS), int32
    tops_ptr,  # (num_rows, work_stride), float32, from `scan`
    weights_ptr,  # (num_rows, work_stride), float32, from `scan`
    list_ptr,  # (num_rows, work_stride), int32: room
    chosen_ptr,  # (num_rows,), int64
    work_stride,
    vocab_size,
    num_groups,
    MAX_GROUPS: tl.constexpr,
    AT_ONCE: tl.constexpr,  # groups that are read together
    KEY_STEPS: tl.constexpr,  # pairs of bits that tell one logit from another
):
    """Choose a row's token; grid (num_rows,)."""
    row = tl.program_id(0).to(tl.int64)
    logits_ptr += row * row_stride
    seed, temperature, top_p, log_min_p, top_k = _params(params_ptr, slots_ptr, row)
    top_k = tl.where(top_k < vocab_size, top_k, 0)

    group = tl.arange(0, MAX_GROUPS)
    is_group = group < num_groups
    tops = tl.load(tops_ptr + row * work_stride + group, mask=is_group, other=-float("inf"))
    top = tl.max(tops)
    chosen = tl.full((), -1, tl.int32)
    if (top > -float("inf")) & (top < float("inf")):
        likeliest_group = tl.min(tl.where(tops == top, group, MAX_GROUPS))
        ids, x = _load(logits_ptr, likeliest_group + tl.arange(0, 1), vocab_size)
        likeliest = tl.min(tl.where(x == top, ids, 0x7FFFFFFF))
        chosen = likeliest
        if temperature > 0:
            per_degree = 1 / temperature
            position = tl.load(positions_ptr + row).to(tl.int32)
            weights = tl.load(weights_ptr + row * work_stride + group, mask=is_group, other=0)
            weights *= tl.exp((tops - top) * per_degree)
            rates = weights / _noise(seed, group, position, DRAW_OF_GROUP)
            drawn_group = tl.min(tl.where(rates == tl.max(rates), group, MAX_GROUPS))
            chosen = _draw_in_group(logits_ptr, drawn_group, vocab_size, per_degree, seed, position)
            if (top_k > 0) | (top_p < 1) | (log_min_p > -float("inf")):
                chosen = _candidate(
                    logits_ptr, list_ptr + row * work_stride, vocab_size, group, is_group, tops,
                    chosen, likeliest, top, tl.sum(weights), temperature, top_p, log_min_p, top_k,
                    seed, position, AT_ONCE, KEY_STEPS,
                )  # fmt: skip
    tl.store(chosen_ptr + row, chosen.to(tl.int64))


@triton.jit
def _candidate(
    logits_ptr,  # of the row
    list_ptr,  # (num_groups,): room
    vocab_size,
    group,  # (MAX_GROUPS,)
    is_group,  # (MAX_GROUPS,)
    tops,  # (MAX_GROUPS,)
    chosen,  # drawn from the softmax of the whole row
    likeliest,
    top,  # the greatest logit; weights are relative to it
    weight,  # of all tokens
    temperature,
    top_p,
    log_min_p,
    top_k,
    seed,
    position,
    AT_ONCE: tl.constexpr,
    KEY_STEPS: tl.constexpr,
):
    """Return `chosen` if it is among the candidates, else what is drawn from them."""
    nothing = -float("inf")
    per_degree = 1 / temperature
    floor = top + log_min_p * temperature
    if top_k > 0:
        bound = _kth_of_groups(tops, top_k)  # so many groups hold a logit from it up
        num_listed = _list(list_ptr, group, is_group & (tops >= bound))
        kth = _kth(logits_ptr, list_ptr, num_listed, vocab_size, top_k, AT_ONCE, KEY_STEPS)
        floor = tl.maximum(floor, kth)
        if top_p < 1:
            weight = _weight(
                logits_ptr, list_ptr, num_listed, vocab_size, kth, nothing, top, per_degree, AT_ONCE
            )

    logit = tl.load(logits_ptr + chosen).to(tl.float32)
    is_settled = (logit >= floor) & (top_p >= 1)
    draw = tl.full((), DRAW_FROM_REST, tl.int32)
    while (is_settled == 0) & (draw < DRAW_FROM_REST + MAX_DRAWS):
        num_listed = _list(list_ptr, group, (tops >= floor) & (tops > logit))
        if logit >= floor:
            likelier = _weight(
                logits_ptr, list_ptr, num_listed, vocab_size, floor, logit, top, per_degree, AT_ONCE
            )
            is_settled = likelier < top_p * weight
        if is_settled == 0:
            chosen = _draw(
                logits_ptr, list_ptr, num_listed, vocab_size, floor, logit, top, per_degree,
                seed, position, draw, AT_ONCE,
            )  # fmt: skip
            draw += 1
            logit = tl.load(logits_ptr + chosen).to(tl.float32)
            is_settled = top_p >= 1  # then there is no bound but the floor
    return tl.where(is_settled, chosen, likeliest)


@triton.jit
def _params(params_ptr, slots_ptr, row):
    """Return the row's seed (uint64), temperature, top_p, ln(min_p) and top_k."""
    words_ptr = params_ptr + tl.load(slots_ptr + row).to(tl.int64) * NUM_PARAM_WORDS
    low = tl.load(words_ptr).to(tl.uint32, bitcast=True).to(tl.uint64)
    high = tl.load(words_ptr + 1).to(tl.uint32, bitcast=True).to(tl.uint64)
    temperature = tl.load(words_ptr + 2).to(tl.float32, bitcast=True)
    top_p = tl.load(words_ptr + 3).to(tl.float32, bitcast=True)
    log_min_p = tl.load(words_ptr + 4).to(tl.float32, bitcast=True)
    return (high << 32) | low, temperature, top_p, log_min_p, tl.load(words_ptr + 5)


@triton.jit
def _load(logits_ptr, group, vocab_size):
    """Return the ids and the logits, float32, of some groups: each (num_groups, GROUP)."""
    ids = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    x = tl.load(logits_ptr + ids, mask=ids < vocab_size, other=-float("inf"))
    return ids, x.to(tl.float32)


@triton.jit
def _noise(seed, index, position, draw):
    """Return exponential noise, -ln(1 - u), of a token or a group: from 2 ** -33 to 16.7.

    The least noise, which makes a draw, is from the least u, and not from one near 1, where
    float32 has few numbers: else a probability under 2 ** -24 would hardly ever be drawn.
    """
    bits, _, _, _ = tl.philox(seed, index, position, draw, 0, PHILOX_ROUNDS)
    u = tl.minimum(bits.to(tl.float32) * 2.0**-32 + 2.0**-33, 1 - 2.0**-24)
    series = u + u * u * (0.5 + u * (1.0 / 3))  # where 1 - u loses the digits of u
    return tl.where(u < 2.0**-7, series, -tl.log(1 - u))


@triton.jit
def _draw_in_group(logits_ptr, group, vocab_size, per_degree, seed, position):
    """Return a draw from the softmax of the tokens of a group."""
    ids, x = _load(logits_ptr, group + tl.arange(0, 1), vocab_size)
    rates = tl.exp((x - tl.max(x)) * per_degree) / _noise(seed, ids, position, DRAW_IN_GROUP)
    return tl.min(tl.where(rates == tl.max(rates), ids, 0x7FFFFFFF))


@triton.jit
def _list(list_ptr, group, is_listed):
    """Write down the groups that are to be read, in order; return how many."""
    tl.debug_barrier()  # the list before this one has been read
    place = tl.cumsum(is_listed.to(tl.int32), 0) - 1
    tl.store(list_ptr + place, group, mask=is_listed)
    tl.debug_barrier()  # every thread sees what the others wrote
    return tl.sum(is_listed.to(tl.int32))


@triton.jit
def _listed(logits_ptr, list_ptr, start, num_listed, vocab_size, AT_ONCE: tl.constexpr):
    """Return ids and logits (AT_ONCE, GROUP) of listed groups; minus infinity past the end."""
    place = start + tl.arange(0, AT_ONCE)
    group = tl.load(list_ptr + place, mask=place < num_listed, other=0)
    ids = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    mask = (place < num_listed)[:, None] & (ids < vocab_size)
    x = tl.load(logits_ptr + ids, mask=mask, other=-float("inf"))
    return ids, x.to(tl.float32)


@triton.jit
def _weight(
    logits_ptr, list_ptr, num_listed, vocab_size, floor, above, top, per_degree,
    AT_ONCE: tl.constexpr,
):  # fmt: skip
    """Return the weight of the listed tokens that are from the floor up and above `above`."""
    weights = tl.full((AT_ONCE, GROUP), 0, tl.float32)
    for start in range(0, num_listed, AT_ONCE):
        _, x = _listed(logits_ptr, list_ptr, start, num_listed, vocab_size, AT_ONCE)
        weights += tl.where((x >= floor) & (x > above), tl.exp((x - top) * per_degree), 0.0)
    return tl.sum(weights)


@triton.jit
def _draw(
    logits_ptr, list_ptr, num_listed, vocab_size, floor, above, top, per_degree,
    seed, position, draw, AT_ONCE: tl.constexpr,
):  # fmt: skip
    """Return a draw from the softmax of the tokens that `_weight` would weigh: at least one."""
    best = tl.full((AT_ONCE, GROUP), -1, tl.float32)
    drawn = tl.full((AT_ONCE, GROUP), 0x7FFFFFFF, tl.int32)
    for start in range(0, num_listed, AT_ONCE):
        ids, x = _listed(logits_ptr, list_ptr, start, num_listed, vocab_size, AT_ONCE)
        rates = tl.exp((x - top) * per_degree) / _noise(seed, ids, position, draw)
        is_best = (x >= floor) & (x > above) & (rates > best)
        best = tl.where(is_best, rates, best)
        drawn = tl.where(is_best, ids, drawn)
    return tl.min(tl.where(best == tl.max(best), drawn, 0x7FFFFFFF))


@triton.jit
def _reach(x, prefix, unit):
    """Return which keys are 1, 2 and 3 units above the prefix or more: 20 bits each, int64.

    Keys are uint32 in the order of float32: the sign flipped, negative numbers inverted.
    """
    bits = x.to(tl.uint32, bitcast=True)
    keys = tl.where(bits >> 31 == 0, bits | 0x80000000, bits ^ 0xFFFFFFFF)
    one = tl.full(x.shape, 1, tl.int64)
    zero = tl.full(x.shape, 0, tl.int64)
    counts = tl.where(keys >= prefix + unit, one, zero)
    counts += tl.where(keys >= prefix + 2 * unit, one << 20, zero)
    return counts + tl.where(keys >= prefix + 3 * unit, one << 40, zero)


@triton.jit
def _digit(counts, k):
    """Return the most units above the prefix that at least k keys reach, given `_reach`'s sum."""
    digit = ((counts & 0xFFFFF) >= k).to(tl.uint32)
    digit += (((counts >> 20) & 0xFFFFF) >= k).to(tl.uint32)
    return digit + ((counts >> 40) >= k).to(tl.uint32)


@triton.jit
def _float_of(key):
    """Return the number of a key whose last bits were cut off, rounded down."""
    bits = tl.where(key >> 31 == 0, key ^ 0xFFFFFFFF, key & 0x7FFFFFFF)
    number = bits.to(tl.float32, bitcast=True)
    return tl.where(number != number, -float("inf"), number)  # minus infinity, cut, is NaN


@triton.jit
def _kth_of_groups(tops, k):
    """Return the k-th greatest, rounded down to 16 bits; minus infinity if there are fewer."""
    prefix = tl.full((), 0, tl.uint32)
    unit = tl.full((), 1 << 30, tl.uint32)
    for _ in range(8):
        prefix += _digit(tl.sum(_reach(tops, prefix, unit)), k) * unit
        unit = unit >> 2
    return _float_of(prefix)


@triton.jit
def _kth(
    logits_ptr, list_ptr, num_listed, vocab_size, k, AT_ONCE: tl.constexpr, KEY_STEPS: tl.constexpr
):
    """Return the k-th greatest of the listed groups' logits, of which there are at least k.

    Radix select, two bits a step; exact, as no two logits differ in later bits alone.
    """
    prefix = tl.full((), 0, tl.uint32)
    unit = tl.full((), 1 << 30, tl.uint32)
    for _ in range(KEY_STEPS):
        counts = tl.full((AT_ONCE, GROUP), 0, tl.int64)
        for start in range(0, num_listed, AT_ONCE):
            _ids, x = _listed(logits_ptr, list_ptr, start, num_listed, vocab_size, AT_ONCE)
            counts += _reach(x, prefix, unit)
        prefix += _digit(tl.sum(counts), k) * unit
        unit = unit >> 2
    return _float_of(prefix)
