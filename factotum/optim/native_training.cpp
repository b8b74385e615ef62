// The pass of native.cpp for meta-training: all of a step that happens per scalar, out of place, and its gradient.
// Compiled by training_core.py at first use; it knows nothing of torch. The equations are those of
// HierarchicalRNNCore's mean_log_rates, sweep, scales and finish; the floor under log rates lets gradients pass.
// Everything per scalar lies feature by feature: row r of a tensor holds one number for each scalar.
#include "native_vectors.h"

#include <algorithm>
#include <cmath>
#include <vector>

// Given at compilation, one library for each configuration: UNITS, SCALES, PRODUCTS, ASINH.
enum { FEATURES = 2 * SCALES + (PRODUCTS ? SCALES - 1 : 0) + 1, RATE = FEATURES - 1, E = 3 * UNITS };
enum { SUMS = UNITS + FEATURES, READOUTS = 4, CHUNK = 8 };
enum { CHANGE, GRADIENT_DECAY, SQUARE_DECAY, DIRECTION };

// Pointers in the order in which training_core.py lists them. A group is what log rates are relative to: a problem's
// tensors, or one tensor. `factor` is what the root mean square is multiplied by.
struct Inputs {
    const int32_t *tensor, *group;
    const float *counts, *group_counts, *factor, *floor;
    const float *gradient, *hidden, *mean, *square, *gradient_decay, *square_decay, *log_rate, *bias;
    const float *input, *gates, *candidate, *readout, *readout_bias, *shortcut, *kept, *offset;
};
// The first two are kept for the way back, the third is scratch.
struct Outputs {
    float *update, *scale, *scratch;
    float *hidden, *mean, *square, *gradient_decay, *square_decay, *log_rate, *sums;
};
// What reaches the outputs; a null pointer is zeros.
struct Incoming {
    const float *update, *hidden, *mean, *square, *gradient_decay, *square_decay, *log_rate, *sums;
};
struct Gradients {
    float *hidden, *mean, *square, *gradient_decay, *square_decay, *log_rate, *bias;
    float *input, *gates, *candidate, *readout, *readout_bias, *shortcut, *kept, *offset;
};
struct Sizes {
    int64_t scalars, tensors, groups;
};

const float STEP_LIMIT = 33.0f, GRADIENT_LIMIT = 1e18f, LEAST = 1e-30f, GREATEST = 1.0f - 1.0f / (1 << 20);

INLINE V load(const float *from, int64_t at, int count) {
    V x{};
    if (from) memcpy(&x, from + at, count == LANES ? sizeof x : count * sizeof(float));
    return x;
}
INLINE void store(float *to, int64_t at, int count, V x) {
    memcpy(to + at, &x, count == LANES ? sizeof x : count * sizeof(float));
}
INLINE float total(V x) {
    for (int half = LANES / 2; half; half /= 2)
        for (int lane = 0; lane < half; lane++) x[lane] += x[lane + half];
    return x[0];
}

// Weights with the input's index first, for the way forward.
struct Weights {
    float x[FEATURES][E], h[2][UNITS][UNITS], c[UNITS][UNITS];
    explicit Weights(const Inputs &in) {
        for (int e = 0; e < E; e++)
            for (int f = 0; f < FEATURES; f++) x[f][e] = in.input[e * FEATURES + f];
        for (int g = 0; g < 2; g++)
            for (int u = 0; u < UNITS; u++)
                for (int k = 0; k < UNITS; k++) h[g][k][u] = in.gates[(g * UNITS + u) * UNITS + k];
        for (int u = 0; u < UNITS; u++)
            for (int k = 0; k < UNITS; k++) c[k][u] = in.candidate[u * UNITS + k];
    }
};

// LANES scalars: where they are, and whether they are all of one tensor.
struct Place {
    int64_t at;
    int count;
    int32_t tensor[LANES];
    bool single;
    Place(const Inputs &in, int64_t first, int64_t last) : at(first), count((int)std::min<int64_t>(LANES, last - first)) {
        for (int lane = 0; lane < LANES; lane++) tensor[lane] = in.tensor[at + std::min(lane, count - 1)];
        single = tensor[0] == tensor[LANES - 1];  // tensors lie one behind the other
    }
    // Row entries of each scalar's tensor.
    template <int WIDTH> INLINE_MEMBER void gather(const float *rows, V (&out)[WIDTH]) const {
        if (!rows) {
            for (int k = 0; k < WIDTH; k++) out[k] = V{};
        } else if (single) {
            for (int k = 0; k < WIDTH; k++) out[k] = broadcast(rows[(int64_t)tensor[0] * WIDTH + k]);
        } else {
            for (int lane = 0; lane < LANES; lane++)
                for (int k = 0; k < WIDTH; k++) ((float *)&out[k])[lane] = rows[(int64_t)tensor[lane] * WIDTH + k];
        }
    }
    // Adds to the rows of each scalar's tensor; scalars beyond the last one count nothing.
    template <int WIDTH> INLINE_MEMBER void scatter(float *rows, const V (&in)[WIDTH]) const {
        if (single && count == LANES) {
            for (int k = 0; k < WIDTH; k++) rows[(int64_t)tensor[0] * WIDTH + k] += total(in[k]);
        } else {
            for (int lane = 0; lane < count; lane++)
                for (int k = 0; k < WIDTH; k++)
                    rows[(int64_t)tensor[lane] * WIDTH + k] += ((const float *)&in[k])[lane];
        }
    }
};

// Everything that one step computes for LANES scalars.
struct Step {
    V old_mean[SCALES], old_square[SCALES], decay[SCALES], square_decay, log_rate;
    V gradient, mean[SCALES], fresh[SCALES], square[SCALES], inverse[SCALES], ratio[SCALES], x[FEATURES];
    V h[UNITS], reset[UNITS], keep[UNITS], candidate[UNITS], reset_h[UNITS], hidden[UNITS];
    V out[READOUTS], log_step, new_log_rate, sigmoid[2];

    INLINE_MEMBER void features(const Inputs &in, const float *mean_rates, const Place &p, int64_t P) {
        gradient = clamp(load(in.gradient, p.at, p.count), -GRADIENT_LIMIT, GRADIENT_LIMIT);
        square_decay = load(in.square_decay, p.at, p.count);
        V b = load(in.gradient_decay, p.at, p.count), size[SCALES], middle{}, mean_rate[1];
#pragma GCC unroll 16
        for (int s = 0; s < SCALES; s++) {
            old_mean[s] = load(in.mean + s * P, p.at, p.count);
            old_square[s] = load(in.square + s * P, p.at, p.count);
            decay[s] = b;
            mean[s] = gradient + b * (old_mean[s] - gradient);
            fresh[s] = mean[s] * mean[s] + 1e-12f;
            square[s] = fresh[s] + square_decay * (old_square[s] - fresh[s]);
            inverse[s] = inverse_root(square[s] + 1e-16f);
            ratio[s] = mean[s] * inverse[s];
            x[s] = ASINH ? asinh(ratio[s]) : ratio[s];
            size[s] = log(square[s] + 1e-16f);
            middle += size[s] * (1.0f / SCALES);
            b = square_root(b);
        }
        int number = SCALES;
        for (int s = 0; PRODUCTS && s + 1 < SCALES; s++) x[number++] = x[s] * x[s + 1];
        for (int s = 0; s < SCALES; s++) x[number++] = size[s] - middle;
        p.gather<1>(mean_rates, mean_rate);
        log_rate = load(in.log_rate, p.at, p.count);
        x[number] = log_rate - mean_rate[0];
    }

    INLINE_MEMBER void add(V (&sums)[UNITS], const V *inputs, const float *weights, int count, int stride) {
        V t[UNITS];
#pragma GCC unroll 64
        for (int u = 0; u < UNITS; u++) t[u] = sums[u];
#pragma GCC unroll 1
        for (int k = 0; k < count; k++)
#pragma GCC unroll 64
            for (int u = 0; u < UNITS; u++) t[u] += weights[k * stride + u] * inputs[k];
#pragma GCC unroll 64
        for (int u = 0; u < UNITS; u++) sums[u] = t[u];
    }

    INLINE_MEMBER void recur(const Inputs &in, const Weights &w, const Place &p, int64_t P) {
        V bias[E];
        p.gather<E>(in.bias, bias);
        for (int u = 0; u < UNITS; u++) h[u] = load(in.hidden + u * P, p.at, p.count);
        V (&r)[UNITS] = (V (&)[UNITS])bias[0], (&k)[UNITS] = (V (&)[UNITS])bias[UNITS];
        V (&c)[UNITS] = (V (&)[UNITS])bias[2 * UNITS];
        add(r, x, &w.x[0][0], FEATURES, E);
        add(r, h, &w.h[0][0][0], UNITS, UNITS);
        add(k, x, &w.x[0][UNITS], FEATURES, E);
        add(k, h, &w.h[1][0][0], UNITS, UNITS);
        for (int u = 0; u < UNITS; u++) {
            reset[u] = sigmoid_of_scaled(-LOG2E * r[u]);
            keep[u] = sigmoid_of_scaled(-LOG2E * k[u]);
            reset_h[u] = reset[u] * h[u];
        }
        add(c, x, &w.x[0][2 * UNITS], FEATURES, E);
        add(c, reset_h, &w.c[0][0], UNITS, UNITS);
        for (int u = 0; u < UNITS; u++) {
            candidate[u] = tanh_of_scaled(2 * LOG2E * c[u]);
            hidden[u] = candidate[u] + keep[u] * (h[u] - candidate[u]);
        }
    }

    INLINE_MEMBER void read(const Inputs &in) {
        for (int o = 0; o < READOUTS; o++) {
            out[o] = broadcast(o < DIRECTION ? in.readout_bias[o] : 0.0f);
            for (int u = 0; u < UNITS; u++) out[o] += in.readout[o * UNITS + u] * hidden[u];
        }
        for (int s = 0; s < SCALES; s++) out[DIRECTION] += in.shortcut[s] * x[s];
        log_step = clamp(log_rate + out[CHANGE], -STEP_LIMIT, STEP_LIMIT);
        new_log_rate = log_step + *in.kept * (log_rate - log_step);
        for (int d = 0; d < 2; d++) sigmoid[d] = sigmoid_of_scaled(-LOG2E * out[GRADIENT_DECAY + d]);
    }

    INLINE_MEMBER void forward(
        const Inputs &in, const Weights &w, const float *mean_rates, const Place &p, int64_t P) {
        features(in, mean_rates, p, P);
        recur(in, w, p, P);
        read(in);
    }
};

// What a chunk adds to the gradients of weights: rows of what reached a sum, and rows of what was summed.
struct Chunk {
    V d[E + READOUTS][CHUNK], x[FEATURES][CHUNK], h[UNITS][CHUNK], reset_h[UNITS][CHUNK], hidden[UNITS][CHUNK];
};

// out[r][k] += sum over the chunk of d[r] * in[k], added lane by lane.
template <int ROWS, int COLUMNS> struct Outer {
    V sums[COLUMNS][ROWS];
    INLINE_MEMBER void add(const V (*d)[CHUNK], const V (*in)[CHUNK]) {
#pragma GCC unroll 1
        for (int k = 0; k < COLUMNS; k++) {
            V t[ROWS];
#pragma GCC unroll 64
            for (int r = 0; r < ROWS; r++) t[r] = sums[k][r];
#pragma GCC unroll 2
            for (int v = 0; v < CHUNK; v++) {
                V x = in[k][v];
#pragma GCC unroll 64
                for (int r = 0; r < ROWS; r++) t[r] += d[r][v] * x;
            }
#pragma GCC unroll 64
            for (int r = 0; r < ROWS; r++) sums[k][r] = t[r];
        }
    }
    void write(float *to) const {
        for (int r = 0; r < ROWS; r++)
            for (int k = 0; k < COLUMNS; k++) to[r * COLUMNS + k] = total(sums[k][r]);
    }
};

struct Sums {
    Outer<UNITS, FEATURES> input[3] = {};
    Outer<UNITS, UNITS> gates[2] = {}, candidate = {};
    Outer<READOUTS, UNITS> readout = {};
    V readout_bias[3] = {}, shortcut[SCALES] = {}, kept = {}, offset = {};
};

// The gradient of one step for LANES scalars; rows of the chunk are left for the weights.
struct Backward {
    const Inputs &in;
    const Incoming &from;
    const Gradients &to;
    const float *inverse_scale, *squared;  // of each tensor: what reached its sum of squared directions
    float *rate;                           // of each tensor: what reached the relative log rates
    int64_t P;
    Sums &sums;
    Chunk &chunk;

    INLINE_MEMBER void run(const Step &s, const Place &p, int v) {
        V above[SUMS], dh[UNITS], dx[FEATURES], dlog_rate;
        p.gather<SUMS>(from.sums, above);
        for (int u = 0; u < UNITS; u++) dh[u] = load(row(from.hidden, u), p.at, p.count) + above[u];
        for (int f = 0; f < FEATURES; f++) dx[f] = above[UNITS + f];
        readouts(s, p, v, dh, dx, dlog_rate);
        recurrence(s, p, v, dh, dx);
        features(s, p, dx, dlog_rate);
        for (int f = 0; f < FEATURES; f++) chunk.x[f][v] = s.x[f];
        for (int u = 0; u < UNITS; u++) {
            chunk.h[u][v] = s.h[u];
            chunk.reset_h[u][v] = s.reset_h[u];
            chunk.hidden[u][v] = s.hidden[u];
        }
    }

    INLINE_MEMBER const float *row(const float *rows, int number) const { return rows ? rows + number * P : nullptr; }

    INLINE_MEMBER void readouts(
        const Step &s, const Place &p, int v, V (&dh)[UNITS], V (&dx)[FEATURES], V &dlog_rate) {
        V d[READOUTS], beyond = inside(p);
        V rate = load(from.log_rate, p.at, p.count), update = load(from.update, p.at, p.count), scale[1], square[1];
        p.gather<1>(inverse_scale, scale);
        p.gather<1>(squared, square);
        V slope = -exp(s.log_step + *in.offset) * scale[0] * update, moved = slope * s.out[DIRECTION];
        sums.offset += moved;
        V step = moved + (1.0f - *in.kept) * rate;
        sums.kept += rate * (s.log_rate - s.log_step);
        dlog_rate = step + *in.kept * rate;
        d[CHANGE] = step;
        const float *decays[2] = {from.gradient_decay, from.square_decay};
        for (int k = 0; k < 2; k++) {
            V y = s.sigmoid[k];
            I free = (y >= LEAST) & (y <= GREATEST);
            d[GRADIENT_DECAY + k] = pick(free, load(decays[k], p.at, p.count) * y * (1.0f - y), V{});
        }
        d[DIRECTION] = slope + 2.0f * s.out[DIRECTION] * square[0];
        d[DIRECTION] = floats(bits(d[DIRECTION]) & bits(beyond));
        for (int o = 0; o < READOUTS; o++) {
            for (int u = 0; u < UNITS; u++) dh[u] += in.readout[o * UNITS + u] * d[o];
            chunk.d[E + o][v] = d[o];
            if (o < DIRECTION) sums.readout_bias[o] += d[o];
        }
        for (int k = 0; k < SCALES; k++) {
            dx[k] += in.shortcut[k] * d[DIRECTION];
            sums.shortcut[k] += d[DIRECTION] * s.x[k];
        }
        // what lies beyond the last scalar must leave no trace in the sums over weights
        for (int u = 0; u < UNITS; u++) dh[u] = floats(bits(dh[u]) & bits(beyond));
        for (int f = 0; f < FEATURES; f++) dx[f] = floats(bits(dx[f]) & bits(beyond));
    }

    INLINE_MEMBER V inside(const Place &p) const {
        I mask{};
        for (int lane = 0; lane < LANES; lane++) mask[lane] = lane < p.count ? -1 : 0;
        return floats(mask);
    }

    INLINE_MEMBER void recurrence(const Step &s, const Place &p, int v, const V (&dhidden)[UNITS], V (&dx)[FEATURES]) {
        V d[E], dh[UNITS], dreset_h[UNITS];
        for (int u = 0; u < UNITS; u++) {
            V keep = s.keep[u], c = s.candidate[u];
            d[UNITS + u] = dhidden[u] * (s.h[u] - c) * keep * (1.0f - keep);
            d[2 * UNITS + u] = dhidden[u] * (1.0f - keep) * (1.0f - c * c);
            dh[u] = dhidden[u] * keep;
            dreset_h[u] = V{};
        }
        back<UNITS, UNITS>(in.candidate, d + 2 * UNITS, dreset_h);
        for (int u = 0; u < UNITS; u++) {
            V reset = s.reset[u];
            d[u] = dreset_h[u] * s.h[u] * reset * (1.0f - reset);
            dh[u] += dreset_h[u] * reset;
        }
        back<2 * UNITS, UNITS>(in.gates, d, dh);
        back<E, FEATURES>(in.input, d, dx);
        for (int u = 0; u < UNITS; u++) store(to.hidden + u * P, p.at, p.count, dh[u]);
        for (int e = 0; e < E; e++) chunk.d[e][v] = d[e];
        p.scatter<E>(to.bias, d);
    }

    // out[k] += sum_r weights[r][k] d[r]
    template <int ROWS, int COLUMNS> INLINE_MEMBER void back(const float *weights, const V *d, V (&out)[COLUMNS]) {
        V t[COLUMNS];
#pragma GCC unroll 64
        for (int k = 0; k < COLUMNS; k++) t[k] = out[k];
#pragma GCC unroll 1
        for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 64
            for (int k = 0; k < COLUMNS; k++) t[k] += weights[r * COLUMNS + k] * d[r];
#pragma GCC unroll 64
        for (int k = 0; k < COLUMNS; k++) out[k] = t[k];
    }

    INLINE_MEMBER void features(const Step &s, const Place &p, V (&dx)[FEATURES], V dlog_rate) {
        const int sizes = SCALES + (PRODUCTS ? SCALES - 1 : 0);
        V relative[1] = {dx[RATE]}, middle{}, ddecay[SCALES], dsquare_decay{};
        p.scatter<1>(rate, relative);
        store(to.log_rate, p.at, p.count, dlog_rate + dx[RATE]);
        for (int k = 0; k < SCALES; k++) middle += dx[sizes + k] * (1.0f / SCALES);
        for (int k = 0; PRODUCTS && k + 1 < SCALES; k++) {
            dx[k] += dx[SCALES + k] * s.x[k + 1];
            dx[k + 1] += dx[SCALES + k] * s.x[k];
        }
        for (int k = 0; k < SCALES; k++) {
            V inverse = s.inverse[k], ratio = s.ratio[k];
            V dratio = ASINH ? dx[k] * inverse_root(1.0f + ratio * ratio) : dx[k];
            V dmean = load(row(from.mean, k), p.at, p.count) + dratio * inverse;
            V dsquare = load(row(from.square, k), p.at, p.count);
            dsquare += (dx[sizes + k] - middle - 0.5f * dratio * ratio) * inverse * inverse;
            dsquare_decay += dsquare * (s.old_square[k] - s.fresh[k]);
            store(to.square + k * P, p.at, p.count, dsquare * s.square_decay);
            dmean += dsquare * (1.0f - s.square_decay) * 2.0f * s.mean[k];
            ddecay[k] = dmean * (s.old_mean[k] - s.gradient);
            store(to.mean + k * P, p.at, p.count, dmean * s.decay[k]);
        }
        for (int k = SCALES - 1; k > 0; k--)  // b_s = sqrt(b_(s-1)); where that is 0 it is a constant
            ddecay[k - 1] += pick(s.decay[k] > 0.0f, 0.5f * ddecay[k] / s.decay[k], V{});
        store(to.gradient_decay, p.at, p.count, ddecay[0]);
        store(to.square_decay, p.at, p.count, dsquare_decay);
    }
};

// For each tensor the sum over its scalars of x, or of x y.
static std::vector<float> tensor_sums(const Inputs &in, const Sizes &n, const float *x, const float *y) {
    std::vector<float> found(n.tensors);
    int64_t at = 0;
    for (int64_t t = 0; t < n.tensors; t++) {
        int64_t end = at + (int64_t)in.counts[t];
        V sums{};
        for (; at < end; at += LANES) {
            int count = (int)std::min<int64_t>(LANES, end - at);
            V a = load(x, at, count);
            sums += y ? a * load(y, at, count) : a;
        }
        at = end;
        found[t] = total(sums);
    }
    return found;
}

// For each tensor the mean over the scalars of its group, from sums over tensors.
static std::vector<float> group_means(const Inputs &in, const Sizes &n, const std::vector<float> &sums) {
    std::vector<float> whole(n.groups), found(n.tensors);
    for (int64_t t = 0; t < n.tensors; t++) whole[in.group[t]] += sums[t];
    for (int64_t t = 0; t < n.tensors; t++) found[t] = whole[in.group[t]] / std::max(1.0f, in.group_counts[in.group[t]]);
    return found;
}

extern "C" void training_forward(const Inputs *in, const Outputs *out, const Sizes *n) {
    NoDenormals none;
    const int64_t P = n->scalars;
    Weights w(*in);
    std::vector<float> mean_rates = group_means(*in, *n, tensor_sums(*in, *n, in->log_rate, nullptr));
    std::vector<float> squares(n->tensors), inverse(n->tensors);
    for (int64_t at = 0; at < P; at += LANES) {
        Place p(*in, at, P);
        Step s;
        s.forward(*in, w, mean_rates.data(), p, P);
        store(out->update, p.at, p.count, s.out[DIRECTION]);
        store(out->scratch, p.at, p.count, s.log_step);
        for (int u = 0; u < UNITS; u++) store(out->hidden + u * P, p.at, p.count, s.hidden[u]);
        for (int k = 0; k < SCALES; k++) {
            store(out->mean + k * P, p.at, p.count, s.mean[k]);
            store(out->square + k * P, p.at, p.count, s.square[k]);
        }
        store(out->gradient_decay, p.at, p.count, clamp(s.sigmoid[0], LEAST, GREATEST));
        store(out->square_decay, p.at, p.count, clamp(s.sigmoid[1], LEAST, GREATEST));
        V floor[1];
        p.gather<1>(in->floor, floor);
        store(out->log_rate, p.at, p.count, pick(s.new_log_rate > floor[0], s.new_log_rate, floor[0]));
        V row[SUMS], square[1] = {s.out[DIRECTION] * s.out[DIRECTION]};
        for (int u = 0; u < UNITS; u++) row[u] = s.hidden[u];
        for (int f = 0; f < FEATURES; f++) row[UNITS + f] = s.x[f];
        p.scatter<SUMS>(out->sums, row);
        p.scatter<1>(squares.data(), square);
    }
    for (int64_t t = 0; t < n->tensors; t++) {
        out->scale[t] = in->factor[t] * std::sqrt(squares[t] / std::max(1.0f, in->counts[t]) + 1e-16f);
        inverse[t] = 1.0f / out->scale[t];
    }
    for (int64_t at = 0; at < P; at += LANES) {
        Place p(*in, at, P);
        V scale[1], direction = load(out->update, p.at, p.count);
        p.gather<1>(inverse.data(), scale);
        store(out->update, p.at, p.count, -exp(load(out->scratch, p.at, p.count) + *in->offset) * direction * scale[0]);
    }
}

extern "C" void training_backward(
    const Inputs *in, const Outputs *out, const Incoming *from, const Gradients *to, const Sizes *n) {
    NoDenormals none;
    const int64_t P = n->scalars;
    Weights w(*in);
    Sums sums;
    std::vector<float> mean_rates = group_means(*in, *n, tensor_sums(*in, *n, in->log_rate, nullptr));
    std::vector<float> squared(n->tensors), inverse(n->tensors), rate(n->tensors);
    if (from->update) squared = tensor_sums(*in, *n, out->update, from->update);
    for (int64_t t = 0; t < n->tensors; t++) {
        float f = in->factor[t];
        inverse[t] = 1.0f / out->scale[t];
        squared[t] *= -0.5f * (f * inverse[t]) * (f * inverse[t]) / std::max(1.0f, in->counts[t]);
    }
    for (int64_t first = 0; first < P; first += CHUNK * LANES) {
        Chunk chunk;
        if (first + CHUNK * LANES > P) chunk = Chunk{};
        Backward backward{*in, *from, *to, inverse.data(), squared.data(), rate.data(), P, sums, chunk};
        for (int v = 0; v < CHUNK && first + v * LANES < P; v++) {
            Place p(*in, first + v * LANES, P);
            Step s;
            s.forward(*in, w, mean_rates.data(), p, P);
            backward.run(s, p, v);
        }
        for (int g = 0; g < 3; g++) sums.input[g].add(chunk.d + g * UNITS, chunk.x);
        for (int g = 0; g < 2; g++) sums.gates[g].add(chunk.d + g * UNITS, chunk.h);
        sums.candidate.add(chunk.d + 2 * UNITS, chunk.reset_h);
        sums.readout.add(chunk.d + E, chunk.hidden);
    }
    rate = group_means(*in, *n, rate);
    for (int64_t p = 0; p < P; p++) to->log_rate[p] -= rate[in->tensor[p]];
    for (int g = 0; g < 3; g++) sums.input[g].write(to->input + g * UNITS * FEATURES);
    for (int g = 0; g < 2; g++) sums.gates[g].write(to->gates + g * UNITS * UNITS);
    sums.candidate.write(to->candidate);
    sums.readout.write(to->readout);
    for (int o = 0; o < 3; o++) to->readout_bias[o] = total(sums.readout_bias[o]);
    for (int k = 0; k < SCALES; k++) to->shortcut[k] = total(sums.shortcut[k]);
    *to->kept = total(sums.kept);
    *to->offset = total(sums.offset);
}
