"""Telescoping and its gradients, expected improvement against sampling and a posterior."""

import math

import pytest
import torch
from torch.autograd import grad, gradcheck

from factotum.core.gaussian_process import posterior, sequential_posterior, squared_exponential
from factotum.losses.trajectory import (
    expected_improvement,
    observed_improvement,
    smooth_minimum,
    summed_loss,
)

FORMS = [(detach, first) for detach in (True, False) for first in ("value", "drop")]


def values(seed=0, functions=6, steps=12, dtype=torch.float64):
    return torch.randn(functions, steps, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def gradient(y, **options):
    y = y.clone().requires_grad_()
    return grad(observed_improvement(y, **options).sum(), y)[0]


def test_summed_loss_by_hand():
    y = torch.tensor([[1.0, 2.0, 4.0], [0.0, -1.0, 3.0]])
    assert summed_loss(y).tolist() == [7.0, 2.0]
    assert summed_loss(y, torch.tensor([1.0, 0.0, 0.5])).tolist() == [3.0, 1.5]


@pytest.mark.parametrize(("detach", "first"), FORMS)
def test_observed_improvement_telescopes(detach, first):
    y = values()
    expected = y.amin(1) - (0 if first == "value" else y[:, 0])
    torch.testing.assert_close(observed_improvement(y, detach_incumbent=detach, first=first), expected)


@pytest.mark.parametrize("first", ["value", "drop"])
def test_the_forms_differ_in_gradient_alone(first):
    """Full: all on the final best. Stopped: one for each improving step."""
    y = values()
    full = gradient(y, detach_incumbent=False, first=first)
    stopped = gradient(y, detach_incumbent=True, first=first)
    best = torch.zeros_like(y).scatter(1, y.argmin(1, keepdim=True), 1.0)
    before = torch.cat([torch.full_like(y[:, :1], math.inf), y.cummin(1).values[:, :-1]], 1)
    improving = (y < before).to(y)
    if first == "drop":
        best[:, 0], improving[:, 0] = 0, 0
    torch.testing.assert_close(full, best)
    torch.testing.assert_close(stopped, improving)
    assert (full != stopped).any()


@pytest.mark.parametrize(("detach", "first"), FORMS)
def test_a_bad_first_query_is_never_rewarded(detach, first):
    y = values()
    y[:, 0] = 5.0  # so bad that every later step improves on it
    slope = gradient(y, detach_incumbent=detach, first=first)[:, 0]
    # y_1 is the incumbent of step 2: where it is neither dropped nor stopped, its own value outweighs that
    assert (slope >= -1e-12).all()
    assert (slope == 0).all() if first == "drop" else (slope < 1.1).all()


def test_smooth_minimum_lies_between_minimum_and_mean():
    y = values()
    assert (y.amin(1) < smooth_minimum(y, 0.5)).all()
    assert (smooth_minimum(y, 0.5) < y.mean(1)).all()
    torch.testing.assert_close(smooth_minimum(y, 1e-6), y.amin(1), atol=1e-4, rtol=0)
    torch.testing.assert_close(smooth_minimum(y, 1e6), y.mean(1), atol=1e-4, rtol=0)
    torch.testing.assert_close(smooth_minimum(y + 1e4, 0.5), smooth_minimum(y, 0.5) + 1e4)


def test_smooth_minimum_teaches_near_misses_and_never_to_be_bad():
    y = torch.tensor([[0.0, 0.05, 3.0]], dtype=torch.float64, requires_grad=True)
    slopes = grad(smooth_minimum(y, 0.1).sum(), y)[0][0]
    assert slopes.sum().item() == pytest.approx(1.0)
    assert 0.3 < slopes[1] < 0.5
    assert 0 < slopes[2] < 1e-9


def test_one_evaluation_improves_on_nothing():
    y = torch.tensor([[2.0]])
    found = {
        first: observed_improvement(y, detach_incumbent=False, first=first) for first in ("drop", "value")
    }
    assert (found["drop"].item(), found["value"].item()) == (0, 2)


def test_expected_improvement_against_sampling():
    mean, deviation = torch.tensor([0.3, -1.0, 2.0]), torch.tensor([1.0, 0.5, 2.0])
    best = torch.tensor([0.0, 0.0, -1.0])
    normal = torch.randn(1_000_000, 1, generator=torch.Generator().manual_seed(0))
    gains = (best - mean - deviation * normal).clamp(min=0)
    error = 5 * gains.std(0) / len(gains) ** 0.5
    assert ((expected_improvement(mean, deviation, best) - gains.mean(0)).abs() < error).all()


def test_expected_improvement_is_minus_the_mean_observed_improvement():
    """One more step, drawn from the posterior: E L_OI = -EI (the paper's reason for L_EI)."""
    x = torch.tensor([[[0.1], [0.4], [0.9]]])
    y = torch.tensor([[0.5, -0.2, 1.0]])
    one = torch.ones(1)
    settings = {"kernel": squared_exponential, "lengthscale_BD": 0.3 * one[None], "variance_B": one}
    mean, deviation = posterior(x, y, torch.tensor([[[0.6]]]), noise_B=0 * one, **settings)
    drawn = mean + deviation * torch.randn(400_000, 1, generator=torch.Generator().manual_seed(1))
    past = y.expand(len(drawn), -1)
    after, before = (
        observed_improvement(y, detach_incumbent=False, first="value")
        for y in (torch.cat([past, drawn], 1), past)
    )
    gained = after - before
    expected = expected_improvement(mean, deviation, y.amin(1, keepdim=True)).item()
    assert -gained.mean().item() == pytest.approx(expected, abs=5 * gained.std().item() / len(drawn) ** 0.5)


def test_expected_improvement_on_a_one_dimensional_posterior_by_integration():
    """The closed form, with the posterior of each prefix from one factor, against the integral over f."""
    x = torch.tensor([[[0.1], [0.4], [0.9], [0.55]]], dtype=torch.float64)
    y = torch.tensor([[0.5, -0.2, 1.0, -0.6]], dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    settings = {"kernel": squared_exponential, "lengthscale_BD": 0.3 * one[None], "variance_B": one}
    means, deviations = sequential_posterior(x, y, noise_B=0 * one, **settings)
    for t in range(1, 4):
        mean, deviation = posterior(x[:, :t], y[:, :t], x[:, t : t + 1], noise_B=0 * one, **settings)
        torch.testing.assert_close(means[:, t], mean[:, 0], atol=1e-6, rtol=1e-6)
        best = y[:, :t].amin(1)
        grid = mean.item() + deviation.item() * torch.linspace(-9, 9, 200_001, dtype=torch.float64)
        density = torch.distributions.Normal(mean.item(), deviation.item()).log_prob(grid).exp()
        integral = torch.trapezoid((best - grid).clamp(min=0) * density, grid).item()
        found = expected_improvement(means[:, t], deviations[:, t], best).item()
        assert found == pytest.approx(integral, abs=1e-6)


def test_expected_improvement_far_in_the_tail():
    """No cancellation: positive and near phi(z)/z^2 in single precision, with finite gradients."""
    mean = torch.tensor([3.0, 8.0, 12.0], requires_grad=True)
    deviation = torch.ones(3, requires_grad=True)
    got = expected_improvement(mean, deviation, torch.zeros(3))
    double = mean.detach().double()
    log_density = -0.5 * double**2 - 0.5 * math.log(2 * math.pi)
    series = (log_density - 2 * double.log()).exp() * (1 - 3 / double**2 + 15 / double**4 - 105 / double**6)
    torch.testing.assert_close(got[1:].double(), series[1:], rtol=2e-3, atol=0)
    slopes = grad(got.sum(), (mean, deviation))
    assert all(slope.isfinite().all() for slope in slopes)
    assert (slopes[0] < 0).all()
    certain = expected_improvement(torch.tensor([-1.0, 1.0]), torch.tensor([1e-6, 1e-6]), torch.zeros(2))
    torch.testing.assert_close(certain, torch.tensor([1.0, 0.0]))


def test_gradients_of_expected_improvement():
    z = torch.tensor([-6.0, -1.5, -0.99, 0.0, 2.0, 7.0], dtype=torch.float64)
    deviation = torch.linspace(0.2, 2.0, 6, dtype=torch.float64).requires_grad_()
    mean = (-z * deviation).detach().requires_grad_()
    assert gradcheck(expected_improvement, (mean, deviation, torch.zeros(6, dtype=torch.float64)))
