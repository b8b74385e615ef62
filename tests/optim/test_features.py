"""Known features of the first step, averages against their formula, invariances, extreme gradients."""

import math

import pytest
import torch

from factotum.optim.config import HierarchicalRNNConfig, code_config, paper_config
from factotum.optim.features import FLOOR, Asinh, average, decays, feature_names, features, scaled


def first(gradient_P, scales=4):
    zeros_P, zeros_PS = torch.zeros_like(gradient_P), gradient_P.new_zeros(len(gradient_P), scales)
    return average(gradient_P, zeros_PS, zeros_PS, zeros_P, zeros_P)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e6])
def test_the_first_step(size):
    gradient_P = torch.tensor([size, -size])
    gradient_PS, square_PS = first(gradient_P)
    assert torch.equal(gradient_PS, gradient_P[:, None].expand(2, 4))
    torch.testing.assert_close(square_PS, (gradient_P.square() + FLOOR)[:, None].expand(2, 4))
    x_PF = features(gradient_PS, square_PS, torch.tensor([0.5, -2.0]), code_config())
    m = math.asinh(1.0)
    assert round(m, 5) == 0.88137
    assert round(m * m, 5) == 0.77682
    expected = [[sign * m] * 4 + [m * m] * 3 + [0.0] * 4 + [rate] for sign, rate in [(1, 0.5), (-1, -2.0)]]
    torch.testing.assert_close(x_PF, torch.tensor(expected), atol=2e-6, rtol=2e-6)


def test_the_first_step_as_in_the_paper():
    x_PF = features(*first(torch.tensor([3.0])), torch.tensor([1.0]), paper_config())
    torch.testing.assert_close(x_PF, torch.tensor([[1.0] * 4 + [0.0] * 4 + [1.0]]))


def test_averages_follow_their_formula():
    g = torch.randn(3, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gradient_PS = square_PS = torch.zeros(3, 3, dtype=torch.float64)
    bar, lam = torch.zeros(3, 3, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64)
    for t in range(50):
        b_g = torch.tensor([0.5, 0.9, 0.99], dtype=torch.float64) * (t > 0)
        b_l = torch.tensor([0.9, 0.95, 0.0], dtype=torch.float64) * (t > 0)
        gradient_PS, square_PS = average(g[:, t], gradient_PS, square_PS, b_g, b_l)
        for s in range(3):
            b = b_g ** (2.0**-s)
            bar[:, s] = b * bar[:, s] + (1 - b) * g[:, t]
            lam[:, s] = b_l * lam[:, s] + (1 - b_l) * (bar[:, s] ** 2 + 1e-12)
    torch.testing.assert_close(gradient_PS, bar)
    torch.testing.assert_close(square_PS, lam)
    ratio = bar / (lam + 1e-16).sqrt()
    torch.testing.assert_close(scaled(bar, lam, "ratio"), ratio)
    torch.testing.assert_close(scaled(bar, lam, "asinh"), ratio.asinh())
    log = (lam + 1e-16).log()
    x_PF = features(bar, lam, torch.zeros(3, dtype=torch.float64), HierarchicalRNNConfig(scales=3))
    torch.testing.assert_close(x_PF[:, 3:5], ratio.asinh()[:, :2] * ratio.asinh()[:, 1:])
    torch.testing.assert_close(x_PF[:, 5:8], log - log.mean(1, keepdim=True))


def test_every_average_reaches_twice_as_far():
    steps = decays(torch.tensor([0.9], dtype=torch.float64), 4).log()
    torch.testing.assert_close(steps[0, :-1] / steps[0, 1:], torch.full((3,), 2.0, dtype=torch.float64))


@pytest.mark.parametrize("config", [code_config(), paper_config(), HierarchicalRNNConfig(scales=1)])
def test_there_are_as_many_features_as_names(config):
    gradient_PS, square_PS = first(torch.ones(2), config.scales)
    x_PF = features(gradient_PS, square_PS, torch.zeros(2), config)
    assert x_PF.shape[1] == len(feature_names(config)) == config.features
    assert len(set(feature_names(config))) == config.features


@pytest.mark.parametrize("size", [1e-20, 1e-30, 1e20, 1e38, float("inf")])
@pytest.mark.parametrize("config", [code_config(), paper_config()])
def test_extreme_gradients_give_finite_features(size, config):
    zeros_PS, decay_P = torch.zeros(2, 4), torch.full((2,), 0.9)
    gradient_P = torch.tensor([size, -size], requires_grad=True)
    averages = average(gradient_P, zeros_PS, zeros_PS, decay_P, decay_P)
    x_PF = features(*averages, torch.zeros(2), config)
    assert x_PF.isfinite().all()
    assert torch.autograd.grad(x_PF.sum(), gradient_P)[0].isfinite().all()


def test_asinh_is_exact_and_twice_differentiable():
    x = torch.logspace(-30, 18, 500, dtype=torch.float64)
    x = torch.cat([-x, torch.zeros(1, dtype=torch.float64), x])
    torch.testing.assert_close(Asinh.apply(x), x.asinh(), rtol=1e-15, atol=0)
    torch.testing.assert_close(Asinh.apply(x.float()).double(), x.float().double().asinh(), rtol=3e-7, atol=0)
    some = torch.tensor([-3.0, 0.0, 1e-3, 2.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(Asinh.apply, some)
    assert torch.autograd.gradgradcheck(Asinh.apply, some)
    assert torch.equal(torch.vmap(Asinh.apply)(some.detach()), Asinh.apply(some.detach()))
