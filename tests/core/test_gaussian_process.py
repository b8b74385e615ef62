"""Kernels against their formulas, posteriors against dense algebra, gradients against finite differences."""

import math

import pytest
import torch

from factotum.core.gaussian_process import matern52, posterior, sequential_posterior, squared_exponential

KERNELS = [squared_exponential, matern52]


def example(functions=2, points=6, dimensions=3):
    draw = torch.Generator().manual_seed(0)
    x, y = (torch.rand(functions, points, size, generator=draw).double() for size in (dimensions, 1))
    settings = {
        "lengthscale_BD": 0.3 + torch.rand(functions, dimensions, generator=draw).double(),
        "variance_B": torch.tensor([1.0, 4.0]).double()[:functions],
        "noise_B": torch.tensor([0.1, 0.0]).double()[:functions],
    }
    return x, y[..., 0], settings


def radius(a, b, lengthscale):
    return sum(((p - q) / scale) ** 2 for p, q, scale in zip(a, b, lengthscale, strict=True)) ** 0.5


@pytest.mark.parametrize(
    ("kernel", "formula"),
    [
        (squared_exponential, lambda r: math.exp(-r * r / 2)),
        (matern52, lambda r: (1 + 5**0.5 * r + 5 / 3 * r * r) * math.exp(-(5**0.5) * r)),
    ],
)
def test_kernels_are_their_formulas(kernel, formula):
    a, b, scale = [[0.1, 0.9], [0.3, 0.2]], [[0.4, 0.5], [0.1, 0.9], [1.0, 0.0]], [0.2, 0.7]
    found = kernel(*(torch.tensor([each], dtype=torch.float64) for each in (a, b, scale)))
    assert found.shape == (1, 2, 3)
    for i, p in enumerate(a):
        for j, q in enumerate(b):
            assert found[0, i, j].item() == pytest.approx(formula(radius(p, q, scale)), abs=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_have_slope_zero_where_points_meet(kernel):
    a = torch.full((1, 1, 2), 0.3, requires_grad=True)
    (slope,) = torch.autograd.grad(kernel(a, torch.full((1, 1, 2), 0.3), torch.ones(1, 2)).sum(), a)
    assert slope.tolist() == [[[0.0, 0.0]]]


@pytest.mark.parametrize("kernel", KERNELS)
def test_posterior_is_the_dense_formula(kernel):
    x, y, settings = example()
    query = torch.rand(2, 4, 3, generator=torch.Generator().manual_seed(1)).double()
    mean, deviation = posterior(x, y, query, kernel=kernel, **settings)
    scale, variance, noise = settings.values()
    for b in range(2):
        at = [each[b : b + 1] for each in (x, query, scale)]
        inner = variance[b] * kernel(at[0], at[0], at[2])[0] + noise[b] ** 2 * torch.eye(6)
        cross = variance[b] * kernel(at[0], at[1], at[2])[0]
        solved = torch.linalg.inv(inner) @ cross
        torch.testing.assert_close(mean[b], solved.T @ y[b], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            deviation[b] ** 2, variance[b] - (cross * solved).sum(0), atol=1e-6, rtol=1e-5
        )


def test_posterior_knows_what_it_saw_and_nothing_far_away():
    x, y, settings = example()
    settings["noise_B"] = torch.zeros(2)
    query = torch.cat([x, x + 100], 1)
    mean, deviation = posterior(x, y, query, kernel=matern52, **settings)
    torch.testing.assert_close(mean, torch.cat([y, 0 * y], 1), atol=1e-5, rtol=0)
    expected = settings["variance_B"].sqrt()[:, None] * torch.tensor([0.0] * 6 + [1.0] * 6)
    torch.testing.assert_close(deviation, expected, atol=1e-3, rtol=0)
    before = posterior(x[:, :0], y[:, :0], query, kernel=matern52, **settings)
    assert before[0].abs().max() == 0
    assert before[1].amin(1).tolist() == [1.0, 2.0]


@pytest.mark.parametrize("kernel", KERNELS)
def test_sequential_posterior_is_the_posterior_of_every_prefix(kernel):
    x, y, settings = example()
    means, deviations = sequential_posterior(x, y, kernel=kernel, **settings)
    for t in range(6):
        mean, deviation = posterior(x[:, :t], y[:, :t], x[:, t : t + 1], kernel=kernel, **settings)
        torch.testing.assert_close(means[:, t : t + 1], mean, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(deviations[:, t : t + 1], deviation, atol=1e-5, rtol=1e-5)


def test_sequential_posterior_looks_at_the_past_only():
    x, y, settings = example()
    mean = sequential_posterior(x, y, kernel=matern52, **settings)[0]
    y[:, 3] += 1
    after = sequential_posterior(x, y, kernel=matern52, **settings)[0]
    assert torch.equal(mean[:, :4], after[:, :4])
    assert (mean[:, 4:] - after[:, 4:]).abs().min() > 1e-3


@pytest.mark.parametrize("kernel", KERNELS)
def test_gradients_are_finite_differences(kernel):
    x, y, settings = example()
    query = torch.rand(2, 2, 3).double()

    def both(x, y, query):
        predicted = posterior(x, y, query, kernel=kernel, **settings)
        return *predicted, *(each[:, 1:] for each in sequential_posterior(x, y, kernel=kernel, **settings))

    assert torch.autograd.gradcheck(both, [each.requires_grad_() for each in (x, y, query)])


def test_a_hundred_crowded_points_stay_finite_in_single_precision():
    x = (0.5 + 1e-3 * torch.rand(1, 100, 2, generator=torch.Generator().manual_seed(0))).requires_grad_()
    one = torch.ones(1)
    mean, deviation = sequential_posterior(
        x,
        x.sum(-1),
        kernel=squared_exponential,
        lengthscale_BD=one[None].expand(1, 2),
        variance_B=one,
        noise_B=0 * one,
    )
    (mean.sum() + deviation.sum()).backward()
    assert mean.dtype == torch.float32
    assert all(each.isfinite().all() for each in (mean, deviation, x.grad))
    torch.testing.assert_close(mean[:, 20:], x.sum(-1)[:, 20:], atol=1e-3, rtol=0)
