"""The surrogate against loops one can read, finite differences and refits; what rescaling must not change."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import tensor

from factotum.core.gaussian_process import matern52, posterior
from factotum.samplers.surrogate import (
    JITTER,
    VIEWS,
    distances,
    evidence_slopes,
    fit,
    kernel,
    leave_one_out,
    log_expected_improvement,
    predict,
    view,
)

VALUES = st.lists(st.integers(-50, 50), min_size=1, max_size=12)


def problem(B=2, N=9, D=3, seed=0):
    """Points, values in views, lengthscales and noise."""
    generator = torch.Generator().manual_seed(seed)
    x_BND = torch.rand(B, N, D, generator=generator, dtype=torch.float64)
    y_BN = (x_BND - 0.3).square().sum(-1) + 0.1 * torch.randn(B, N, generator=generator, dtype=torch.float64)
    log_lengthscale_BD = 0.5 * torch.randn(B, D, generator=generator, dtype=torch.float64) - 0.5
    log_noise_B = torch.linspace(-6.0, -2.0, B, dtype=torch.float64)
    return x_BND, view(y_BN).seen_BVN, log_lengthscale_BD, log_noise_B


def plain_kernel(a_D, b_D, lengthscale_D):
    r = math.sqrt(
        sum(
            ((a - b) / scale) ** 2
            for a, b, scale in zip(a_D.tolist(), b_D.tolist(), lengthscale_D.tolist(), strict=True)
        )
    )
    s = math.sqrt(5) * r
    return (1 + s + s * s / 3) * math.exp(-s)


def plain_covariance(x_ND, lengthscale_D, noise):
    K = tensor([[plain_kernel(a, b, lengthscale_D) for b in x_ND] for a in x_ND], dtype=torch.float64)
    return K + (noise + JITTER) * torch.eye(len(x_ND), dtype=torch.float64)


# -- views


@settings(deadline=None)
@given(VALUES, st.sampled_from([2.0**-20, 0.5, 8.0, 1024.0]), st.integers(-1000, 1000))
def test_views_do_not_change_when_values_are_rescaled(values, a, b):
    y_BN = tensor([values], dtype=torch.float64)
    plain, other = view(y_BN), view(a * y_BN + a * b)
    assert torch.equal(plain.seen_BVN, other.seen_BVN)
    if len(set(values)) == 1:
        return  # equal values have no unit
    asked_BC = y_BN.flip(1) + 0.25
    torch.testing.assert_close(plain.of(asked_BC), other.of(a * asked_BC + a * b), atol=1e-9, rtol=1e-9)


@settings(deadline=None)
@given(VALUES)
def test_views_keep_the_order_and_are_standardised(values):
    y_BN = tensor([values], dtype=torch.float64)
    seen_VN = view(y_BN).seen_BVN[0]
    assert seen_VN.shape == (VIEWS, len(values))
    for row_N in seen_VN:
        for i, a in enumerate(values):
            for j, b in enumerate(values):
                assert a != b or row_N[i] == row_N[j]
                assert not a < b or row_N[i] < row_N[j]
        assert abs(float(row_N.mean())) < 1e-9
        assert abs(float(row_N.square().mean()) - float(len(set(values)) > 1)) < 1e-9


def test_values_seen_are_seen_alike_whether_asked_for_or_not():
    y_BN = torch.randn(3, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).exp()
    views = view(y_BN)
    torch.testing.assert_close(views.of(y_BN), views.seen_BVN[:, :-1])
    better_BW1 = views.of(y_BN.amin(1, keepdim=True) - 1.0)
    assert (better_BW1 <= views.seen_BVN[:, :-1].amin(2, keepdim=True)).all()
    assert better_BW1.isfinite().all()


def test_views_of_outliers():
    """One huge value shrinks what the near-linear view tells of the others, not what the ranks do."""
    y_BN = torch.cat([torch.linspace(0, 1, 20, dtype=torch.float64), tensor([1e6])])[None]
    linear_N, _, ranks_N = view(y_BN).seen_BVN[0]
    assert float(linear_N[:20].max() - linear_N[:20].min()) > 0.1
    assert float(ranks_N[:20].max() - ranks_N[:20].min()) > 2.0


@pytest.mark.parametrize("values", [[5.0], [2.0, 2.0, 2.0], [-1e300, 1e300, 0.0], [1e-300, 0.0, 0.0, 0.0]])
def test_views_of_hardly_anything_are_finite(values):
    views = view(tensor([values], dtype=torch.float64))
    assert all(part.isfinite().all() for part in views)
    if len(set(values)) == 1:
        assert not views.seen_BVN.any()


# -- kernel


def test_kernel_is_that_of_the_library_and_its_slope_the_derivative():
    a, b = torch.rand(2, 4, 3, dtype=torch.float64), torch.rand(2, 5, 3, dtype=torch.float64)
    lengthscale = torch.rand(2, 3, dtype=torch.float64) + 0.2
    squared = distances(a / lengthscale[:, None], b / lengthscale[:, None]).requires_grad_()
    value, slope = kernel(squared)
    torch.testing.assert_close(value, matern52(a, b, lengthscale))
    torch.testing.assert_close(slope, torch.autograd.grad(value.sum(), squared)[0])


def test_distance_to_oneself_is_nothing_and_has_finite_gradients():
    a = torch.rand(1, 6, 2, dtype=torch.float64).requires_grad_()
    value, _ = kernel(distances(a, a))
    torch.testing.assert_close(value.diagonal(dim1=1, dim2=2), torch.ones(1, 6, dtype=torch.float64))
    value.square().sum().backward()
    assert a.grad.isfinite().all()


# -- posterior


def test_prediction_is_that_of_a_loop():
    x_BND, seen_BVN, log_lengthscale_BD, log_noise_B = problem()
    query_BCD = torch.rand(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    surrogate = fit(x_BND, seen_BVN, log_lengthscale_BD, log_noise_B)
    found = predict(surrogate, query_BCD / log_lengthscale_BD.exp()[:, None])
    for b in range(2):
        scale_D, noise = log_lengthscale_BD[b].exp(), float(log_noise_B[b].exp())
        inverse = plain_covariance(x_BND[b], scale_D, noise).inverse()
        for v in range(VIEWS):
            value_N = seen_BVN[b, v]
            level = float((inverse @ value_N).sum() / inverse.sum())
            amplitude = float((value_N - level) @ inverse @ (value_N - level) + 2) / (len(value_N) + 2)
            assert float(surrogate.level_BV[b, v]) == pytest.approx(level)
            assert float(surrogate.amplitude_BV[b, v]) == pytest.approx(amplitude)
            for c in range(4):
                cross_N = tensor([plain_kernel(query_BCD[b, c], x, scale_D) for x in x_BND[b]]).double()
                mean = level + float(cross_N @ inverse @ (value_N - level))
                share = math.sqrt(1 - float(cross_N @ inverse @ cross_N))
                assert float(found.mean_BVC[b, v, c]) == pytest.approx(mean, abs=1e-6)
                assert float(found.share_BC[b, c]) == pytest.approx(share, abs=1e-6)
                nearest = min(
                    sum(
                        ((p - q) / scale) ** 2
                        for p, q, scale in zip(query_BCD[b, c], x, scale_D, strict=True)
                    )
                    for x in x_BND[b]
                )
                assert float(found.nearest_BC[b, c]) == pytest.approx(float(nearest))


def test_prediction_is_that_of_the_library():
    x_BND, seen_BVN, log_lengthscale_BD, log_noise_B = problem(B=3, N=30, D=5, seed=2)
    query_BCD = torch.rand(3, 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    surrogate = fit(x_BND, seen_BVN, log_lengthscale_BD, log_noise_B)
    found = predict(surrogate, query_BCD / log_lengthscale_BD.exp()[:, None])
    for v in range(VIEWS):
        level_B1 = surrogate.level_BV[:, v, None]
        mean_BC, share_BC = posterior(
            x_BND, seen_BVN[:, v] - level_B1, query_BCD, kernel=matern52, variance_B=torch.ones(3),
            lengthscale_BD=log_lengthscale_BD.exp(), noise_B=(log_noise_B.exp() + JITTER).sqrt(),
        )  # fmt: skip
        torch.testing.assert_close(found.mean_BVC[:, v], mean_BC + level_B1, atol=1e-6, rtol=0)
        torch.testing.assert_close(found.share_BC, share_BC, atol=1e-6, rtol=0)


def test_without_noise_values_are_met_and_far_away_nothing_is_known():
    x_BND, seen_BVN, log_lengthscale_BD, log_noise_B = problem(B=1)
    surrogate = fit(x_BND, seen_BVN, log_lengthscale_BD, log_noise_B - 30)
    at = predict(surrogate, surrogate.scaled_BND)
    torch.testing.assert_close(at.mean_BVC, seen_BVN, atol=1e-5, rtol=0)
    assert at.share_BC.max() < 1e-3
    far = predict(surrogate, surrogate.scaled_BND + 100.0)
    torch.testing.assert_close(far.share_BC, torch.ones_like(far.share_BC))
    torch.testing.assert_close(far.mean_BVC[..., 0], surrogate.level_BV)


def test_pending_points_shrink_deviations_and_leave_means_alone():
    x_BND, seen_BVN, log_lengthscale_BD, log_noise_B = problem(N=6)
    generator = torch.Generator().manual_seed(9)
    surrogate = fit(x_BND, seen_BVN, log_lengthscale_BD, log_noise_B)
    scaled_BCD, pending_BPD = (
        torch.rand(2, count, 3, generator=generator, dtype=torch.float64) / log_lengthscale_BD.exp()[:, None]
        for count in (40, 2)
    )
    scaled_BCD[:, 0] = pending_BPD[:, 1]
    without, with_ = predict(surrogate, scaled_BCD), predict(surrogate, scaled_BCD, pending_BPD)
    assert torch.equal(without.mean_BVC, with_.mean_BVC)
    assert (with_.share_BC <= without.share_BC + 1e-12).all()
    assert (with_.share_BC < without.share_BC - 1e-3).any(1).all()
    assert (with_.nearest_BC <= without.nearest_BC).all()
    assert (with_.nearest_BC[:, 0] < 1e-12).all()
    known_BND = torch.cat([x_BND, pending_BPD * log_lengthscale_BD.exp()[:, None]], 1)
    as_if_known = fit(
        known_BND, torch.cat([seen_BVN, seen_BVN[:, :, :2]], 2), log_lengthscale_BD, log_noise_B
    )
    torch.testing.assert_close(with_.share_BC, predict(as_if_known, scaled_BCD).share_BC)


def test_evidence_slopes_are_finite_differences():
    x_BND, seen_BVN, log_lengthscale_BD, log_noise_B = problem(N=12, seed=4)
    slope_BD, slope_B = evidence_slopes(fit(x_BND, seen_BVN, log_lengthscale_BD, log_noise_B))

    def evidence(log_lengthscale_BD, log_noise_B):
        """Log evidence with the likeliest levels and amplitudes, mean over views."""
        out = []
        for b in range(len(x_BND)):
            covariance = plain_covariance(x_BND[b], log_lengthscale_BD[b].exp(), float(log_noise_B[b].exp()))
            inverse, (N, total) = covariance.inverse(), (x_BND.shape[1], 0.0)
            for value_N in seen_BVN[b]:
                rest_N = value_N - (inverse @ value_N).sum() / inverse.sum()
                total += -0.5 * (N + 2) * math.log(float(rest_N @ inverse @ rest_N) + 2)
            out.append(total / VIEWS - 0.5 * float(covariance.logdet()))
        return tensor(out, dtype=torch.float64)

    step = 1e-4
    for d in range(3):
        change_BD = torch.zeros_like(log_lengthscale_BD)
        change_BD[:, d] = step
        up, down = (evidence(log_lengthscale_BD + sign * change_BD, log_noise_B) for sign in (1, -1))
        torch.testing.assert_close(slope_BD[:, d], (up - down) / (2 * step), atol=1e-4, rtol=1e-4)
    up, down = (evidence(log_lengthscale_BD, log_noise_B + sign * step) for sign in (1, -1))
    torch.testing.assert_close(slope_B, (up - down) / (2 * step), atol=1e-4, rtol=1e-4)


def test_leave_one_out_is_a_fit_without_the_point():
    x_BND, seen_BVN, log_lengthscale_BD, log_noise_B = problem(N=7)
    surrogate = fit(x_BND, seen_BVN, log_lengthscale_BD, log_noise_B)
    found_BVN = leave_one_out(surrogate)
    for i in range(7):
        others = [j for j in range(7) if j != i]
        for v in range(VIEWS):
            level_B1 = surrogate.level_BV[:, v, None]
            mean_B1, _ = posterior(
                x_BND[:, others], seen_BVN[:, v, others] - level_B1, x_BND[:, [i]], kernel=matern52,
                lengthscale_BD=log_lengthscale_BD.exp(), variance_B=torch.ones(2),
                noise_B=(log_noise_B.exp() + JITTER).sqrt(),
            )  # fmt: skip
            expected_B = seen_BVN[:, v, i] - (mean_B1 + level_B1)[:, 0]
            torch.testing.assert_close(found_BVN[:, v, i], expected_B, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("N", [1, 2, 200])
@pytest.mark.parametrize("D", [1, 20])
@pytest.mark.parametrize("repeat", [False, True])
def test_posteriors_are_finite_at_every_size(N, D, repeat):
    x_BND, seen_BVN, _, _ = problem(B=2, N=N, D=D)
    if repeat:
        x_BND = x_BND[:, :1].expand(-1, N, -1)
    for log_lengthscale, log_noise in ((-4.0, -16.0), (0.0, -10.0), (4.0, -16.0)):
        log_lengthscale_BD = torch.full((2, D), log_lengthscale, dtype=torch.float64)
        surrogate = fit(x_BND, seen_BVN, log_lengthscale_BD, tensor([log_noise] * 2, dtype=torch.float64))
        parts = [*surrogate, *evidence_slopes(surrogate), leave_one_out(surrogate)]
        parts += predict(surrogate, surrogate.scaled_BND + 0.01)
        assert all(part.isfinite().all() for part in parts)


# -- expected improvement


@settings(deadline=None)
@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(0.2, 3))
def test_log_expected_improvement_is_the_closed_form(best, mean, deviation):
    z = (best - mean) / deviation
    density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    expected = deviation * (density + z * 0.5 * math.erfc(-z / math.sqrt(2)))
    found, found_z = log_expected_improvement(
        *(tensor(x, dtype=torch.float64) for x in (best, mean, deviation))
    )
    assert float(found_z) == pytest.approx(z)
    if expected > 1e-12:
        assert float(found) == pytest.approx(math.log(expected), abs=1e-3 if z < -5 else 1e-6)


def test_log_expected_improvement_is_the_mean_of_draws():
    draws = torch.randn(400_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for best, mean, deviation in ((0.0, 0.0, 1.0), (0.5, 1.0, 2.0), (1.0, 0.2, 0.3)):
        found, _ = log_expected_improvement(
            *(tensor(x, dtype=torch.float64) for x in (best, mean, deviation))
        )
        sampled = (best - mean - deviation * draws).clamp(min=0).mean()
        assert float(found.exp()) == pytest.approx(float(sampled), rel=1e-2)


def test_log_expected_improvement_far_from_zero():
    z = tensor([-1e6, -1e3, -40.0, -1.0 - 1e-12, -1.0 + 1e-12, 10.0, 1e3, 1e6], dtype=torch.float64)
    z.requires_grad_()
    found, _ = log_expected_improvement(z, torch.zeros_like(z), torch.ones_like(z))
    assert found.isfinite().all()
    for i in (1, 2):
        # phi(z) / z^2 (1 - 3 / z^2 + ...) for z far below 0
        far = float(z[i])
        series = -0.5 * far**2 - 0.5 * math.log(2 * math.pi) - 2 * math.log(-far) + math.log1p(-3 / far**2)
        assert float(found[i]) == pytest.approx(series, rel=1e-6)
    assert float(found[4] - found[3]) == pytest.approx(0.0, abs=1e-9)
    torch.testing.assert_close(found[5:], z[5:].log())
    assert (found.diff() > -1e-9).all()
    found.sum().backward()
    assert z.grad.isfinite().all()
    torch.testing.assert_close(z.grad[5:], 1 / z[5:].detach())
