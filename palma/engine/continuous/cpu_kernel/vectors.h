// Vectors of numbers: loads and stores, bfloat16, exp and tanh.
//
// They are GCC's and Clang's vector extensions: the compiler maps them to AVX-512, AVX2 or NEON.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace palma {

using bfloat16 = uint16_t;          // its bits

#ifdef __AVX512F__
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
#if defined(__AVX__) && !defined(__AVX512F__)
constexpr int kAccumulators = 8;    // half of the 16 registers
#else
constexpr int kAccumulators = 16;   // half of 32
#endif
constexpr float kInfinity = std::numeric_limits<float>::infinity();

template <typename Element, int N>
struct VectorOf {
    typedef Element type __attribute__((vector_size(sizeof(Element) * N)));
};
template <int N>
using Floats = typename VectorOf<float, N>::type;
template <int N>
using Ints = typename VectorOf<int32_t, N>::type;

template <typename Vector>
inline Vector load(const void* from) {
    Vector vector;
    std::memcpy(&vector, from, sizeof(Vector));
    return vector;
}

template <typename Vector>
inline void store(void* to, Vector vector) {
    std::memcpy(to, &vector, sizeof(Vector));
}

inline float widen(float x) { return x; }
inline float widen(bfloat16 x) {
    uint32_t bits = uint32_t(x) << 16;
    return load<float>(&bits);
}

inline void narrow(float x, float* to) { *to = x; }
inline void narrow(float x, bfloat16* to) {
    uint32_t bits = load<uint32_t>(&x);
    if (std::isnan(x)) *to = 0x7fc0;
    else *to = bfloat16((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);  // to nearest, ties to even
}

template <int N>
inline Floats<N> load_floats(const float* from) { return load<Floats<N>>(from); }
template <int N>
inline Floats<N> load_floats(const bfloat16* from) {
    auto bits = load<typename VectorOf<uint16_t, N>::type>(from);
    auto wide = __builtin_convertvector(bits, typename VectorOf<uint32_t, N>::type) << 16;
    return load<Floats<N>>(&wide);
}

template <typename Vec>
inline Vec maximum(Vec a, Vec b) { return a > b ? a : b; }

// exp for x <= 0, within 2 units of the last place; 0 below -87. After Cephes' expf.
template <int N>
inline Floats<N> exp_vec(Floats<N> x) {
    const Floats<N> zero = {};
    const Floats<N> shifter = zero + 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    Floats<N> clamped = x < -87.0f ? zero - 87.0f : x;
    Floats<N> whole = (clamped * 1.44269504f + shifter) - shifter;
    Floats<N> rest = clamped - whole * 0.693359375f + whole * 2.12194440e-4f;
    Floats<N> y = zero + 1.9875691500e-4f;
    y = y * rest + 1.3981999507e-3f;
    y = y * rest + 8.3334519073e-3f;
    y = y * rest + 4.1665795894e-2f;
    y = y * rest + 1.6666665459e-1f;
    y = y * rest + 5.0000001201e-1f;
    y = y * rest * rest + rest + 1.0f;
    Ints<N> power = (__builtin_convertvector(whole, Ints<N>) + 127) << 23;
    return x < -87.0f ? zero : y * load<Floats<N>>(&power);
}

// tanh, with a polynomial of its own near 0, where the quotient would lose digits.
template <int N>
inline Floats<N> tanh_vec(Floats<N> x) {
    const Floats<N> zero = {};
    Floats<N> magnitude = x < 0.0f ? -x : x;
    Floats<N> e = exp_vec<N>(-2.0f * magnitude);
    Floats<N> far = (1.0f - e) / (1.0f + e);
    Floats<N> z = x * x;
    Floats<N> y = zero - 5.70498872745e-3f;
    y = y * z + 2.06390887954e-2f;
    y = y * z - 5.37397155531e-2f;
    y = y * z + 1.33314422036e-1f;
    y = y * z - 3.33332819422e-1f;
    Floats<N> near = y * z * x + x;
    return magnitude < 0.625f ? near : (x < 0.0f ? -far : far);
}

template <int N>
inline float sum_lanes(Floats<N> x) {
    if constexpr (N == 4) {
        return (x[0] + x[1]) + (x[2] + x[3]);
    } else {
        alignas(64) float lanes[N];
        store(lanes, x);
        return sum_lanes<N / 2>(load<Floats<N / 2>>(lanes) + load<Floats<N / 2>>(lanes + N / 2));
    }
}

}  // namespace palma
