// Attention over the paged KV cache: one query token of a sequence (decode) or several (prefill).
//
// The work is cut into units: some keys of one sequence for queries that share one KV head (the
// heads of a token, and of tokens beside it), so that every key and value is read from memory
// once for all of them. A unit walks over its keys in tiles: scores, then their softmax relative
// to the largest score so far, then the weighted sum of the values (online softmax,
// arXiv:1805.02867). Whoever ends the last unit of a token and head merges them all and writes
// the output.
//
// Only bfloat16 dot products have instructions of their own. All sums are float32.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "vectors.h"

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace palma {

// Mirrors `_Call` in kernel.py, field by field.
struct Call {
    const void* query;              // (num_rows, num_heads, head_dim), strided; a row is a token
    const void* new_keys;           // (batch, num_kv_heads, head_dim), strided; null: all are stored
    const void* new_values;         // (batch, num_kv_heads, value_dim), strided
    void* keys;                     // (num_kv_heads, num_slots, head_dim)
    void* values;                   // (num_kv_heads, num_slots, value_dim)
    void* output;                   // (num_rows, num_heads, value_dim)
    const int32_t* block_tables;    // (batch, max_blocks)
    const int32_t* lengths;         // (batch,): keys of each sequence, the new ones included
    const int32_t* first_rows;      // (batch + 1,): where its rows begin; null: it has one
    const float* sinks;             // (num_heads,) or null
    int64_t query_strides[2];       // by row and by head, in elements
    int64_t new_key_strides[2];
    int64_t new_value_strides[2];
    int64_t batch, num_heads, num_kv_heads, head_dim, value_dim;
    int64_t num_slots, block_size, max_blocks;
    int64_t window;                 // most keys a query sees; 0: all
    int64_t num_threads;
    double scale;
    double softcap;                 // 0: none
};

inline int64_t first_row(const Call& call, int64_t sequence) {
    return call.first_rows ? call.first_rows[sequence] : sequence;
}
inline int64_t num_rows(const Call& call, int64_t sequence) {
    return first_row(call, sequence + 1) - first_row(call, sequence);
}

struct Unit {
    int64_t sequence;
    int64_t row, num_rows;          // its queries
    int64_t first, last;            // its keys are [first, last)
    int64_t first_sibling;          // the units of the same queries lie side by side
    int64_t num_siblings;

    // The keys that query `row + index` sees are [begin(index), end(index)).
    int64_t end(const Call& call, int64_t index) const {
        return call.lengths[sequence] - (first_row(call, sequence + 1) - 1 - row - index);
    }
    int64_t begin(const Call& call, int64_t index) const {
        return call.window > 0 ? std::max<int64_t>(0, end(call, index) - call.window) : 0;
    }
};

// The queries of a unit, a lane each: `num_heads` heads of each of its rows.
struct Lanes {
    int64_t first_head, num_heads, num_rows;

    int64_t count() const { return num_heads * num_rows; }
    int64_t row(int64_t lane) const { return std::min(lane / num_heads, num_rows - 1); }
    int64_t head(int64_t lane) const { return first_head + lane % num_heads; }
};

constexpr int kMaxGroup = kAccumulators;  // query heads that a unit serves
constexpr int kTile = 64;                 // keys; a multiple of kPadding
constexpr int kRows = 8;                  // keys whose scores are computed side by side
constexpr int kPadding = std::max(kRows, kLanes);
constexpr int kMaxDim = 1024;
constexpr int64_t kMinSpan = 128;         // keys below which splitting a sequence does not pay
constexpr int64_t kMinParallel = 1 << 15; // keys and values below which threads do not pay
inline int num_padded(int num_keys) { return (num_keys + kPadding - 1) / kPadding * kPadding; }

// How the queries of a group lie in a unit's scratch.
template <typename T, int G>
struct Queries {
    // Each query and key gets a vector of sums; larger groups share one, a lane for each query.
    static constexpr bool kByLanes = G <= (sizeof(T) == 2 ? 2 : 4);
#ifdef __AVX512BF16__
    static constexpr bool kPairs = sizeof(T) == 2 && !kByLanes;
#else
    static constexpr bool kPairs = false;
#endif
    using Element = std::conditional_t<kPairs, T, float>;

    static int64_t at(int g, int64_t d, int64_t dim) {
        if (kByLanes) return g * dim + d;
        if (kPairs) return (d / 2 * G + g) * 2 + d % 2;
        return d * G + g;
    }

    alignas(64) Element elements[G * kMaxDim];

    Queries(const Call& call, int64_t first_row, const Lanes& lanes) {
        auto query = static_cast<const T*>(call.query);
        for (int g = 0; g < G; ++g) {
            auto head = query + (first_row + lanes.row(g)) * call.query_strides[0]
                        + lanes.head(g) * call.query_strides[1];
            for (int64_t d = 0; d < call.head_dim; ++d) {
                if constexpr (kPairs) elements[at(g, d, call.head_dim)] = head[d];
                else elements[at(g, d, call.head_dim)] = widen(head[d]);
            }
        }
    }
};

#ifdef __AVX512BF16__
inline Floats<4> add_pairs(Floats<4> sums, Ints<4> queries, int32_t keys) {
    return (Floats<4>)_mm_dpbf16_ps((__m128)sums, (__m128bh)queries,
                                    (__m128bh)_mm_set1_epi32(keys));
}
inline Floats<8> add_pairs(Floats<8> sums, Ints<8> queries, int32_t keys) {
    return (Floats<8>)_mm256_dpbf16_ps((__m256)sums, (__m256bh)queries,
                                       (__m256bh)_mm256_set1_epi32(keys));
}
inline Floats<16> add_pairs(Floats<16> sums, Ints<16> queries, int32_t keys) {
    return (Floats<16>)_mm512_dpbf16_ps((__m512)sums, (__m512bh)queries,
                                        (__m512bh)_mm512_set1_epi32(keys));
}
#endif

// The same as `score_rows`, with a sum of its own for each query and row: for small groups.
template <typename T, int G>
void score_rows_by_lanes(const float* queries, const T* const* rows, int64_t dim, float* scores) {
    constexpr int kTogether = std::min(kRows, kAccumulators / G);
    for (int first = 0; first < kRows; first += kTogether) {
        Floats<kLanes> sums[kTogether][G] = {};
        int64_t d = 0;
        for (; d + kLanes <= dim; d += kLanes) {
            Floats<kLanes> parts[G];
            for (int g = 0; g < G; ++g) parts[g] = load<Floats<kLanes>>(queries + g * dim + d);
            for (int k = 0; k < kTogether; ++k) {
                auto row = load_floats<kLanes>(rows[first + k] + d);
                for (int g = 0; g < G; ++g) sums[k][g] += parts[g] * row;
            }
        }
        for (int k = 0; k < kTogether; ++k) {
            for (int g = 0; g < G; ++g) {
                float sum = sum_lanes<kLanes>(sums[k][g]);
                for (int64_t rest = d; rest < dim; ++rest)
                    sum += queries[g * dim + rest] * widen(rows[first + k][rest]);
                scores[(first + k) * G + g] = sum;
            }
        }
    }
}

// scores[k * G + g] = <query g, row k> for kRows rows.
template <typename T, int G>
void score_rows(const Queries<T, G>& queries, const T* const* rows, int64_t dim, float* scores) {
    if constexpr (Queries<T, G>::kByLanes) {
        score_rows_by_lanes<T, G>(queries.elements, rows, dim, scores);
        return;
    }
    Floats<G> sums[kRows] = {};
    if constexpr (Queries<T, G>::kPairs) {
#ifdef __AVX512BF16__
        for (int64_t d = 0; d < dim; d += 2) {
            auto column = load<Ints<G>>(queries.elements + d * G);
            for (int k = 0; k < kRows; ++k)
                sums[k] = add_pairs(sums[k], column, load<int32_t>(rows[k] + d));
        }
#endif
    } else {
        for (int64_t d = 0; d < dim; ++d) {
            auto column = load<Floats<G>>(queries.elements + d * G);
            for (int k = 0; k < kRows; ++k) sums[k] += column * widen(rows[k][d]);
        }
    }
    for (int k = 0; k < kRows; ++k) store(scores + k * G, sums[k]);
}

// sums[g * dim + d] = sums[g * dim + d] * factors[g] + weights[k * G + g] * rows[k][d].
template <typename T, int G>
void add_values(const float* weights, const T* const* rows, int num_rows, int64_t dim,
                const float* factors, float* sums) {
    constexpr int kWidth = std::max(1, std::min(4, kAccumulators / G));  // vectors a pass
    using Vec = Floats<kLanes>;
    int64_t d = 0;
    auto pass = [&](auto width) {
        constexpr int W = decltype(width)::value;
        Vec totals[G][W];
        for (int g = 0; g < G; ++g)
            for (int w = 0; w < W; ++w)
                totals[g][w] = load<Vec>(sums + g * dim + d + w * kLanes) * factors[g];
        for (int k = 0; k < num_rows; ++k) {
            Vec row[W];
            for (int w = 0; w < W; ++w) row[w] = load_floats<kLanes>(rows[k] + d + w * kLanes);
            for (int g = 0; g < G; ++g)
                for (int w = 0; w < W; ++w) totals[g][w] += row[w] * weights[k * G + g];
        }
        for (int g = 0; g < G; ++g)
            for (int w = 0; w < W; ++w) store(sums + g * dim + d + w * kLanes, totals[g][w]);
        d += W * kLanes;
    };
    while (d + kWidth * kLanes <= dim) pass(std::integral_constant<int, kWidth>{});
    while (d + kLanes <= dim) pass(std::integral_constant<int, 1>{});
    for (; d < dim; ++d) {
        for (int g = 0; g < G; ++g) {
            float total = sums[g * dim + d] * factors[g];
            for (int k = 0; k < num_rows; ++k) total += weights[k * G + g] * widen(rows[k][d]);
            sums[g * dim + d] = total;
        }
    }
}

// What a unit knows so far: for each query the largest score, the sum of the weights relative to
// it, and the sum of the weighted values (num_queries, value_dim).
struct Partial {
    float* largest;
    float* weights;
    float* values;

    static int64_t size(int64_t group, int64_t value_dim) { return group * (value_dim + 2); }

    Partial(float* memory, int64_t group)
        : largest(memory), weights(memory + group), values(memory + 2 * group) {}
};

// Scale the scores of `num_keys` keys, query by query in turn; what pads them counts for nothing.
template <int G>
void scale_scores(const Call& call, float* scores, int num_keys) {
    constexpr int N = std::max(kLanes, G);
    const int count = num_padded(num_keys) * G;
    const float scale = call.scale, softcap = call.softcap;
    for (int i = 0; i < count; i += N) {
        auto score = load<Floats<N>>(scores + i) * scale;
        if (softcap != 0) score = softcap * tanh_vec<N>(score / softcap);
        store(scores + i, score);
    }
    std::fill(scores + num_keys * G, scores + count, -kInfinity);
}

// Take away the scores of the keys from `first` on that a query does not see.
template <int G>
void hide_unseen(const Call& call, const Unit& unit, const Lanes& lanes, int64_t first,
                 int num_keys, float* scores) {
    const int64_t last_row = unit.num_rows - 1;
    if (first >= unit.begin(call, last_row) && first + num_keys <= unit.end(call, 0)) return;
    for (int g = 0; g < G; ++g) {
        const int64_t begin = unit.begin(call, lanes.row(g)), end = unit.end(call, lanes.row(g));
        for (int k = 0; k < num_keys; ++k)
            if (first + k < begin || first + k >= end) scores[k * G + g] = -kInfinity;
    }
}

// Turn scaled scores into weights, and account for them in `partial`. Sets `factors`: what all
// that was summed before must be multiplied by.
template <int G>
void soften(float* scores, int num_keys, Partial partial, float* factors) {
    constexpr int N = std::max(kLanes, G);
    const int count = num_padded(num_keys) * G;
    alignas(64) float lanes[N];
    Floats<N> top = Floats<N>{} - kInfinity;
    for (int i = 0; i < count; i += N) top = maximum(top, load<Floats<N>>(scores + i));
    store(lanes, top);
    for (int i = G; i < N; ++i) lanes[i % G] = std::max(lanes[i % G], lanes[i]);
    for (int g = 0; g < G; ++g) {
        float largest = std::max(partial.largest[g], lanes[g]);
        bool is_same = partial.largest[g] == largest;  // perhaps both are minus infinity
        factors[g] = is_same ? 1 : std::exp(partial.largest[g] - largest);
        partial.largest[g] = largest;
    }
    for (int i = 0; i < N; ++i) {
        float largest = partial.largest[i % G];
        lanes[i] = largest == -kInfinity ? 0 : largest;
    }
    top = load<Floats<N>>(lanes);
    Floats<N> sum = {};
    for (int i = 0; i < count; i += N) {
        auto weight = exp_vec<N>(load<Floats<N>>(scores + i) - top);
        store(scores + i, weight);
        sum += weight;
    }
    store(lanes, sum);
    for (int i = G; i < N; ++i) lanes[i % G] += lanes[i];
    for (int g = 0; g < G; ++g)
        partial.weights[g] = partial.weights[g] * factors[g] + lanes[g];
}

// The rows of a tile's keys or values.
template <typename T>
void find_rows(const Call& call, const void* cache, int64_t sequence, int64_t head,
               int64_t first, int count, int64_t dim, const T** rows) {
    auto base = static_cast<const T*>(cache) + head * call.num_slots * dim;
    auto table = call.block_tables + sequence * call.max_blocks;
    int64_t block = first / call.block_size, offset = first % call.block_size;
    for (int k = 0; k < count; ++k) {
        rows[k] = base + (table[block] * call.block_size + offset) * dim;
        if (++offset == call.block_size) {
            offset = 0;
            ++block;
        }
    }
}

template <typename T>
void write_new(const Call& call, const void* from, const int64_t* strides, void* cache,
               int64_t sequence, int64_t head, int64_t dim) {
    const T* row;
    find_rows<T>(call, cache, sequence, head, call.lengths[sequence] - 1, 1, dim, &row);
    auto source = static_cast<const T*>(from) + sequence * strides[0] + head * strides[1];
    std::memcpy(const_cast<T*>(row), source, dim * sizeof(T));
}

template <typename T, int G>
void attend(const Call& call, const Unit& unit, int64_t kv_head, const Lanes& lanes,
            Partial partial) {
    alignas(64) float scores[kTile * G] = {};
    float factors[G];
    const T *keys[kTile], *values[kTile];
    const Queries<T, G> queries(call, unit.row, lanes);
    std::fill_n(partial.largest, G, -kInfinity);
    std::fill_n(partial.weights, G, 0.0f);
    std::fill_n(partial.values, G * call.value_dim, 0.0f);
    for (int64_t first = unit.first; first < unit.last; first += kTile) {
        int num_keys = std::min<int64_t>(kTile, unit.last - first);
        find_rows<T>(call, call.keys, unit.sequence, kv_head, first, num_keys, call.head_dim,
                     keys);
        find_rows<T>(call, call.values, unit.sequence, kv_head, first, num_keys, call.value_dim,
                     values);
        std::fill(keys + num_keys, keys + num_padded(num_keys), keys[num_keys - 1]);
        for (int k = 0; k < num_keys; k += kRows)
            score_rows<T, G>(queries, keys + k, call.head_dim, scores + k * G);
        scale_scores<G>(call, scores, num_keys);
        if (unit.num_rows > 1) hide_unseen<G>(call, unit, lanes, first, num_keys, scores);
        soften<G>(scores, num_keys, partial, factors);
        add_values<T, G>(scores, values, num_keys, call.value_dim, factors, partial.values);
    }
}

// Merge the units of one query, lane `g`: `memory` holds their partials, `stride` floats apart.
template <typename T>
void merge(const Call& call, const Unit& unit, const Lanes& lanes, int group, int g,
           float* memory, int64_t stride) {
    const int64_t head = lanes.head(g);
    float sink = call.sinks ? call.sinks[head] : -kInfinity;
    float largest = sink;
    for (int64_t i = 0; i < unit.num_siblings; ++i)
        largest = std::max(largest, Partial(memory + i * stride, group).largest[g]);
    float total = call.sinks ? std::exp(sink - largest) : 0.0f;
    for (int64_t i = 0; i < unit.num_siblings; ++i) {
        Partial partial(memory + i * stride, group);
        // From here on, `largest` is what this partial is multiplied by.
        partial.largest[g] = std::exp(partial.largest[g] - largest);
        total += partial.weights[g] * partial.largest[g];
    }
    auto output = static_cast<T*>(call.output)
                  + ((unit.row + lanes.row(g)) * call.num_heads + head) * call.value_dim;
    for (int64_t d = 0; d < call.value_dim; ++d) {
        float sum = 0;
        for (int64_t i = 0; i < unit.num_siblings; ++i) {
            Partial partial(memory + i * stride, group);
            sum += partial.values[g * call.value_dim + d] * partial.largest[g];
        }
        narrow(sum / total, output + d);
    }
}

// Which sequences an `Attention` serves.
enum class Kind { all, one_row, several_rows };

// Cut the sequences into units of at most `rows_a_unit` rows; those of one row are also cut by
// keys, where there are threads to share them.
inline std::vector<Unit> cut(const Call& call, int64_t num_groups, int64_t rows_a_unit, Kind kind) {
    auto serves = [&](int64_t sequence) {
        const bool is_one = num_rows(call, sequence) == 1;
        return kind == Kind::all || is_one == (kind == Kind::one_row);
    };
    int64_t num_keys = 0;
    for (int64_t b = 0; b < call.batch; ++b)
        if (serves(b)) num_keys += call.lengths[b];
    // Four units a thread even out what threads are disturbed by.
    int64_t span = std::max(kMinSpan, num_keys * num_groups / (call.num_threads * 4));
    span = (span + kTile - 1) / kTile * kTile;
    std::vector<Unit> units;
    for (int64_t b = 0; b < call.batch; ++b) {
        if (!serves(b)) continue;
        const int64_t last_row = first_row(call, b + 1);
        for (int64_t row = first_row(call, b); row < last_row; row += rows_a_unit) {
            Unit unit{b, row, std::min(rows_a_unit, last_row - row), 0, 0, 0, 1};
            const int64_t start = unit.begin(call, 0), end = unit.end(call, unit.num_rows - 1);
            unit.first_sibling = units.size();
            if (call.num_threads > 1 && num_rows(call, b) == 1)
                unit.num_siblings = (end - start + span - 1) / span;
            const int64_t step = unit.num_siblings == 1 ? end - start : span;
            for (unit.first = start; unit.first < end; unit.first += step) {
                unit.last = std::min(unit.first + step, end);
                units.push_back(unit);
            }
        }
    }
    return units;
}

// A call cut into tasks that any threads may take in any order.
template <typename T, int G>
class Attention {
public:
    explicit Attention(const Call& call, Kind kind = Kind::all)
        : call_(call),
          heads_per_kv_head_(call.num_heads / call.num_kv_heads),
          groups_per_kv_head_((heads_per_kv_head_ + G - 1) / G),
          num_groups_(call.num_kv_heads * groups_per_kv_head_),
          units_(cut(call, num_groups_, std::max<int64_t>(1, G / heads_per_kv_head_), kind)),
          num_units_(units_.size()),
          size_(Partial::size(G, call.value_dim)),
          partials_(workspace(kind, num_groups_ * num_units_ * size_)),
          pending_(num_groups_ * num_units_) {
        for (int64_t i = 0; i < num_groups_ * num_units_; ++i)
            pending_[i] = units_[i % num_units_].num_siblings;
    }

    int64_t num_tasks() const { return num_groups_ * num_units_; }

    void work(int64_t task) {
        const Unit& unit = units_[task / num_groups_];
        const int64_t group = task % num_groups_;
        const int64_t kv_head = group / groups_per_kv_head_;
        const int64_t offset = group % groups_per_kv_head_ * G;
        const Lanes lanes{kv_head * heads_per_kv_head_ + offset,
                          std::min<int64_t>(G, heads_per_kv_head_ - offset), unit.num_rows};
        // Whoever serves more than kMaxGroup heads a KV head writes the same several times.
        if (call_.new_keys && unit.last == call_.lengths[unit.sequence]) {
            write_new<T>(call_, call_.new_keys, call_.new_key_strides, call_.keys, unit.sequence,
                         kv_head, call_.head_dim);
            write_new<T>(call_, call_.new_values, call_.new_value_strides, call_.values,
                         unit.sequence, kv_head, call_.value_dim);
        }
        float* memory = partials_ + group * num_units_ * size_;
        attend<T, G>(call_, unit, kv_head, lanes,
                     Partial(memory + task / num_groups_ * size_, G));
        int64_t* left = &pending_[group * num_units_ + unit.first_sibling];
        if (__atomic_sub_fetch(left, 1, __ATOMIC_ACQ_REL) > 0) return;
        for (int g = 0; g < lanes.count(); ++g)
            merge<T>(call_, unit, lanes, G, g, memory + unit.first_sibling * size_, size_);
    }

private:
    // Memory of the thread that makes the tasks; it outlives them and is used again.
    static float* workspace(Kind kind, size_t count) {
        thread_local std::vector<float> memories[3];
        std::vector<float>& memory = memories[int(kind)];
        if (memory.size() < count) memory.resize(count);
        return memory.data();
    }

    const Call call_;
    const int64_t heads_per_kv_head_, groups_per_kv_head_, num_groups_;
    const std::vector<Unit> units_;
    const int64_t num_units_, size_;
    float* const partials_;          // (num_groups, num_units, size)
    std::vector<int64_t> pending_;   // by group and first sibling
};

// Calls `use` with the group size, as a constant, that serves this many heads a KV head.
template <typename Use>
void with_group(int64_t heads_per_kv_head, Use use) {
    if (heads_per_kv_head == 1) use(std::integral_constant<int, 1>{});
    else if (heads_per_kv_head == 2) use(std::integral_constant<int, 2>{});
    else if (heads_per_kv_head <= 4) use(std::integral_constant<int, 4>{});
    else if (heads_per_kv_head <= 8 || kMaxGroup == 8) use(std::integral_constant<int, 8>{});
    else use(std::integral_constant<int, 16>{});
}

// Whether threads pay for so many keys.
inline bool pays_threads(const Call& call) {
    int64_t num_keys = 0;
    for (int64_t b = 0; b < call.batch; ++b) num_keys += call.lengths[b];
    return num_keys * call.num_kv_heads * (call.head_dim + call.value_dim) >= kMinParallel;
}

}  // namespace palma
