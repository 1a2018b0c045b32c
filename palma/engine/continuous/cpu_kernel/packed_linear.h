// Linear layers over packed weights: out = in * W^T, for one row or many.
//
// Weights are cut into panels of 48 outputs. A panel holds, unit by unit of the inputs, the 48
// outputs' weights for it; a unit is 4 bytes: one float32, two bfloat16 or four int8. So every
// format has one loop: broadcast a unit of a row, multiply it with three vectors of weights, add.
// Up to eight rows share each load of the weights. What comes from memory is asked for early: with
// few rows some kilobytes before its turn, with many the whole next panel while this one computes.
//
// int8: each output has a scale, each row of the input another (its largest magnitude over 127);
// inputs are stored as unsigned numbers around 128, as the instruction wants them, and 128 times
// the sum of an output's weights is taken off again.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include <immintrin.h>

namespace palma {

enum Format : int32_t { kFloat32 = 0, kBfloat16 = 1, kInt8 = 2 };

constexpr int64_t kPanel = 48;      // outputs side by side: three vectors
constexpr int64_t kUnitBytes = 4;
constexpr int64_t kMaxRows = 8;     // 8 x 3 sums, 3 weights and a unit fill 28 of 32 registers
constexpr int64_t kLine = 64;       // bytes that the processor reads at once
constexpr int64_t kUnitLines = kPanel * kUnitBytes / kLine;  // of a panel
constexpr int64_t kNearUnits = 10;  // from the second cache to the first
constexpr int64_t kFarUnits = 32;   // from memory to the second: 6 kB, more than its delay

// Mirrors `LinearCall` in panel_linear.py, field by field.
struct Linear {
    const void* weights;            // (num_panels, num_units, kPanel, unit)
    const float* scales;            // (num_outputs,), of int8
    const int32_t* sums;            // (num_outputs,), of int8: 128 times each output's sum
    const float* bias;              // (num_outputs,) or null
    int64_t num_outputs, num_inputs;
    int32_t format;
};

inline int64_t inputs_a_unit(int32_t format) {
    return format == kFloat32 ? 1 : format == kBfloat16 ? 2 : 4;
}
inline int64_t num_units(const Linear& linear) {
    int64_t size = inputs_a_unit(linear.format);
    return (linear.num_inputs + size - 1) / size;
}
inline int64_t num_panels(const Linear& linear) {
    return (linear.num_outputs + kPanel - 1) / kPanel;
}

// The inputs of a layer in its format: (num_rows, num_units) units, and the rows' scales.
struct Rows {
    char* units;
    float* scales;                  // (num_rows,), of int8
    int64_t stride;                 // bytes from row to row

    static int64_t stride_of(const Linear& linear) {
        return (num_units(linear) * kUnitBytes + 63) / 64 * 64;
    }
};

inline __m512 largest_magnitude(const float* row, int64_t count) {
    __m512 largest = _mm512_setzero_ps();
    for (int64_t i = 0; i < count; i += 16) {
        __mmask16 mask = count - i >= 16 ? 0xffff : (1u << (count - i)) - 1;
        largest = _mm512_max_ps(largest, _mm512_abs_ps(_mm512_maskz_loadu_ps(mask, row + i)));
    }
    return largest;
}

// Write `row` (num_inputs,) as row `index` of `rows`.
inline void prepare_row(const Linear& linear, const float* row, int64_t index, const Rows& rows) {
    const int64_t count = linear.num_inputs;
    char* to = rows.units + index * rows.stride;
    std::memset(to + num_units(linear) * kUnitBytes - kUnitBytes, 0, kUnitBytes);
    if (linear.format == kFloat32) {
        std::memcpy(to, row, count * sizeof(float));
        return;
    }
    float scale = 1;
    __m512 factor = _mm512_set1_ps(1);
    if (linear.format == kInt8) {
        scale = std::max(_mm512_reduce_max_ps(largest_magnitude(row, count)), 1e-30f) / 127;
        rows.scales[index] = scale;
        factor = _mm512_set1_ps(1 / scale);
    }
    for (int64_t i = 0; i < count; i += 16) {
        __mmask16 mask = count - i >= 16 ? 0xffff : (1u << (count - i)) - 1;
        __m512 values = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, row + i), factor);
        if (linear.format == kInt8) {
            __m512i whole = _mm512_add_epi32(_mm512_cvtps_epi32(values), _mm512_set1_epi32(128));
            _mm_mask_storeu_epi8(to + i, mask, _mm512_cvtusepi32_epi8(whole));
        } else {
#ifdef __AVX512BF16__
            _mm256_mask_storeu_epi16(to + 2 * i, mask, (__m256i)_mm512_cvtneps_pbh(values));
#endif
        }
    }
}

template <int32_t F>
struct Sums {
    __m512 value = _mm512_setzero_ps();
    void add(__m512i unit, __m512i weights) {
        if constexpr (F == kFloat32) {
            value = _mm512_fmadd_ps((__m512)unit, (__m512)weights, value);
        } else if constexpr (F == kBfloat16) {
#ifdef __AVX512BF16__
            value = _mm512_dpbf16_ps(value, (__m512bh)unit, (__m512bh)weights);
#endif
        }
    }
    __m512 scaled(float, const float*, const int32_t*, __mmask16) const { return value; }
};

template <>
struct Sums<kInt8> {
    __m512i value = _mm512_setzero_si512();
    void add(__m512i unit, __m512i weights) {
#ifdef __AVX512VNNI__
        // GCC copies every sum around the intrinsic, _mm512_dpbusd_epi32: four times as slow.
        value = _mm512_dpbusd_epi32(value, unit, weights);
#endif
    }
    __m512 scaled(float row_scale, const float* scales, const int32_t* sums, __mmask16 mask) const {
        __m512i exact = _mm512_sub_epi32(value, _mm512_maskz_loadu_epi32(mask, sums));
        __m512 scale = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, scales), _mm512_set1_ps(row_scale));
        return _mm512_mul_ps(_mm512_cvtepi32_ps(exact), scale);
    }
};

inline const char* panel_of(const Linear& linear, int64_t panel) {
    const int64_t size = num_units(linear) * kPanel * kUnitBytes;
    return static_cast<const char*>(linear.weights) + panel * size;
}

// What a block of rows asks for while it computes.
enum class Fetch {
    near,                           // the panel is in the second cache
    stream,                         // it comes from memory, and after it the beginning of the next
    next,                           // as near, and from memory a third of the next panel
};

// R rows by one panel. `adds`: whether the results are added to what `out` holds. `next`: what
// follows the panel, or the part of it that this block brings.
template <int32_t F, int R, Fetch fetch>
void multiply_block(const Linear& linear, const Rows& rows, int64_t first_row, int64_t panel,
                    float* out, int64_t out_stride, bool adds, const char* next) {
    constexpr int64_t kUnit = kPanel * kUnitBytes;
    const int64_t units = num_units(linear);
    const char* weights = panel_of(linear, panel);
    const char* row[R];
    for (int r = 0; r < R; ++r) row[r] = rows.units + (first_row + r) * rows.stride;
    Sums<F> sums[R][3];
    for (int64_t unit = 0; unit < units; ++unit) {
        const char* at = weights + unit * kUnit;
        if constexpr (fetch == Fetch::stream) {
            const int64_t left = units - unit - kFarUnits;
            const char* soon = left > 0 ? at + kFarUnits * kUnit : next - left * kUnit;
            for (int64_t i = 0; i < kUnitLines; ++i) _mm_prefetch(soon + i * kLine, _MM_HINT_T1);
        } else {
            for (int64_t i = 0; i < kUnitLines; ++i)
                _mm_prefetch(at + kNearUnits * kUnit + i * kLine, _MM_HINT_T0);
        }
        if constexpr (fetch == Fetch::next) _mm_prefetch(next + unit * kLine, _MM_HINT_T1);
        __m512i w0 = _mm512_loadu_si512(at), w1 = _mm512_loadu_si512(at + 64);
        __m512i w2 = _mm512_loadu_si512(at + 128);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            int32_t bits;
            std::memcpy(&bits, row[r] + unit * kUnitBytes, sizeof(bits));
            __m512i x = _mm512_set1_epi32(bits);
            sums[r][0].add(x, w0);
            sums[r][1].add(x, w1);
            sums[r][2].add(x, w2);
        }
    }
#pragma GCC unroll 3
    for (int v = 0; v < 3; ++v) {
        const int64_t column = panel * kPanel + v * 16;
        const int64_t left = linear.num_outputs - column;
        const __mmask16 mask = left >= 16 ? 0xffff : left <= 0 ? 0 : (1u << left) - 1;
        __m512 bias = linear.bias ? _mm512_maskz_loadu_ps(mask, linear.bias + column)
                                  : _mm512_setzero_ps();
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            float* to = out + (first_row + r) * out_stride + column;
            float row_scale = F == kInt8 ? rows.scales[first_row + r] : 1;
            __m512 result = sums[r][v].scaled(row_scale, linear.scales + column,
                                              linear.sums + column, mask);
            result = _mm512_add_ps(result, bias);
            if (adds) result = _mm512_add_ps(result, _mm512_maskz_loadu_ps(mask, to));
            _mm512_mask_storeu_ps(to, mask, result);
        }
    }
}

template <int32_t F>
void multiply_panel(const Linear& linear, const Rows& rows, int64_t num_rows, int64_t panel,
                    float* out, int64_t out_stride, bool adds, int64_t next) {
    const int64_t num_blocks = num_rows / kMaxRows;
    const bool fetches_next = num_blocks >= kUnitLines;  // a line a unit each
    const char* after = panel_of(linear, next >= 0 ? next : panel);
    int64_t row = 0;
    auto block = [&](auto size, auto fetch, const char* fetched) {
        multiply_block<F, decltype(size)::value, decltype(fetch)::value>(
            linear, rows, row, panel, out, out_stride, adds, fetched);
        row += decltype(size)::value;
    };
    using Near = std::integral_constant<Fetch, Fetch::near>;
    using Stream = std::integral_constant<Fetch, Fetch::stream>;
    using Next = std::integral_constant<Fetch, Fetch::next>;
    for (int64_t i = 0; i < num_blocks; ++i) {
        constexpr std::integral_constant<int, kMaxRows> size;
        const int64_t part = i - (num_blocks - kUnitLines);
        if (!fetches_next && i == 0) block(size, Stream{}, after);
        else if (fetches_next && part >= 0)
            block(size, Next{}, after + part * num_units(linear) * kLine);
        else block(size, Near{}, nullptr);
    }
    auto rest = [&](auto size) {
        if (num_blocks == 0) block(size, Stream{}, after);
        else block(size, Near{}, nullptr);
    };
    switch (num_rows - row) {
        case 7: rest(std::integral_constant<int, 7>{}); break;
        case 6: rest(std::integral_constant<int, 6>{}); break;
        case 5: rest(std::integral_constant<int, 5>{}); break;
        case 4: rest(std::integral_constant<int, 4>{}); break;
        case 3: rest(std::integral_constant<int, 3>{}); break;
        case 2: rest(std::integral_constant<int, 2>{}); break;
        case 1: rest(std::integral_constant<int, 1>{}); break;
    }
}

// One panel of out (num_rows, num_outputs) = rows * weights, plus the bias. `next`: the panel that
// this thread takes after it, or -1.
inline void multiply(const Linear& linear, const Rows& rows, int64_t num_rows, int64_t panel,
                     float* out, int64_t out_stride, bool adds, int64_t next = -1) {
    if (linear.format == kFloat32)
        multiply_panel<kFloat32>(linear, rows, num_rows, panel, out, out_stride, adds, next);
    else if (linear.format == kBfloat16)
        multiply_panel<kBfloat16>(linear, rows, num_rows, panel, out, out_stride, adds, next);
    else
        multiply_panel<kInt8>(linear, rows, num_rows, panel, out, out_stride, adds, next);
}

}  // namespace palma
