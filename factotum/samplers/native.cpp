// One proposal of the acquisition core for one function, as `single.py` computes it. Compiled by
// factotum.core.native_build at first use; it knows nothing of torch and of what the weights were trained for.
// Local letters: V views, N points seen, P pending, M both, C candidates, L of them local, D dimensions, H width.
#include "native_scene.h"

enum { CANDIDATE_FEATURES = 3 * VIEWS + 4 };
enum { TILE = WIDE / LANES };  // vectors of candidates that are judged together

// C candidates, and all that is known of them one by one.
struct Candidates {
    int64_t C;
    std::vector<double> points_CD;
    Matrix gain_VC, z_VC, mean_VC, share_C, nearest_C, score_C;

    void resize(int64_t count, int64_t D) {
        C = count;
        points_CD.resize(count * D);
        int64_t padded = (count + WIDE - 1) / WIDE * WIDE;
        for (Matrix *each : {&gain_VC, &z_VC, &mean_VC}) each->resize(VIEWS, padded);
        for (Matrix *each : {&share_C, &nearest_C, &score_C}) each->resize(1, padded);
    }
    int64_t best() {
        const double *score = score_C.numbers(0);
        return std::max_element(score, score + C) - score;
    }
};

// A layer's output of WIDE inputs side by side.
INLINE void dense(const Layer &layer, const float *bias, const F *inputs, int64_t I, F *outputs, int64_t O) {
    for (int64_t o = 0; o < O; o++) {
        F sum = broadcast(bias[o]);
        for (int64_t i = 0; i < I; i++) sum += layer.weight[o * I + i] * inputs[i];
        outputs[o] = sum;
    }
}

INLINE void gelu(F *x, int64_t count) {
    for (int64_t i = 0; i < count; i++) x[i] = gelu(x[i]);
}

struct Step : Scene {
    Candidates wide, close;
    std::vector<F> first_H, second_H;
    std::vector<V> scaled_TD, cross_MT;
    double top_V[VIEWS];

    void run() {
        look();
        if (told.moves) move();
        std::fill_n(top_V, VIEWS, -INFINITY);
        spread();
        judge(wide);
        score(wide);
        int64_t D = told.D;
        const double *chosen_D = &wide.points_CD[wide.best() * D];
        closer(chosen_D);
        judge(close);
        score(close);
        std::copy_n(&close.points_CD[close.best() * D], D, told.proposal_D);
    }

    // ---------------------------------------------------------------------------------------------------- candidates

    // `candidates.spread`.
    void spread() {
        int64_t C = told.C, D = told.D, uniform = C / 3, local = C - uniform, near = C / 2;
        int64_t centres = std::min<int64_t>(told.N, CENTRES);
        wide.resize(C, D);
        for (int64_t c = 0; c < uniform; c++)
            for (int64_t d = 0; d < D; d++) wide.points_CD[c * D + d] = told.uniform_CF[c * (D + 1) + d];
        for (int64_t l = 0; l < local; l++) {
            int64_t centre = l < near ? 0 : (l - near) % centres, c = uniform + l;
            double low = l < 3 * local / 4 ? -7.0 : -3.0;
            around(told.x_ND + process.order_N[centre] * D, l, c, l, low, 0.5, &wide.points_CD[c * D]);
        }
        if (told.snap) told.snap(wide.points_CD.data(), C);
    }

    // `candidates.closer`.
    void closer(const double *chosen_D) {
        int64_t C = told.C, D = told.D, local = C - C / 3;
        close.resize(1 + CLOSER, D);
        std::copy_n(chosen_D, D, close.points_CD.data());
        for (int64_t l = 0; l < CLOSER; l++)
            around(chosen_D, l, C + l, local + l, -6.0, -0.5, &close.points_CD[(1 + l) * D]);
        if (told.snap) told.snap(&close.points_CD[D], CLOSER);
    }

    // The l-th point around another, by row c of the uniform numbers and row n of the normal ones; low and high:
    // logarithms of the least and the largest scale.
    void around(const double *centre_D, int64_t l, int64_t c, int64_t n, double low, double high, double *point_D) {
        int64_t D = told.D;
        const float *uniform_F = told.uniform_CF + c * (D + 1), *normal_D = told.normal_LD + n * D;
        float share = l % 2 == 0 ? 1.0 : std::max(1.5 / D, 0.3);
        double scale = std::exp(low + (high - low) * uniform_F[D]);
        for (int64_t d = 0; d < D; d++) {
            double reach = uniform_F[d] < share ? scale * reach_D[d] * normal_D[d] : 0.0;
            point_D[d] = std::min(std::max(centre_D[d] + reach, 0.0), 1.0);
        }
    }

    // ------------------------------------------------------------------------------------------------------- judgement

    void judge(Candidates &all) {
        scaled_TD.resize(TILE * told.D);
        cross_MT.resize((process.M + 3) / 4 * 4 * TILE);
        for (int64_t first = 0; first < all.C; first += WIDE) {
            gather(all, first);
            V mean_VT[VIEWS][TILE] = {}, nearest_T[TILE], share_T[TILE] = {};
            cross(mean_VT, nearest_T);
            known(share_T);
            for (int t = 0; t < TILE; t++) note(all, first / LANES + t, mean_VT, nearest_T[t], share_T[t], t);
        }
        for (int v = 0; v < VIEWS; v++) {
            const double *gain = all.gain_VC.numbers(v);
            top_V[v] = std::max(top_V[v], *std::max_element(gain, gain + all.C));
        }
    }

    // The last candidate fills up the last tile.
    void gather(const Candidates &all, int64_t first) {
        for (int64_t lane = 0; lane < WIDE; lane++) {
            const double *point_D = &all.points_CD[std::min(first + lane, all.C - 1) * told.D];
            for (int64_t d = 0; d < told.D; d++) ((double *)&scaled_TD[d * TILE])[lane] = point_D[d] * stretch_D[d];
        }
    }

    // Correlations with the points known, sums of them with the weights of each view, the least squared distance.
    INLINE_MEMBER void cross(V (&mean_VT)[VIEWS][TILE], V (&nearest_T)[TILE]) {
        int64_t D = told.D;
        for (int t = 0; t < TILE; t++) nearest_T[t] = broadcast(1e300);
        for (int64_t m = 0; m < process.M; m++) {
            const double *known_D = &process.known_MD[m * D];
            V squared[TILE] = {};
            for (int64_t d = 0; d < D; d++)
                for (int t = 0; t < TILE; t++) {
                    V away = scaled_TD[d * TILE + t] - known_D[d];
                    squared[t] += away * away;
                }
            for (int t = 0; t < TILE; t++) {
                squared[t] = most(squared[t], broadcast(1e-20));
                nearest_T[t] = least(nearest_T[t], squared[t]);
                V root = square_root(squared[t]);
                V correlation = (root + 1.0 + squared[t] * (1.0 / 3.0)) * exp(-root);
                cross_MT[m * TILE + t] = correlation;
                if (m < process.N)
                    for (int v = 0; v < VIEWS; v++) mean_VT[v][t] += process.weights_VN.numbers(v)[m] * correlation;
            }
        }
    }

    // |W k|^2, four rows at a time; W is zero above its diagonal and below its last row.
    INLINE_MEMBER void known(V (&share_T)[TILE]) {
        for (int64_t m = process.M; m % 4; m++)
            for (int t = 0; t < TILE; t++) cross_MT[m * TILE + t] = V{};
        for (int64_t i = 0; i < process.M; i += 4) {
            V sums[4][TILE] = {};
            const double *rows[4];
            for (int r = 0; r < 4; r++) rows[r] = process.W_MM.numbers(i + r);
            int64_t columns = std::min(i + 4, process.M);
            for (int64_t j = 0; j < columns; j++)
                for (int r = 0; r < 4; r++)
                    for (int t = 0; t < TILE; t++) sums[r][t] += rows[r][j] * cross_MT[j * TILE + t];
            for (int r = 0; r < 4; r++)
                for (int t = 0; t < TILE; t++) share_T[t] += sums[r][t] * sums[r][t];
        }
    }

    // Means, deviations and log improvements: `single_surrogate.log_expected_improvement`.
    INLINE_MEMBER void note(Candidates &all, int64_t c, V (&mean_VT)[VIEWS][TILE], V nearest, V known, int t) {
        V share = square_root(most(1.0 - known, broadcast(1e-10)));
        all.share_C.row(0)[c] = share;
        all.nearest_C.row(0)[c] = nearest;
        for (int v = 0; v < VIEWS; v++) {
            V mean = mean_VT[v][t] + process.level_V[v], deviation = std::sqrt(process.amplitude_V[v]) * share;
            V z = (process.best_V[v] - mean) / deviation, bounded = least(z, broadcast(CERTAIN));
            V tail = 1.0 + bounded * 1.2533141373155003 * erfcx(bounded * -0.7071067811865476);
            tail = most(tail, broadcast(1e-30)) * deviation * most(z, broadcast(CERTAIN));
            all.mean_VC.row(v)[c] = mean;
            all.z_VC.row(v)[c] = z;
            all.gain_VC.row(v)[c] = log(tail) - (0.5 * bounded * bounded + OFFSET);
        }
    }

    // Scores, with log improvements counted from the best ones so far.
    void score(Candidates &all) {
        first_H.resize(told.H);
        second_H.resize(told.H);
        for (int64_t first = 0; first < all.C; first += WIDE) {
            F features[CANDIDATE_FEATURES], learned[1];
            V plain_T[TILE];
            for (int t = 0; t < TILE; t++) plain_T[t] = describe(all, first, t, features);
            dense(w->own, bias_H.data(), features, CANDIDATE_FEATURES, first_H.data(), told.H);
            gelu(first_H.data(), told.H);
            dense(w->hidden, w->hidden.bias, first_H.data(), told.H, second_H.data(), told.H);
            gelu(second_H.data(), told.H);
            dense(w->output, w->output.bias, second_H.data(), told.H, learned, 1);
            for (int64_t lane = 0; lane < WIDE; lane++)
                all.score_C.numbers(0)[first + lane] = SHARPNESS * (((double *)plain_T)[lane] + learned[0][lane]);
        }
        for (int64_t c = 0; c < all.C; c++)
            if (all.nearest_C.numbers(0)[c] < 5.0 * KNOWN) all.score_C.numbers(0)[c] -= 1e6;
    }

    // Features of a vector of candidates, and their log improvements weighed by the trusts.
    INLINE_MEMBER V describe(Candidates &all, int64_t first, int t, F *features) {
        int64_t c = first / LANES + t, D = told.D;
        V plain = {}, away = {}, share = all.share_C.row(0)[c];
        auto tell = [&](int f, V x) { ((HalfF *)&features[f])[t] = __builtin_convertvector(x, HalfF); };
        for (int v = 0; v < VIEWS; v++) {
            V gain = most(all.gain_VC.row(v)[c] - top_V[v], broadcast(-12.0));
            plain += (double)trust_V[v] * gain;
            tell(v, gain * 0.25);
            tell(VIEWS + v, asinh(all.z_VC.row(v)[c]));
            tell(2 * VIEWS + v, tanh(all.mean_VC.row(v)[c]));
        }
        for (int lane = 0; lane < LANES; lane++) {
            const double *point_D = &all.points_CD[std::min(first + t * LANES + lane, all.C - 1) * D];
            for (int64_t d = 0; d < D; d++) away[lane] += (point_D[d] - best_x_D[d]) * (point_D[d] - best_x_D[d]);
        }
        tell(3 * VIEWS, share);
        tell(3 * VIEWS + 1, log(share * share) * 0.125);
        tell(3 * VIEWS + 2, log(all.nearest_C.row(0)[c] * 0.2 + 1e-12) * 0.125);
        tell(3 * VIEWS + 3, log(away + 1e-12) * 0.125);
        return plain;
    }
};

extern "C" void propose(const Weights *weights, const Told *told) {
    static thread_local Step step;
    step.w = weights;
    step.told = *told;
    step.run();
}
