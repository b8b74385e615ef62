// Vectors of double and of single precision numbers, and functions on them: portable C++ (the vector extensions of GCC
// and Clang). Relative errors of exp, log, erfcx below 1e-14; of gelu, absolute ones below 1e-6.
#pragma once

#include <cstdint>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif

enum { LANES = BYTES / 8, WIDE = BYTES / 4 };
typedef double V __attribute__((vector_size(BYTES)));
typedef int64_t I __attribute__((vector_size(BYTES)));
typedef uint64_t U __attribute__((vector_size(BYTES)));
typedef float F __attribute__((vector_size(BYTES)));
typedef int32_t J __attribute__((vector_size(BYTES)));
typedef float HalfF __attribute__((vector_size(BYTES / 2)));
#define INLINE static inline __attribute__((always_inline))
#define INLINE_MEMBER inline __attribute__((always_inline))

INLINE V broadcast(double x) { return x - V{}; }
INLINE F broadcast(float x) { return x - F{}; }
INLINE V pick(I mask, V yes, V no) { return (V)((mask & (I)yes) | (~mask & (I)no)); }
INLINE F pick(J mask, F yes, F no) { return (F)((mask & (J)yes) | (~mask & (J)no)); }
INLINE V absolute(V x) { return (V)((I)x & 0x7fffffffffffffff); }
INLINE F absolute(F x) { return (F)((J)x & 0x7fffffff); }

INLINE V least(V a, V b) {
#if defined(__AVX512F__)
    return _mm512_min_pd(a, b);
#elif defined(__AVX__)
    return _mm256_min_pd(a, b);
#elif defined(__SSE2__)
    return _mm_min_pd(a, b);
#else
    return pick((I)(a < b), a, b);
#endif
}

INLINE V most(V a, V b) {
#if defined(__AVX512F__)
    return _mm512_max_pd(a, b);
#elif defined(__AVX__)
    return _mm256_max_pd(a, b);
#elif defined(__SSE2__)
    return _mm_max_pd(a, b);
#else
    return pick((I)(a > b), a, b);
#endif
}

INLINE V square_root(V x) {
#if defined(__AVX512F__)
    return _mm512_sqrt_pd(x);
#elif defined(__AVX__)
    return _mm256_sqrt_pd(x);
#elif defined(__SSE2__)
    return _mm_sqrt_pd(x);
#else
    for (int lane = 0; lane < LANES; lane++) x[lane] = __builtin_sqrt(x[lane]);
    return x;
#endif
}

INLINE double total(V x) {
    double sum = 0.0;
    for (int lane = 0; lane < LANES; lane++) sum += x[lane];
    return sum;
}

// c_0 x^n + ... + c_n.
template <int M> INLINE V polynomial(V x, const double (&c)[M]) {
    V sum = broadcast(c[0]);
#pragma GCC unroll 32
    for (int k = 1; k < M; k++) sum = sum * x + c[k];
    return sum;
}

template <int M> INLINE F polynomial(F x, const float (&c)[M]) {
    F sum = broadcast(c[0]);
#pragma GCC unroll 32
    for (int k = 1; k < M; k++) sum = sum * x + c[k];
    return sum;
}

// Adding 1.5 * 2^52 rounds to an integer and leaves it in the last bits.
const double ROUNDER = 6755399441055744.0;

// e^x; what is beyond -700 or 700 counts as that.
INLINE V exp(V x) {
    x = most(least(x, broadcast(700.0)), broadcast(-700.0));
    V shifted = x * 1.4426950408889634 + ROUNDER, n = shifted - ROUNDER;
    V r = (x - n * 0.693147180369123816490) - n * 1.90821492927058770002e-10;
    V p = polynomial(r, {1.0 / 6227020800.0, 1.0 / 479001600.0, 1.0 / 39916800.0, 1.0 / 3628800.0, 1.0 / 362880.0,
                         1.0 / 40320.0, 1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0});
    return (V)((I)p + ((I)shifted << 52));
}

// log(x) for normal x > 0: 2 artanh(f / (2 + f)) of the part between sqrt(1/2) and sqrt(2). The exponent is kept 2048
// too high, so that it is positive: few processors shift signed numbers or turn them into floating ones.
INLINE V log(V x) {
    I exponent = (I)(((U)x + (0x8000000000000000 - 0x3fe6a09e667f3bcd)) >> 52);
    V n = (V)(exponent + (I)broadcast(ROUNDER)) - (ROUNDER + 2048.0);
    V f = (V)((I)x - ((exponent - 2048) << 52)) - 1.0, s = f / (2.0 + f);
    V p = polynomial(s * s, {2.0 / 21, 2.0 / 19, 2.0 / 17, 2.0 / 15, 2.0 / 13, 2.0 / 11, 2.0 / 9, 2.0 / 7, 2.0 / 5,
                             2.0 / 3, 2.0});
    return n * 0.6931471805599453 + s * p;
}

INLINE V asinh(V x) {
    V size = log(absolute(x) + square_root(x * x + 1.0));
    return pick((I)(x < 0.0), -size, size);
}

INLINE V tanh(V x) { return 1.0 - 2.0 / (exp(2.0 * most(least(x, broadcast(20.0)), broadcast(-20.0))) + 1.0); }

// e^{x^2} erfc(x) for x > -26. (1 + 2x) times it is a polynomial of (x - 4) / (x + 4), fitted at Chebyshev's points.
INLINE V erfcx(V x) {
    V a = absolute(x);
    V p = polynomial((a - 4.0) / (a + 4.0), {
        -1.6247123481370845e-08, 9.2585947907341875e-10, 9.5663546856286487e-08, -1.2445421179680654e-08,
        -2.5363131829951121e-07, 1.0693197579888739e-07, 4.1294804853833668e-07, -8.2247573969323066e-07,
        -1.2233023769711417e-08, 5.7083665412698189e-06, -1.1040495694064938e-05, -2.4399114395944616e-05,
        0.00015055046532573443, -0.00019925647791925295, -0.00075775509006528936, 0.0050319698633920938,
        -0.016197736970121095, 0.03716751556373829, -0.066330365541048056, 0.093732834995470429,
        -0.10103906604918481, 0.068097054254818615, 0.015379652102861199, -0.13962111684056364,
        1.2329951186255517
    });
    V right = p / (1.0 + 2.0 * a);
    return pick((I)(x < 0.0), 2.0 * exp(x * x) - right, right);
}

// e^x for -87 <= x <= 0.
INLINE F exp_of_negative(F x) {
    const float rounder = 12582912.0f;
    F shifted = x * 1.44269504f + rounder, n = shifted - rounder;
    F r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    F p = polynomial(r, {1.0f / 5040, 1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f});
    return (F)((J)p + ((J)shifted << 23));
}

// x Phi(x), by erfc of |x| / sqrt(2) as above: a polynomial of (a - 2) / (a + 2).
INLINE F gelu(F x) {
    F a = absolute(x) * 0.707106781f;
    a = pick((J)(a < 9.0f), a, broadcast(9.0f));
    F p = polynomial((a - 2.0f) / (a + 2.0f), {
        -9.29059297e-05f, -0.000686395414f, -0.00148394124f, 0.00133507499f, 0.00875068316f, -0.00803756511f,
        -0.0542234588f, 0.164051196f, -0.166030269f, -0.092763822f, 1.27697838f
    });
    F tail = 0.5f * p / (1.0f + 2.0f * a) * exp_of_negative(-a * a);
    return x * pick((J)(x < 0.0f), tail, 1.0f - tail);
}
