// What all candidates of a step share: the process, the trusts of its views, features; and the lengthscales and the
// noise of the next step. Local letters as in native.cpp.
#pragma once

#include "native_process.h"

enum { SHARED_FEATURES = 6 + 2 * VIEWS, MOVED_FEATURES = 7, MOVED_WIDTH = 16 };

struct Layer {
    const float *weight, *bias;
};

// In the order of native.py.
struct Weights {
    const float *prior_lengthscale;
    Layer trust, first_move, second_move, own, shared, hidden, output;
};

typedef void (*Snap)(double *points_CD, int64_t count);

// In the order of native.py.
struct Told {
    int64_t N, P, D, C, H, moves;
    double remaining, log_noise;
    const double *x_ND, *y_N, *pending_PD, *log_lengthscale_D, *quantile;
    const float *uniform_CF, *normal_LD;
    double *proposal_D, *moved_D, *moved_noise;
    Snap snap;
};

struct Scene {
    const Weights *w;
    Told told;
    Process process;
    std::vector<double> stretch_D, reach_D, best_x_D;
    std::vector<float> bias_H;
    float shared_F[SHARED_FEATURES], trust_V[VIEWS];

    void look() {
        int64_t D = process.D = told.D;
        process.N = told.N;
        process.M = told.N + told.P;
        process.noise = std::exp(told.log_noise);
        stretch_D.resize(D);
        reach_D.resize(D);
        for (int64_t d = 0; d < D; d++) {
            stretch_D[d] = std::sqrt(5.0) * std::exp(-told.log_lengthscale_D[d]);
            reach_D[d] = std::exp(std::min(told.log_lengthscale_D[d], 0.0));
        }
        process.view(told.y_N, told.quantile);
        process.place(told.x_ND, told.pending_PD, stretch_D.data());
        process.correlate();
        process.factor();
        process.solve();
        best_x_D.assign(told.x_ND + process.order_N[0] * D, told.x_ND + (process.order_N[0] + 1) * D);
        share_features();
        weigh();
    }

    void share_features() {
        int64_t N = told.N, D = told.D;
        double left = std::max(told.remaining, 1.0), mean = 0.0;
        for (int64_t d = 0; d < D; d++) mean += told.log_lengthscale_D[d] / D;
        double plain[] = {std::log((double)N) / 4, std::log((double)D) / 3, std::log(left) / 4, left / (left + N),
                          std::log1p((double)(N - 1 - process.order_N[0])) / 4, mean};
        std::copy_n(plain, 6, shared_F);
        double median = told.y_N[process.order_N[(N - 1) / 2]];
        for (int v = 0; v < VIEWS; v++) {
            shared_F[6 + v] = std::log(quality(process.seen_VN.numbers(v), process.weights_VN.numbers(v), median)) / 4;
            shared_F[6 + VIEWS + v] = std::log(process.amplitude_V[v]) / 2;
        }
    }

    // Error of predicting each of the better half from the others, over their spread.
    double quality(const double *seen_N, const double *weights_N, double median) {
        double count = 0.0, mean = 0.0, error = 0.0, spread = 0.0;
        for (int64_t i = 0; i < told.N; i++)
            if (told.y_N[i] <= median) count += 1.0, mean += seen_N[i];
        mean /= count;
        for (int64_t i = 0; i < told.N; i++)
            if (told.y_N[i] <= median) {
                double missed = weights_N[i] / process.inverse_diagonal(i), away = seen_N[i] - mean;
                error += missed * missed / count;
                spread += away * away / count;
            }
        return (error + 1e-6) / (spread + 1e-3);
    }

    // Trusts of the views, and what the shared features add in the first layer.
    void weigh() {
        float sum = 0.0f, largest = -INFINITY;
        for (int v = 0; v < VIEWS; v++) largest = std::max(largest, trust_V[v] = row(w->trust, v));
        for (int v = 0; v < VIEWS; v++) sum += trust_V[v] = std::exp(trust_V[v] - largest);
        for (int v = 0; v < VIEWS; v++) trust_V[v] /= sum;
        bias_H.resize(told.H);
        for (int64_t h = 0; h < told.H; h++) bias_H[h] = row(w->shared, h) + w->own.bias[h];
    }

    float row(const Layer &layer, int64_t o) {
        float sum = 0.0f;
        for (int f = 0; f < SHARED_FEATURES; f++) sum += layer.weight[o * SHARED_FEATURES + f] * shared_F[f];
        return sum + layer.bias[o];
    }

    // Lengthscales and noise for the next step.
    void move() {
        int64_t D = told.D;
        std::vector<double> slope_D(D), away_D(D);
        double slope = process.slopes(slope_D.data()), mean_away = 0.0, mean_squashed = 0.0;
        for (int64_t d = 0; d < D; d++) {
            float typical = w->prior_lengthscale[0], per_log = w->prior_lengthscale[1];
            away_D[d] = told.log_lengthscale_D[d] - (typical + per_log * std::log((double)D));
            mean_away += away_D[d] / D;
            mean_squashed += std::asinh(slope_D[d]) / D;
        }
        for (int64_t d = 0; d < D; d++) {
            double sum = slope_D[d] - away_D[d] / 0.64;
            double features[] = {std::tanh(sum), std::asinh(slope_D[d]), away_D[d], mean_away, mean_squashed,
                                 std::log((double)told.N) / 3, std::log((double)D) / 2};
            double moved = told.log_lengthscale_D[d] + 0.4 * std::tanh(0.4 * sum) + 0.3 * learned_move(features);
            told.moved_D[d] = std::min(std::max(moved, -4.0), 4.0);
        }
        double pull = slope - (told.log_noise - PRIOR_LOG_NOISE) / 4.0;
        *told.moved_noise = std::min(std::max(told.log_noise + 0.5 * std::tanh(0.4 * pull), -16.0), 0.0);
    }

    double learned_move(const double *features) {
        double sum = 0.0;
        for (int o = 0; o < MOVED_WIDTH; o++) {
            double x = w->first_move.bias[o];
            for (int f = 0; f < MOVED_FEATURES; f++)
                x += w->first_move.weight[o * MOVED_FEATURES + f] * (float)features[f];
            sum += w->second_move.weight[o] * 0.5 * x * (1.0 + std::erf(x * std::sqrt(0.5)));
        }
        return std::tanh(sum + w->second_move.bias[0]);
    }
};
