// Numbers of several types in memory, read into and written from vectors of single precision.
#pragma once

#include "native_vectors.h"

enum Type : int64_t { FLOAT32, BFLOAT16, FLOAT16 };

struct Array {
    char *data;
    Type type;
    Array row(int64_t number, int64_t size) const { return {data + number * size * (type == FLOAT32 ? 4 : 2), type}; }
};

INLINE V from_bfloat16(H x) { return (V)(__builtin_convertvector(x, U) << 16); }

INLINE V from_float16(H x) {
    U wide = __builtin_convertvector(x, U);
    I size = (I)((wide & 0x7fff) << 13), exponent = size & 0x0f800000, rebased = size + (112 << 23);
    V normal = (V)(rebased + ((exponent == 0x0f800000) & (112 << 23)));
    V small = (V)(rebased + (1 << 23)) - (V)(I{} + (113 << 23));
    return with_sign_of(pick(exponent == 0, small, normal), (V)(wide << 16));
}

// To the nearest, ties to even; with chance (16 random bits in each lane) up or down, right in the mean.
INLINE H to_bfloat16(V x, const U *chance) {
    U wide = (U)x, more = chance ? *chance & 0xffff : 0x7fff + ((wide >> 16) & 1);
    return __builtin_convertvector((wide + more) >> 16, H);
}

INLINE H to_float16(V x) {
    I size = (I)absolute(x), magic = I{} + (126 << 23);
    I normal = (size + 0xfff + ((size >> 13) & 1) - (112 << 23)) >> 13;
    I small = (I)((V)size + (V)magic) - magic;
    I special = 0x7c00 + ((size > 0x7f800000) & 0x200);
    I found = (I)pick(size < (113 << 23), (V)small, (V)normal);
    found = (I)pick(size >= (143 << 23), (V)special, (V)found);
    return __builtin_convertvector((U)found | (((U)x >> 16) & 0x8000), H);
}

template <bool WHOLE, class N> INLINE N read(const void *data, int64_t at, int count) {
    N x{};
    memcpy(&x, (const char *)data + at * (int64_t)sizeof x[0], WHOLE ? sizeof x : count * sizeof x[0]);
    return x;
}

template <bool WHOLE, class N> INLINE void write(void *data, int64_t at, int count, N x) {
    memcpy((char *)data + at * (int64_t)sizeof x[0], &x, WHOLE ? sizeof x : count * sizeof x[0]);
}

template <bool WHOLE> INLINE V load(Array from, int64_t at, int count) {
    if (from.type == FLOAT32) return read<WHOLE, V>(from.data, at, count);
    H x = read<WHOLE, H>(from.data, at, count);
    return from.type == BFLOAT16 ? from_bfloat16(x) : from_float16(x);
}

template <bool WHOLE> INLINE void store(Array to, int64_t at, int count, V x, const U *chance = nullptr) {
    if (to.type == FLOAT32) return write<WHOLE>(to.data, at, count, x);
    write<WHOLE>(to.data, at, count, to.type == BFLOAT16 ? to_bfloat16(x, chance) : to_float16(x));
}
