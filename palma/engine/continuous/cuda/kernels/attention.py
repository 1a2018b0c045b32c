"""Attention over the paged KV cache: storing, split-KV decode, prefill over the past.

Softmax is computed online, tile by tile (FlashAttention, arXiv:2205.14135); a decode step splits
each sequence's keys over several programs and combines their parts by their logarithmic sums
(Flash-Decoding, arXiv:2311.01282). A tile reads its keys through the block table
(PagedAttention, arXiv:2309.06180). Scores are kept in base 2.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _tanh(x):
    return 2 * tl.sigmoid(2 * x) - 1


@triton.jit
def _scores(query, keys, scaling, softcap, HAS_SOFTCAP: tl.constexpr):
    """Return scores in base 2: (num_queries, num_keys), float32."""
    scores = tl.dot(query, tl.trans(keys), input_precision="ieee") * scaling
    if HAS_SOFTCAP:
        scores = softcap * _tanh(scores / softcap)
    return scores * LOG2_E


@triton.jit
def _fold(scores, values, best, total, acc):
    """Take one tile into the running softmax; rows that saw no key yet stay at zero."""
    new_best = tl.maximum(best, tl.max(scores, axis=1))
    shift = tl.where(new_best == float("-inf"), 0.0, new_best)
    weights = tl.exp2(scores - shift[:, None])
    faded = tl.exp2(best - shift)
    total = total * faded + tl.sum(weights, axis=1)
    acc = acc * faded[:, None]
    acc = tl.dot(weights.to(values.dtype), values, acc, input_precision="ieee")
    return new_best, total, acc


@triton.jit
def _slots_of(block_tables, table_stride, slot, positions, seen, BLOCK_SIZE: tl.constexpr):
    """Return where the keys of some positions are: int64."""
    blocks = tl.load(
        block_tables + slot.to(tl.int64) * table_stride + positions // BLOCK_SIZE,
        mask=seen,
        other=0,
    )
    return blocks.to(tl.int64) * BLOCK_SIZE + positions % BLOCK_SIZE


@triton.jit
def _load_tile(cache_of_head, places, is_there, dims, DIM: tl.constexpr):
    """Return the keys, or the values, at some places: (num_places, width of dims)."""
    return tl.load(
        cache_of_head + places[:, None] * DIM + dims[None, :],
        mask=is_there[:, None] & (dims < DIM)[None, :],
        other=0.0,
    )


@triton.jit
def _load_row(row, dims, DIM: tl.constexpr):
    """Return one head of one token: (width of dims,)."""
    return tl.load(row + dims, mask=dims < DIM, other=0.0)


@triton.jit
def _write(target, rows, acc, total, is_there, dims, DIM: tl.constexpr):
    """Write what was attended to, a row for each query; 0 where no key was seen."""
    attended = acc / tl.where(total > 0, total, 1.0)[:, None]
    tl.store(
        target + rows[:, None] * DIM + dims[None, :],
        attended.to(target.dtype.element_ty),
        mask=is_there[:, None] & (dims < DIM)[None, :],
    )


@triton.jit
def _add_sink(sink, best, total, acc):
    """Take scores that give nothing into the running softmax."""
    sink = sink.to(tl.float32) * LOG2_E
    top = tl.maximum(best, sink)
    faded = tl.exp2(best - top)
    return total * faded + tl.exp2(sink - top), acc * faded[:, None]


@triton.jit
def store_kernel(
    key,
    value,
    key_cache,
    value_cache,
    slots,
    key_token_stride,
    key_head_stride,
    value_token_stride,
    value_head_stride,
    key_cache_head_stride,
    value_cache_head_stride,
    NUM_HEADS: tl.constexpr,
    KEY_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    HEADS: tl.constexpr,
    KEY_WIDTH: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
):
    """Write one token's keys and values of all heads to its slot. Grid: (num_tokens,)."""
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + token).to(tl.int64)
    heads = tl.arange(0, HEADS)[:, None].to(tl.int64)
    dims = tl.arange(0, KEY_WIDTH)[None, :]
    inside = (heads < NUM_HEADS) & (dims < KEY_DIM)
    new = tl.load(key + token * key_token_stride + heads * key_head_stride + dims, mask=inside)
    target = key_cache + heads * key_cache_head_stride + slot * KEY_DIM + dims
    tl.store(target, new, mask=inside)
    dims = tl.arange(0, VALUE_WIDTH)[None, :]
    inside = (heads < NUM_HEADS) & (dims < VALUE_DIM)
    new = tl.load(
        value + token * value_token_stride + heads * value_head_stride + dims, mask=inside
    )
    target = value_cache + heads * value_cache_head_stride + slot * VALUE_DIM + dims
    tl.store(target, new, mask=inside)


@triton.jit(do_not_specialize=["num_splits", "sliding_window"])
def decode_kernel(
    query,
    key,
    value,
    key_cache,
    value_cache,
    sinks,
    partial_out,
    partial_sums,
    out,
    row_slots,
    positions,
    block_tables,
    table_stride,
    scaling,
    softcap,
    sliding_window,
    num_splits,
    query_token_stride,
    query_head_stride,
    key_token_stride,
    key_head_stride,
    value_token_stride,
    value_head_stride,
    key_cache_head_stride,
    value_cache_head_stride,
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    QUERIES: tl.constexpr,
    KEY_DIM: tl.constexpr,
    KEY_WIDTH: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    TILE: tl.constexpr,
    IS_SPLIT: tl.constexpr,
    HAS_SINKS: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Attend with one new token of a sequence to a part of its keys; store its own key and value.

    Grid: (num_rows, NUM_KV_HEADS, num_splits). The program whose part has the new position puts
    the new key and value into its tile and into the cache, so nobody waits for a store.
    """
    row = tl.program_id(0)
    head = tl.program_id(1)
    split = tl.program_id(2)
    slot = tl.load(row_slots + row)
    last = tl.load(positions + row).to(tl.int32)
    length = last + 1
    first = tl.where(sliding_window > 0, tl.maximum(0, length - sliding_window), 0)
    num_tiles = tl.cdiv(length - first, TILE)
    start = first + split * tl.cdiv(num_tiles, num_splits) * TILE
    end = tl.minimum(start + tl.cdiv(num_tiles, num_splits) * TILE, length)

    queries = tl.arange(0, QUERIES)
    is_query = queries < GROUP
    key_dims = tl.arange(0, KEY_WIDTH)
    value_dims = tl.arange(0, VALUE_WIDTH)
    heads = head * GROUP + queries
    q = tl.load(
        query
        + row.to(tl.int64) * query_token_stride
        + heads[:, None] * query_head_stride
        + key_dims[None, :],
        mask=is_query[:, None] & (key_dims < KEY_DIM)[None, :],
        other=0.0,
    )
    new_key = _load_row(
        key + row.to(tl.int64) * key_token_stride + head * key_head_stride, key_dims, KEY_DIM
    )
    new_value = _load_row(
        value + row.to(tl.int64) * value_token_stride + head * value_head_stride,
        value_dims,
        VALUE_DIM,
    )
    keys_of_head = key_cache + head.to(tl.int64) * key_cache_head_stride
    values_of_head = value_cache + head.to(tl.int64) * value_cache_head_stride

    best = tl.full((QUERIES,), float("-inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    acc = tl.zeros((QUERIES, VALUE_WIDTH), tl.float32)
    for tile in tl.range(start, end, TILE, num_stages=STAGES):
        at = tile + tl.arange(0, TILE)
        is_past = at < tl.minimum(end, last)
        places = _slots_of(block_tables, table_stride, slot, at, is_past, BLOCK_SIZE)
        k = _load_tile(keys_of_head, places, is_past, key_dims, KEY_DIM)
        v = _load_tile(values_of_head, places, is_past, value_dims, VALUE_DIM)
        k = tl.where((at == last)[:, None], new_key[None, :], k)
        v = tl.where((at == last)[:, None], new_value[None, :], v)
        scores = _scores(q, k, scaling, softcap, HAS_SOFTCAP)
        scores = tl.where((at < end)[None, :], scores, float("-inf"))
        best, total, acc = _fold(scores, v, best, total, acc)

    if (start <= last) & (last < end):
        place = _slots_of(block_tables, table_stride, slot, last, True, BLOCK_SIZE)
        tl.store(keys_of_head + place * KEY_DIM + key_dims, new_key, mask=key_dims < KEY_DIM)
        tl.store(
            values_of_head + place * VALUE_DIM + value_dims, new_value, mask=value_dims < VALUE_DIM
        )

    index = row.to(tl.int64) * NUM_KV_HEADS * GROUP + heads
    if IS_SPLIT:
        part = index * num_splits + split
        sums = best + tl.log2(tl.where(total > 0, total, 1.0))  # -inf without any key
        tl.store(partial_sums + part, sums, mask=is_query)
        _write(partial_out, part, acc, total, is_query, value_dims, VALUE_DIM)
    else:
        if HAS_SINKS:
            sink = tl.load(sinks + heads, mask=is_query, other=0.0)
            total, acc = _add_sink(sink, best, total, acc)
        _write(out, index, acc, total, is_query, value_dims, VALUE_DIM)


@triton.jit(do_not_specialize=["num_splits"])
def combine_kernel(
    partial_out,
    partial_sums,
    sinks,
    out,
    num_splits,
    NUM_HEADS: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    MAX_SPLITS: tl.constexpr,
    HAS_SINKS: tl.constexpr,
):
    """Combine the parts of one head of one row. Grid: (num_rows, NUM_HEADS)."""
    head = tl.program_id(1)
    index = tl.program_id(0).to(tl.int64) * NUM_HEADS + head
    splits = tl.arange(0, MAX_SPLITS)
    value_dims = tl.arange(0, VALUE_WIDTH)
    sums = tl.load(
        partial_sums + index * num_splits + splits, mask=splits < num_splits, other=float("-inf")
    )
    has_keys = sums > float("-inf")
    parts = tl.load(
        partial_out + (index * num_splits + splits)[:, None] * VALUE_DIM + value_dims[None, :],
        mask=has_keys[:, None] & (value_dims < VALUE_DIM)[None, :],
        other=0.0,
    )
    top = tl.max(sums, axis=0)
    if HAS_SINKS:
        sink = tl.load(sinks + head).to(tl.float32) * LOG2_E
        top = tl.maximum(top, sink)
    weights = tl.exp2(sums - top)
    total = tl.sum(weights, axis=0)
    if HAS_SINKS:
        total += tl.exp2(sink - top)
    attended = tl.sum(parts * weights[:, None], axis=0) / total
    tl.store(
        out + index * VALUE_DIM + value_dims,
        attended.to(out.dtype.element_ty),
        mask=value_dims < VALUE_DIM,
    )


@triton.jit(do_not_specialize=["sliding_window"])
def prefill_kernel(
    query,
    key_cache,
    value_cache,
    sinks,
    out,
    tiles,
    block_tables,
    table_stride,
    scaling,
    softcap,
    sliding_window,
    query_token_stride,
    query_head_stride,
    key_cache_head_stride,
    value_cache_head_stride,
    NUM_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    QUERIES: tl.constexpr,
    KEY_DIM: tl.constexpr,
    KEY_WIDTH: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    TILE: tl.constexpr,
    HAS_SINKS: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Attend with up to QUERIES tokens of one prompt to all keys before and among them.

    Grid: (NUM_HEADS, num_tiles). Keys and values are in the cache, the new ones included. A tile
    is described by four numbers: its slot, its first row, that one's position, and its rows.
    """
    head = tl.program_id(0)
    tile_index = tl.program_id(1)
    slot = tl.load(tiles + 4 * tile_index)
    first_row = tl.load(tiles + 4 * tile_index + 1)
    first_position = tl.load(tiles + 4 * tile_index + 2)
    num_queries = tl.load(tiles + 4 * tile_index + 3)

    queries = tl.arange(0, QUERIES)
    is_query = queries < num_queries
    at_query = first_position + queries
    key_dims = tl.arange(0, KEY_WIDTH)
    value_dims = tl.arange(0, VALUE_WIDTH)
    rows = (first_row + queries).to(tl.int64)
    q = tl.load(
        query + rows[:, None] * query_token_stride + head * query_head_stride + key_dims[None, :],
        mask=is_query[:, None] & (key_dims < KEY_DIM)[None, :],
        other=0.0,
    )
    kv_head = (head // GROUP).to(tl.int64)
    keys_of_head = key_cache + kv_head * key_cache_head_stride
    values_of_head = value_cache + kv_head * value_cache_head_stride

    best = tl.full((QUERIES,), float("-inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    acc = tl.zeros((QUERIES, VALUE_WIDTH), tl.float32)
    start = tl.where(sliding_window > 0, tl.maximum(0, first_position + 1 - sliding_window), 0)
    start = start // TILE * TILE
    end = first_position + num_queries
    for tile in tl.range(start, end, TILE, num_stages=STAGES):
        at = tile + tl.arange(0, TILE)
        is_key = at < end
        places = _slots_of(block_tables, table_stride, slot, at, is_key, BLOCK_SIZE)
        k = _load_tile(keys_of_head, places, is_key, key_dims, KEY_DIM)
        v = _load_tile(values_of_head, places, is_key, value_dims, VALUE_DIM)
        seen = at[None, :] <= at_query[:, None]
        seen &= (sliding_window <= 0) | (at[None, :] > at_query[:, None] - sliding_window)
        scores = _scores(q, k, scaling, softcap, HAS_SOFTCAP)
        scores = tl.where(seen, scores, float("-inf"))
        best, total, acc = _fold(scores, v, best, total, acc)

    if HAS_SINKS:
        total, acc = _add_sink(tl.load(sinks + head), best, total, acc)
    _write(out, rows * NUM_HEADS + head, acc, total, is_query, value_dims, VALUE_DIM)
