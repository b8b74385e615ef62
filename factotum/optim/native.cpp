// One pass of the hierarchical RNN optimizer over tensors: features, the parameter RNN, its readouts, the new slots and
// the sums that the tensor RNN sees. Every number of the state is read once and written once. Compiled by
// native_build.py at first use; it knows nothing of torch. The equations are those of HierarchicalRNNCore.sweep.
#include "native_memory.h"
#include "native_threads.h"

#include <new>
#include <type_traits>

// Given by native_build.py, one library for each configuration: UNITS, SCALES, PRODUCTS, ASINH, ATTENTION.
// Magnitudes are told by their differences to the first, one fewer than the gammas, which are linear in them.
enum { MAGNITUDES = PRODUCTS ? 2 * SCALES - 1 : SCALES, RELATIVE_RATE = MAGNITUDES + SCALES - 1, HIDDEN };
enum { INPUTS = HIDDEN + UNITS, FEATURES = HIDDEN + 1, READOUTS = 4 + ATTENTION };
enum { SUMS = UNITS + FEATURES + 3 + ATTENTION };
enum { BLOCK = WIDE * LANES, GROUP = 2 * WIDE };
enum { CHUNK = 4096 };  // sums are formed in chunks, then over them, whatever the threads
enum { RESET, KEEP, CANDIDATE };
enum { LOG_STEP, GRADIENT_DECAY, SQUARE_DECAY, DIRECTION, ATTENDED };

// In the order in which native.py packs them. Gates and decays are multiplied by -log2(e), the candidate by 2 log2(e).
struct Weights {
    float gates[3][INPUTS][UNITS], readout[UNITS][READOUTS], readout_bias[READOUTS], shortcut[SCALES][READOUTS];
    float log_rate_kept, offset, step_limit, gradient_limit, least_decay, greatest_decay;
};

// One tensor, filled in by native.py.
struct Job {
    int64_t size;
    Array gradient, hidden, mean, square, gradient_decay, square_decay, log_rate;
    float *step, *attended;
};

struct FinishJob {
    int64_t size;
    Array parameter;
    const float *step;
};

// ------------------------------------------------------------------------------------------------ one block of scalars

// N of the vectors from here on.
template <int N> INLINE V (&part(V *x))[N] { return *(V(*)[N])x; }

// Calls f(size of the group, first) for groups of GROUP, and of 1 for those that are left over.
template <int N, class F> INLINE void in_groups(F f) {
    for (int i = 0; i + GROUP <= N; i += GROUP) f(std::integral_constant<int, GROUP>(), i);
    for (int i = N / GROUP * GROUP; i < N; i++) f(std::integral_constant<int, 1>(), i);
}

// What is the same for all blocks of a chunk, and what they add to.
struct Context {
    const Weights &w;
    const Job &job;
    float bias[3][UNITS], mean_log_rate, least_log_rate;
    bool stochastic;
    U random;
    V input_sums[INPUTS], hidden_sums[UNITS];  // of the inputs the features alone are used
    V squared_sum, rate_sum, attended_sum, size_sum;

    // New random bits in every lane: Marsaglia's xorshift.
    const U *chance() {
        if (!stochastic) return nullptr;
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        return &random;
    }
};

// Vectors [u][v] of a block lie flat, the several of one number behind each other.
template <bool WHOLE> struct Block {
    Context &c;
    const Weights &w;
    const Job &job;
    int64_t first;
    int count[WIDE];
    I inside[WIDE];
    V inputs[INPUTS * WIDE], hidden[UNITS * WIDE], squared[WIDE], attended_squared[WIDE], rate[WIDE], size[WIDE];

    Block(Context &c, int64_t first, int64_t last) : c(c), w(c.w), job(c.job), first(first) {
        for (int v = 0; v < WIDE; v++) {
            count[v] = WHOLE ? LANES : (int)std::max<int64_t>(0, std::min<int64_t>(last - first - v * LANES, LANES));
            for (int lane = 0; !WHOLE && lane < LANES; lane++) inside[v][lane] = lane < count[v] ? -1 : 0;
        }
    }

    // The next block, on its way from memory while this one is computed.
    INLINE_MEMBER void fetch(const Array &array, int rows) {
        int64_t bytes = array.type == FLOAT32 ? 4 : 2;
        const char *data = array.data + (first + BLOCK) * bytes;
        for (int row = 0; row < rows; row++, data += job.size * bytes)
            for (int line = 0; line < BLOCK * 4; line += 64) __builtin_prefetch(data + line);
    }

    INLINE_MEMBER void fetch() {
        fetch(job.gradient, 1);
        fetch(job.gradient_decay, 1);
        fetch(job.square_decay, 1);
        fetch(job.log_rate, 1);
        fetch(job.mean, SCALES);
        fetch(job.square, SCALES);
        fetch(job.hidden, UNITS);
    }

    INLINE_MEMBER V get(Array from, int v) { return load<WHOLE>(from, first + v * LANES, count[v]); }
    INLINE_MEMBER void put(Array to, int v, V x) { store<WHOLE>(to, first + v * LANES, count[v], x, c.chance()); }

    // New averages of the gradient and of their squares; what the RNN sees of them: m, m m, magnitudes, relative rate.
    INLINE_MEMBER void features() {
        V ratio[SCALES * WIDE], size[SCALES * WIDE], g[WIDE], decay[WIDE], square_decay[WIDE];
        each<WIDE>([&](int v) INLINE_LAMBDA {
            g[v] = clamp(get(job.gradient, v), -w.gradient_limit, w.gradient_limit);
            this->size[v] = absolute(g[v]);
            decay[v] = get(job.gradient_decay, v);
            square_decay[v] = get(job.square_decay, v);
            inputs[RELATIVE_RATE * WIDE + v] = get(job.log_rate, v) - c.mean_log_rate;
        });
        each<SCALES * WIDE>([&](int i) INLINE_LAMBDA {
            int v = i % WIDE;
            Array means = job.mean.row(i / WIDE, job.size), squares = job.square.row(i / WIDE, job.size);
            V mean = g[v] + decay[v] * (get(means, v) - g[v]), fresh = mean * mean + 1e-12f;
            V square = fresh + square_decay[v] * (get(squares, v) - fresh);
            put(means, v, mean);
            put(squares, v, square);
            size[i] = square + 1e-16f;
            ratio[i] = mean * inverse_root(size[i]);
            decay[v] = square_root(decay[v]);
        });
        in_groups<SCALES * WIDE>([&](auto group, int i) INLINE_LAMBDA {
            if (ASINH) asinh(part<group>(ratio + i));
            log(part<group>(size + i));
        });
        each<SCALES * WIDE>([&](int i) { inputs[i] = ratio[i]; });
        if (PRODUCTS) each<(SCALES - 1) * WIDE>([&](int i) { inputs[SCALES * WIDE + i] = ratio[i] * ratio[i + WIDE]; });
        each<(SCALES - 1) * WIDE>([&](int i) { inputs[MAGNITUDES * WIDE + i] = size[i + WIDE] - size[i % WIDE]; });
    }

    // What goes into one gate's nonlinearity: all its sums stay in registers, a weight is loaded once for all vectors.
    // also(k) is done to input k in between, where there is room.
    template <class F> INLINE_MEMBER void gate(int number, V (&sums)[UNITS * WIDE], F also) {
        V total[UNITS * WIDE];
        each<UNITS * WIDE>([&](int i) { total[i] = broadcast(c.bias[number][i / WIDE]); });
#pragma GCC unroll 1
        for (int k = 0; k < INPUTS; k++) {
            each<UNITS>([&](int u) {
                V weight = broadcast(w.gates[number][k][u]);
                each<WIDE>([&](int v) { total[u * WIDE + v] += weight * inputs[k * WIDE + v]; });
            });
            also(k);
        }
        each<UNITS * WIDE>([&](int i) { sums[i] = total[i]; });
    }

    // h <- u h + (1 - u) tanh(a) with one division for both: u = 1 / (1 + e), tanh(a) = t / (t + 2).
    INLINE_MEMBER void recur() {
        V keep[UNITS * WIDE], sums[UNITS * WIDE], *carried = inputs + HIDDEN * WIDE;
        each<UNITS * WIDE>([&](int i) INLINE_LAMBDA {
            hidden[i] = carried[i] = get(job.hidden.row(i / WIDE, job.size), i % WIDE);
        });
        gate(KEEP, keep, [](int) {});
        gate(RESET, sums, [&](int k) INLINE_LAMBDA { add(c.input_sums[k], inputs + k * WIDE); });
        in_groups<UNITS * WIDE>([&](auto group, int i) INLINE_LAMBDA {
            sigmoid_of_scaled(part<group>(sums + i));
            each<group>([&](int j) { carried[i + j] = hidden[i + j] * sums[i + j]; });
        });
        gate(CANDIDATE, sums, [](int) {});
        in_groups<UNITS * WIDE>([&](auto group, int i) INLINE_LAMBDA {
            auto &e = part<group>(keep + i), &t = part<group>(sums + i), &h = part<group>(hidden + i);
            clamp(e, -60.0f, 60.0f);
            exp2_in_range(e);
            clamp(t, -30.0f, 30.0f);
            exp2_less_1_in_range(t);
            V both[group];
            each<group>([&](int j) { h[j] = h[j] * (t[j] + 2.0f) + e[j] * t[j]; });
            each<group>([&](int j) { both[j] = (1.0f + e[j]) * (t[j] + 2.0f); });
            reciprocal(both);
            each<group>([&](int j) { h[j] = h[j] * both[j]; });
            each<group>([&](int j) { put(job.hidden.row((i + j) / WIDE, job.size), (i + j) % WIDE, h[j]); });
        });
    }

    // What is read from the new hidden state: the step before its normalisation, next decays, the average log rate.
    INLINE_MEMBER void read_out() {
        V out[READOUTS * WIDE];
        each<READOUTS * WIDE>([&](int i) { out[i] = broadcast(w.readout_bias[i / WIDE]); });
        for (int s = 0; s < SCALES; s++)
            each<(READOUTS - DIRECTION) * WIDE>([&](int i) {
                out[DIRECTION * WIDE + i] += w.shortcut[s][DIRECTION + i / WIDE] * inputs[s * WIDE + i % WIDE];
            });
#pragma GCC unroll 1
        for (int u = 0; u < UNITS; u++) {
            add(c.hidden_sums[u], hidden + u * WIDE);
            each<READOUTS * WIDE>([&](int i) { out[i] += w.readout[u][i / WIDE] * hidden[u * WIDE + i % WIDE]; });
        }
        sigmoid_of_scaled(part<2 * WIDE>(out + GRADIENT_DECAY * WIDE));
        clamp(part<2 * WIDE>(out + GRADIENT_DECAY * WIDE), w.least_decay, w.greatest_decay);
        each<WIDE>([&](int v) INLINE_LAMBDA {
            V before = get(job.log_rate, v), direction = out[DIRECTION * WIDE + v];
            V log_step = clamp(before + out[LOG_STEP * WIDE + v], -w.step_limit, w.step_limit);
            V kept = log_step + w.log_rate_kept * (before - log_step), least = broadcast(c.least_log_rate);
            rate[v] = pick(kept > least, kept, least);
            squared[v] = direction * direction;
            put(job.log_rate, v, rate[v]);
            put(job.gradient_decay, v, out[GRADIENT_DECAY * WIDE + v]);
            put(job.square_decay, v, out[SQUARE_DECAY * WIDE + v]);
            write<WHOLE>(job.step, first + v * LANES, count[v], exp(log_step + w.offset) * direction);
            if (!ATTENTION) return;
            V attended = out[(READOUTS - 1) * WIDE + v];
            attended_squared[v] = attended * attended;
            write<WHOLE>(job.attended, first + v * LANES, count[v], exp(log_step) * attended);
        });
    }

    INLINE_MEMBER void add(V &to, const V *values) {
        V sum{};
        for (int v = 0; v < WIDE; v++) sum += WHOLE ? values[v] : (V)((I)values[v] & inside[v]);
        to += sum;
    }

    void run() {
        fetch();
        features();
        recur();
        read_out();
        add(c.squared_sum, squared);
        add(c.rate_sum, rate);
        if (ATTENTION) add(c.attended_sum, attended_squared);
        add(c.size_sum, size);
    }
};

// --------------------------------------------------------------------------------------------- chunks and their sums

static double total(V x) {
    double sum = 0;
    for (int lane = 0; lane < LANES; lane++) sum += x[lane];
    return sum;
}

static void sweep_chunk(const Weights &w, const Job &job, const Chunk &chunk, const float *bias, float mean_log_rate,
                        float least_log_rate, int64_t seed, double *sums) {
    Context c{w, job, {}, mean_log_rate, least_log_rate, seed >= 0};
    for (int gate = RESET; gate <= CANDIDATE; gate++)
        for (int u = 0; u < UNITS; u++)
            c.bias[gate][u] = bias[gate * UNITS + u] * (gate == CANDIDATE ? 2.0f * LOG2E : -LOG2E);
    uint64_t start = ((uint64_t)mixed(seed) << 32 | mixed(chunk.job)) ^ ((uint64_t)chunk.first << 8);
    for (int lane = 0; c.stochastic && lane < LANES; lane++) c.random[lane] = mixed(start + lane) | 1;
    int64_t at = chunk.first;
    for (; at + BLOCK <= chunk.last; at += BLOCK) Block<true>(c, at, chunk.last).run();
    if (at < chunk.last) Block<false>(c, at, chunk.last).run();
    double magnitudes[SCALES] = {}, mean = 0;  // gammas are the magnitudes less their mean, the first magnitude is 0
    for (int s = 1; s < SCALES; s++) mean += (magnitudes[s] = total(c.input_sums[MAGNITUDES + s - 1])) / SCALES;
    for (int u = 0; u < UNITS; u++) *sums++ = total(c.hidden_sums[u]);
    for (int k = 0; k < MAGNITUDES; k++) *sums++ = total(c.input_sums[k]);
    for (int s = 0; s < SCALES; s++) *sums++ = magnitudes[s] - mean;
    *sums++ = total(c.input_sums[RELATIVE_RATE]);
    *sums++ = total(c.squared_sum);
    *sums++ = total(c.rate_sum);
    if (ATTENTION) *sums++ = total(c.attended_sum);
    *sums++ = total(c.size_sum);
}

static void finish_chunk(const FinishJob &job, const Chunk &chunk, float scale, float kept) {
    int64_t at = chunk.first;
    for (; at + LANES <= chunk.last; at += LANES)
        store<true>(job.parameter, at, LANES,
                    kept * load<true>(job.parameter, at, LANES) - scale * read<true, V>(job.step, at, LANES));
    int count = (int)(chunk.last - at);
    if (count)
        store<false>(job.parameter, at, count,
                     kept * load<false>(job.parameter, at, count) - scale * read<false, V>(job.step, at, count));
}

// These return 0, or 1 where there was no memory; then nothing was changed.
extern "C" int64_t sweep(const Weights *weights, const Job *jobs, int64_t count, const float *biases,
                         const float *mean_log_rates, const float *least_log_rates, float *sums, int64_t seed, int64_t threads) try {
    std::vector<Chunk> parts = chunks(jobs, count, CHUNK);
    std::vector<double> partial(parts.size() * SUMS), total(count * SUMS);
    in_parallel(parts.size(), threads, [&](int64_t i) {
        int64_t job = parts[i].job;
        const float *bias = biases + job * 3 * UNITS;
        sweep_chunk(*weights, jobs[job], parts[i], bias, mean_log_rates[job], least_log_rates[job], seed, &partial[i * SUMS]);
    });
    for (size_t i = 0; i < parts.size(); i++)
        for (int k = 0; k < SUMS; k++) total[parts[i].job * SUMS + k] += partial[i * SUMS + k];
    std::copy(total.begin(), total.end(), sums);
    return 0;
} catch (const std::bad_alloc &) {
    return 1;
}

extern "C" int64_t finish(const FinishJob *jobs, int64_t count, const float *scales, const float *kept,
                          int64_t threads) try {
    std::vector<Chunk> parts = chunks(jobs, count, 16 * CHUNK);
    in_parallel(parts.size(), threads, [&](int64_t i) {
        finish_chunk(jobs[parts[i].job], parts[i], scales[parts[i].job], kept[parts[i].job]);
    });
    return 0;
} catch (const std::bad_alloc &) {
    return 1;
}

struct Numbers {
    int64_t size;
    Array array;
};

// Sets to 0 the flags of those in which a number is not finite.
extern "C" int64_t finite(const Numbers *jobs, int64_t count, std::atomic<uint8_t> *flags, int64_t threads) try {
    std::vector<Chunk> parts = chunks(jobs, count, 16 * CHUNK);
    in_parallel(parts.size(), threads, [&](int64_t i) {
        const Array &array = jobs[parts[i].job].array;
        I largest{};
        for (int64_t at = parts[i].first; at < parts[i].last; at += LANES) {
            int valid = (int)std::min<int64_t>(LANES, parts[i].last - at);
            I size = (I)absolute(valid == LANES ? load<true>(array, at, LANES) : load<false>(array, at, valid));
            largest = (I)pick(size > largest, (V)size, (V)largest);
        }
        for (int lane = 0; lane < LANES; lane++)
            if (largest[lane] >= 0x7f800000) flags[parts[i].job] = 0;
    });
    return 0;
} catch (const std::bad_alloc &) {
    return 1;
}

// For the tests: one of the functions at many points; sizes of the packed weights and of a row of sums.
extern "C" void evaluate(int64_t number, const float *x, float *y, int64_t count) {
    V (*functions[])(V) = {exp, log, asinh, sigmoid_of_scaled, tanh_of_scaled, inverse_root, reciprocal};
    for (int64_t at = 0; at < count; at += LANES) {
        int valid = (int)std::min<int64_t>(LANES, count - at);
        write<false>(y, at, valid, functions[number](read<false, V>(x, at, valid)));
    }
}

extern "C" int64_t weight_count() { return sizeof(Weights) / sizeof(float); }
extern "C" int64_t sum_count() { return SUMS; }
