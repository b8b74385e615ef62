// Vectors of floats and the functions of the kernel on them: portable C++ (the vector extensions of GCC and Clang).
// Relative errors, tested: exp2, sigmoid, tanh, log, asinh below 2e-6 (about 3e-7).
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX__) || defined(__SSE2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif

// Vectors worked on together, so that a weight is loaded once for all: ten sums of each must fit in the registers.
#if defined(__AVX512F__) || defined(__aarch64__)
#define WIDE 2
#else
#define WIDE 1
#endif

typedef float V __attribute__((vector_size(4 * LANES)));
typedef int32_t I __attribute__((vector_size(4 * LANES)));
typedef uint32_t U __attribute__((vector_size(4 * LANES)));
typedef uint16_t H __attribute__((vector_size(2 * LANES)));
#define INLINE static inline __attribute__((always_inline))
#define INLINE_MEMBER inline __attribute__((always_inline))
#define INLINE_LAMBDA __attribute__((always_inline))

// Averages of gradients that stay 0 decay below 1e-38, where some processors are a hundred times slower: 0 instead.
struct NoDenormals {
#if defined(__SSE2__)
    unsigned before = _mm_getcsr();
    NoDenormals() { _mm_setcsr(before | 0x8040); }
    ~NoDenormals() { _mm_setcsr(before); }
#else
    NoDenormals() {}
#endif
};

INLINE V broadcast(float x) { return x - V{}; }
INLINE V floats(I x) { return (V)x; }
INLINE I bits(V x) { return (I)x; }
INLINE V pick(I mask, V yes, V no) { return floats((mask & bits(yes)) | (~mask & bits(no))); }

// min, max: the second argument where the first is not a number, so that it stays one.
INLINE V least(V limit, V x) {
#if defined(__AVX512F__)
    return _mm512_min_ps(limit, x);
#elif defined(__AVX__)
    return _mm256_min_ps(limit, x);
#elif defined(__SSE2__)
    return _mm_min_ps(limit, x);
#elif defined(__aarch64__)
    return vminq_f32(limit, x);
#else
    return pick(limit < x, limit, x);
#endif
}

INLINE V most(V limit, V x) {
#if defined(__AVX512F__)
    return _mm512_max_ps(limit, x);
#elif defined(__AVX__)
    return _mm256_max_ps(limit, x);
#elif defined(__SSE2__)
    return _mm_max_ps(limit, x);
#elif defined(__aarch64__)
    return vmaxq_f32(limit, x);
#else
    return pick(limit > x, limit, x);
#endif
}

INLINE V clamp(V x, float low, float high) { return least(broadcast(high), most(broadcast(low), x)); }
INLINE V absolute(V x) { return floats(bits(x) & 0x7fffffff); }
INLINE V with_sign_of(V x, V sign) { return floats(bits(x) | (bits(sign) & (int32_t)0x80000000)); }

// sqrt(x) for x = 0 or normal.
INLINE V square_root(V x) {
#if defined(__AVX512F__)
    V y = _mm512_maskz_rsqrt14_ps(_mm512_cmp_ps_mask(x, V{}, _CMP_NEQ_UQ), x), xy = x * y;
    return xy + (0.5f * y) * (x - xy * xy);
#elif defined(__AVX__)
    return _mm256_sqrt_ps(x);
#elif defined(__SSE2__)
    return _mm_sqrt_ps(x);
#elif defined(__aarch64__)
    return vsqrtq_f32(x);
#else
    for (int lane = 0; lane < LANES; lane++) x[lane] = __builtin_sqrtf(x[lane]);
    return x;
#endif
}

// 1 / x for normal x below 2^125: an estimate and one step of Newton's where the processor has a good one.
INLINE V reciprocal(V x) {
#if defined(__AVX512F__)
    V y = _mm512_rcp14_ps(x);
    return y + y * (1.0f - x * y);
#else
    return 1.0f / x;
#endif
}

// 1 / sqrt(x) for normal x.
INLINE V inverse_root(V x) {
#if defined(__AVX512F__)
    V y = _mm512_rsqrt14_ps(x), xy = x * y;
    return y + (0.5f * y) * (1.0f - xy * y);
#else
    return 1.0f / square_root(x);
#endif
}

// Several vectors in step: each operation is done to all before the next one, so that they hide each other's latency.
template <int N, class F> INLINE void each(F f) {
#pragma GCC unroll 64
    for (int i = 0; i < N; i++) f(i);
}

template <int N> INLINE void clamp(V (&x)[N], float low, float high) {
    each<N>([&](int i) { x[i] = most(broadcast(low), x[i]); });
    each<N>([&](int i) { x[i] = least(broadcast(high), x[i]); });
}

template <int N> INLINE void reciprocal(V (&x)[N]) {
#if defined(__AVX512F__)
    V y[N];
    each<N>([&](int i) { y[i] = _mm512_rcp14_ps(x[i]); });
    each<N>([&](int i) { x[i] = 1.0f - x[i] * y[i]; });
    each<N>([&](int i) { x[i] = y[i] + y[i] * x[i]; });
#else
    each<N>([&](int i) { x[i] = 1.0f / x[i]; });
#endif
}

// c_0 x^n + ... + c_n.
template <int N, int M> INLINE void polynomial(V (&p)[N], const V (&x)[N], const float (&c)[M]) {
    each<N>([&](int i) { p[i] = c[0] * x[i] + c[1]; });
#pragma GCC unroll 64
    for (int k = 2; k < M; k++) each<N>([&](int i) { p[i] = p[i] * x[i] + c[k]; });
}

// Adding 1.5 * 2^23 rounds to an integer and leaves it in the last bits.
const float ROUNDER = 12582912.0f;

// 2^x for -126 <= x <= 127.
template <int N> INLINE void exp2_in_range(V (&x)[N]) {
    V shifted[N], p[N];
    each<N>([&](int i) { shifted[i] = x[i] + ROUNDER; });
    each<N>([&](int i) { x[i] = x[i] - (shifted[i] - ROUNDER); });
    polynomial(p, x, {1.327647187e-3f, 9.675541333e-3f, 5.550713274e-2f, 2.402211972e-1f, 6.931469671e-1f,
                      1.000000072f});
    each<N>([&](int i) { x[i] = floats(bits(p[i]) + (bits(shifted[i]) << 23)); });
}

// 2^x - 1 for -126 <= x <= 127, accurate near 0.
template <int N> INLINE void exp2_less_1_in_range(V (&x)[N]) {
    V shifted[N], p[N];
    each<N>([&](int i) { shifted[i] = x[i] + ROUNDER; });
    each<N>([&](int i) { x[i] = x[i] - (shifted[i] - ROUNDER); });
    polynomial(p, x, {1.540351251e-4f, 1.339073548e-3f, 9.618237495e-3f, 5.550357434e-2f, 2.402264979e-1f,
                      6.931471879e-1f});
    each<N>([&](int i) { p[i] = p[i] * x[i]; });
    each<N>([&](int i) { x[i] = floats((bits(shifted[i]) << 23) + 0x3f800000); });
    each<N>([&](int i) { x[i] = x[i] * p[i] + (x[i] - 1.0f); });
}

// log((1 + f) 2^exponent) for sqrt(1/2) <= 1 + f <= sqrt(2).
template <int N> INLINE void log_of_parts(V (&f)[N], I (&exponent)[N]) {
    V p[N];
    polynomial(p, f, {-1.010689307e-1f, 1.622257964e-1f, -1.725083013e-1f, 1.990016559e-1f, -2.496990904e-1f,
                      3.333505894e-1f, -5.000036512e-1f, 9.999999453e-1f});
    each<N>([&](int i) { f[i] = 6.931471806e-1f * __builtin_convertvector(exponent[i], V) + p[i] * f[i]; });
}

// log(x) for normal x > 0.
template <int N> INLINE void log(V (&x)[N]) {
    I exponent[N];
    each<N>([&](int i) { exponent[i] = (bits(x[i]) - 0x3f3504f3) >> 23; });
    each<N>([&](int i) { x[i] = floats(bits(x[i]) - (exponent[i] << 23)) - 1.0f; });
    log_of_parts(x, exponent);
}

// log(1 + y) for y >= 0: no digit of a small y is lost.
template <int N> INLINE void log1p(V (&y)[N]) {
    I exponent[N];
    each<N>([&](int i) { exponent[i] = (bits(1.0f + y[i]) - 0x3f3504f3) >> 23; });
    each<N>([&](int i) {
        V scale = floats(0x3f800000 - (exponent[i] << 23));
        y[i] = y[i] * scale + (scale - 1.0f);
    });
    log_of_parts(y, exponent);
}

// asinh(x) = log(1 + |x| + x^2 / (1 + sqrt(1 + x^2))) for |x| < 1e18.
template <int N> INLINE void asinh(V (&x)[N]) {
    V y[N], root[N];
    each<N>([&](int i) { y[i] = 1.0f + x[i] * x[i]; });
    each<N>([&](int i) { root[i] = 1.0f + y[i] * inverse_root(y[i]); });
    reciprocal(root);
    each<N>([&](int i) { y[i] = absolute(x[i]) + x[i] * x[i] * root[i]; });
    log1p(y);
    each<N>([&](int i) { x[i] = with_sign_of(y[i], x[i]); });
}

const float LOG2E = 1.4426950408889634f;

// 1 / (1 + 2^x), the sigmoid of what was multiplied by -log2(e).
template <int N> INLINE void sigmoid_of_scaled(V (&x)[N]) {
    clamp(x, -125.0f, 124.0f);
    exp2_in_range(x);
    each<N>([&](int i) { x[i] = 1.0f + x[i]; });
    reciprocal(x);
}

// tanh of what was multiplied by 2 log2(e).
template <int N> INLINE void tanh_of_scaled(V (&x)[N]) {
    clamp(x, -30.0f, 30.0f);
    exp2_less_1_in_range(x);
    V y[N];
    each<N>([&](int i) { y[i] = x[i] + 2.0f; });
    reciprocal(y);
    each<N>([&](int i) { x[i] = x[i] * y[i]; });
}

// The same for one vector.
#define FOR_ONE_VECTOR(function) \
    INLINE V function(V x) {     \
        V one[1] = {x};          \
        function(one);           \
        return one[0];           \
    }
FOR_ONE_VECTOR(exp2_in_range)
FOR_ONE_VECTOR(exp2_less_1_in_range)
FOR_ONE_VECTOR(log)
FOR_ONE_VECTOR(log1p)
FOR_ONE_VECTOR(asinh)
FOR_ONE_VECTOR(sigmoid_of_scaled)
FOR_ONE_VECTOR(tanh_of_scaled)

INLINE V exp2(V x) { return exp2_in_range(clamp(x, -126.0f, 126.0f)); }

// e^x, for x from -87.3 to 87.3; n log(2) is taken off in two parts, so that no digit of a large x is lost.
INLINE V exp(V x) {
    x = clamp(x, -87.3f, 87.3f);
    V n = (LOG2E * x + ROUNDER) - ROUNDER;
    V f = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    return exp2_in_range(LOG2E * f) * floats((__builtin_convertvector(n, I) + 127) << 23);
}
