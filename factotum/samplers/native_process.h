// The Gaussian process in three views, for one function: the equations of surrogate.py, with points scaled by sqrt 5
// over the lengthscales. Its matrix K is kept as W, the inverse of its Cholesky factor, so that K^-1 = W^T W.
// Local letters: V views, N points seen, M with those pending, D dimensions.
#pragma once

#include "native_vectors.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

// Rows of whole vectors; what lies behind the last column is never read as a result. Room is kept for the next time.
struct Matrix {
    std::vector<V> all;
    int64_t stride = 0;

    void resize(int64_t rows, int64_t columns) {
        stride = (columns + LANES - 1) / LANES;
        if ((int64_t)all.size() < rows * stride) all.resize(2 * rows * stride);
    }
    void clear(int64_t rows) { std::fill_n(all.begin(), rows * stride, V{}); }
    V *row(int64_t i) { return all.data() + i * stride; }
    double *numbers(int64_t i) { return (double *)row(i); }
};

// Vectors that hold so many numbers.
INLINE int64_t vectors(int64_t numbers) { return (numbers + LANES - 1) / LANES; }

struct Process {
    int64_t N, M, D;
    double noise;
    Matrix scaled_DM, kernel_MM, slope_MM, W_MM, seen_VN, weights_VN, sums_N;
    std::vector<double> known_MD;
    std::vector<int64_t> order_N;
    double level_V[VIEWS], amplitude_V[VIEWS], best_V[VIEWS];

    // `single_surrogate.view`; quantile: of the normal distribution, at k / 2N for k = 0 ... 2N.
    void view(const double *y_N, const double *quantile) {
        order_N.resize(N);
        std::iota(order_N.begin(), order_N.end(), 0);
        std::stable_sort(order_N.begin(), order_N.end(), [&](int64_t a, int64_t b) { return y_N[a] < y_N[b]; });
        double best = y_N[order_N[0]], unit = y_N[order_N[N / 2]] - best;
        unit = std::max(unit, 1e-9 * (y_N[order_N[N - 1]] - best));
        if (unit == 0.0) unit = 1.0;
        seen_VN.resize(VIEWS, N);
        seen_VN.clear(VIEWS);
        for (int64_t first = 0, last; first < N; first = last) {
            for (last = first; last < N && y_N[order_N[last]] == y_N[order_N[first]];) last++;
            double excess = (y_N[order_N[first]] - best) / unit;
            double views[] = {std::min(excess, 1.0) + std::log1p(std::max(excess - 1.0, 0.0)),
                              std::log(excess + NEAREST), quantile[first + last]};
            for (int64_t i = first; i < last; i++)
                for (int v = 0; v < VIEWS; v++) seen_VN.numbers(v)[order_N[i]] = views[v];
        }
        for (int v = 0; v < VIEWS; v++) standardise(seen_VN.numbers(v));
    }

    void standardise(double *seen_N) {
        double mean = std::accumulate(seen_N, seen_N + N, 0.0) / N, square = 0.0;
        for (int64_t i = 0; i < N; i++) seen_N[i] -= mean;
        for (int64_t i = 0; i < N; i++) square += seen_N[i] * seen_N[i];
        double deviation = std::sqrt(square / N);
        for (int64_t i = 0; i < N; i++) seen_N[i] /= deviation <= 1e-12 ? 1.0 : deviation;
    }

    // Points seen, then pending ones.
    void place(const double *x_ND, const double *pending_PD, const double *stretch_D) {
        scaled_DM.resize(D, M);
        scaled_DM.clear(D);
        known_MD.resize(M * D);
        for (int64_t m = 0; m < M; m++)
            for (int64_t d = 0; d < D; d++) {
                double x = m < N ? x_ND[m * D + d] : pending_PD[(m - N) * D + d];
                known_MD[m * D + d] = scaled_DM.numbers(d)[m] = x * stretch_D[d];
            }
    }

    // K from the diagonal on, and its slopes up to it; symmetric, so that vectors on the diagonal hold both.
    void correlate() {
        kernel_MM.resize(M, M);
        slope_MM.resize(M, M);
        for (int64_t i = 0; i < M; i++) {
            for (int64_t j = 0; j < kernel_MM.stride; j++) {
                V squared = {};
                for (int64_t d = 0; d < D; d++) {
                    V away = scaled_DM.row(d)[j] - known_MD[i * D + d];
                    squared += away * away;
                }
                squared = most(squared, broadcast(1e-20));
                V root = square_root(squared), decay = exp(-root);
                slope_MM.row(i)[j] = (root + 1.0) * decay;
                kernel_MM.row(i)[j] = (root + 1.0 + squared * (1.0 / 3.0)) * decay;
            }
            kernel_MM.numbers(i)[i] += noise + JITTER;
        }
    }

    // W: what turns K into its factor turns the unit matrix into W.
    void factor() {
        int64_t rows = (M + 3) / 4 * 4;
        W_MM.resize(rows, M);
        W_MM.clear(rows);
        for (int64_t k = 0; k < M; k++) W_MM.numbers(k)[k] = 1.0;
        for (int64_t k = 0; k < M; k++) {
            double scale = 1.0 / std::sqrt(kernel_MM.numbers(k)[k]);
            V *upper = kernel_MM.row(k), *lower = W_MM.row(k);
            for (int64_t j = k / LANES; j < kernel_MM.stride; j++) upper[j] *= scale;
            for (int64_t j = 0; j <= k / LANES; j++) lower[j] *= scale;
            for (int64_t i = k + 1; i < M; i++) {
                double share = kernel_MM.numbers(k)[i];
                V *above = kernel_MM.row(i), *below = W_MM.row(i);
                for (int64_t j = i / LANES; j < kernel_MM.stride; j++) above[j] -= share * upper[j];
                for (int64_t j = 0; j <= k / LANES; j++) below[j] -= share * lower[j];
            }
        }
    }

    // `single_surrogate.fit`: level, weights and amplitude of each view, and the diagonal of K^-1.
    void solve() {
        enum { ONES = VIEWS, DIAGONAL };
        sums_N.resize(VIEWS + 2, N);
        sums_N.clear(VIEWS + 2);
        weights_VN.resize(VIEWS, N);
        int64_t stride = sums_N.stride;
        for (int64_t i = 0; i < N; i++) {
            V dots[VIEWS + 1] = {}, *lower = W_MM.row(i);
            for (int64_t j = 0; j <= i / LANES; j++) {
                for (int v = 0; v < VIEWS; v++) dots[v] += lower[j] * seen_VN.row(v)[j];
                dots[ONES] += lower[j];
            }
            for (int v = 0; v <= ONES; v++) {
                double dot = total(dots[v]);
                for (int64_t j = 0; j <= i / LANES; j++) sums_N.row(v)[j] += dot * lower[j];
            }
            for (int64_t j = 0; j <= i / LANES; j++) sums_N.row(DIAGONAL)[j] += lower[j] * lower[j];
        }
        double ones = sum(sums_N.row(ONES), stride);
        for (int v = 0; v < VIEWS; v++) {
            level_V[v] = sum(sums_N.row(v), stride) / ones;
            V square = {};
            for (int64_t j = 0; j < stride; j++) {
                weights_VN.row(v)[j] = sums_N.row(v)[j] - level_V[v] * sums_N.row(ONES)[j];
                square += weights_VN.row(v)[j] * seen_VN.row(v)[j];
            }
            amplitude_V[v] = (total(square) + 2.0) / (N + 2.0);
            best_V[v] = INFINITY;
            for (int64_t i = 0; i < N; i++)
                best_V[v] = std::min(best_V[v], seen_VN.numbers(v)[i] - noise * weights_VN.numbers(v)[i]);
        }
    }

    static double sum(const V *row, int64_t stride) {
        V sum = {};
        for (int64_t j = 0; j < stride; j++) sum += row[j];
        return total(sum);
    }

    double inverse_diagonal(int64_t i) { return sums_N.numbers(VIEWS + 1)[i]; }

    // `single_surrogate.evidence_slopes`: of the lengthscales, and, returned, of the noise.
    double slopes(double *slope_D) {
        V lanes = {};
        for (int lane = 0; lane < LANES; lane++) lanes[lane] = lane;
        std::vector<V> slopes_D(D);
        double trace = 0.0;
        for (int64_t i = 0; i < N; i++) {
            double share_V[VIEWS];
            for (int v = 0; v < VIEWS; v++) {
                share_V[v] = weights_VN.numbers(v)[i] / (VIEWS * amplitude_V[v]);
                trace += share_V[v] * weights_VN.numbers(v)[i];
            }
            trace -= inverse_diagonal(i);
            for (int64_t j = 0; j <= i / LANES; j++) {
                V pull = {};
                for (int v = 0; v < VIEWS; v++) pull += share_V[v] * weights_VN.row(v)[j];
                for (int64_t k = i; k < N; k++) pull -= W_MM.numbers(k)[i] * W_MM.row(k)[j];
                pull *= slope_MM.row(i)[j];
                pull = pick((I)(lanes + (double)(j * LANES) < (double)i), pull, V{});
                for (int64_t d = 0; d < D; d++) {
                    V away = scaled_DM.row(d)[j] - known_MD[i * D + d];
                    slopes_D[d] += pull * away * away;
                }
            }
        }
        for (int64_t d = 0; d < D; d++) slope_D[d] = total(slopes_D[d]) / 3.0;
        return 0.5 * noise * trace;
    }
};
