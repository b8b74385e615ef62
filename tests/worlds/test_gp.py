"""Random functions: gradients, covariances, standardisation, where optima lie, and what each option does."""

import json
import math
from dataclasses import replace

import pytest
import torch

from factotum.core.checks import UserError
from factotum.core.config import from_json_dict, to_json_dict
from factotum.core.gaussian_process import matern52, squared_exponential
from factotum.worlds.gp import ExactDraws, FunctionPrior, broad_prior, draw_functions, paper_prior
from factotum.worlds.prior import KINDS

SMOOTH = replace(broad_prior(), rounded_inputs=0.0, rounded_values=0.0)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def only(kind, prior=SMOOTH, **changes):
    return replace(prior, weights={kind: 1.0}, **changes)


@pytest.mark.parametrize("dimensions", [1, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_differences(kind, dimensions):
    prior = only(kind, input_warp=0.5, output_warp=0.5)
    functions = draw_functions(prior, 8, dimensions, seeded()).to(dtype=torch.float64)
    x = torch.rand(8, dimensions, generator=seeded(1)).double().requires_grad_()
    assert torch.autograd.gradcheck(functions, x, rtol=1e-4, atol=1e-6)
    (slope,) = torch.autograd.grad(functions(x).sum(), x)
    assert (slope.abs().amax(-1) > 1e-9).all()


def test_many_points_are_single_points():
    functions = draw_functions(broad_prior(), 32, 3, seeded())
    x = torch.rand(32, 5, 3, generator=seeded(1)).requires_grad_()
    each = torch.stack([functions(x[:, n]) for n in range(5)], 1)
    torch.testing.assert_close(functions.many(x), each, atol=1e-4, rtol=1e-4)
    slopes = [torch.autograd.grad(values.sum(), x)[0] for values in (functions.many(x), each)]
    torch.testing.assert_close(*slopes, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_features_have_the_covariance_of_the_kernel(share):
    prior = FunctionPrior(lengthscale=(0.3, 0.3), matern=share, standardised=False)
    functions = draw_functions(prior, 4000, 2, seeded())
    x = torch.tensor([[0.1, 0.2], [0.2, 0.2], [0.3, 0.5], [0.9, 0.9], [0.1, 0.8]])
    y = functions.many(x.expand(4000, -1, -1))
    kernel = matern52 if share else squared_exponential
    expected = kernel(x[None], x[None], torch.full((1, 2), 0.3))[0]
    torch.testing.assert_close(y.T @ y / 4000, expected, atol=0.08, rtol=0)
    torch.testing.assert_close(y.mean(0), torch.zeros(5), atol=0.06, rtol=0)
    assert (y**4).mean().item() == pytest.approx(3.0, abs=0.35)  # as of a normal distribution


def test_lengthscales_grow_with_the_dimension_as_asked():
    def slope(dimensions):
        prior = FunctionPrior(dimension_power=0.5, standardised=False)
        x = torch.rand(400, dimensions, generator=seeded(1)).requires_grad_()
        values = draw_functions(prior, 400, dimensions, seeded())(x)
        (gradient,) = torch.autograd.grad(values.sum(), x)
        return gradient.norm(dim=-1).square().mean().item()

    # E |f'|^2 = D / l^2, so that it stays the same if l grows with the square root of D
    assert slope(9) == pytest.approx(1 / 0.3**2, rel=0.15)
    assert slope(1) == pytest.approx(1 / 0.3**2, rel=0.25)


def exact(functions, kernel=squared_exponential, **more):
    return ExactDraws(torch.full((functions, 2), 0.4), torch.full((functions,), 2.0), kernel, **more)


def drawn(draws, x, generator):
    state, values = draws.initial_state(), []
    for point in x.unbind(1):
        value, state = draws.step(point, state, generator)
        values.append(value)
    return torch.stack(values, 1), state


@pytest.mark.parametrize("kernel", [squared_exponential, matern52])
def test_exact_draws_have_the_covariance_of_the_kernel(kernel):
    x = torch.tensor([[0.1, 0.2], [0.2, 0.2], [0.3, 0.5], [0.9, 0.9]])
    y, _ = drawn(exact(6000, kernel), x.expand(6000, -1, -1), seeded())
    expected = 2 * kernel(x[None], x[None], torch.full((1, 2), 0.4))[0]
    torch.testing.assert_close(y.T @ y / 6000, expected, atol=0.15, rtol=0)


def test_exact_draws_remember_and_keep_their_states_apart():
    draws, x = exact(3), torch.rand(3, 4, 2, generator=seeded(1))
    y, state = drawn(draws, x, seeded())
    before = [each.clone() for each in state]
    again, _ = draws.step(x[:, 1], state, seeded(5))
    torch.testing.assert_close(again, y[:, 1], atol=1e-3, rtol=0)
    elsewhere, _ = draws.step(torch.zeros(3, 2), state, seeded(6))
    assert not torch.equal(elsewhere, draws.step(torch.zeros(3, 2), state, seeded(7))[0])
    assert all(torch.equal(a, b) for a, b in zip(before, state, strict=True))


def test_exact_draws_with_noise_spread_at_one_point():
    draws = exact(1, noise_B=torch.tensor([0.5]))
    y, _ = drawn(draws, torch.full((1, 400, 2), 0.5), seeded())
    assert y.std().item() == pytest.approx(0.5, abs=0.06)


def test_gradients_of_exact_draws_are_finite_differences():
    draws = exact(2)

    def values(x):
        return drawn(draws, x, seeded(3))[0]

    x = torch.rand(2, 5, 2, generator=seeded(1)).double().requires_grad_()
    assert torch.autograd.gradcheck(values, x)


@pytest.mark.parametrize("dimensions", [1, 3, 12])
def test_functions_are_standardised(dimensions):
    prior = replace(broad_prior(), output_warp=0.0)  # heavy tails need more points than are drawn
    functions = draw_functions(prior, 200, dimensions, seeded())
    y = functions.many(torch.rand(200, 1000, dimensions, generator=seeded(1)))
    assert y.mean(1).abs().mean() < 0.12
    assert (y.std(1) - 1).abs().mean() < 0.15
    assert (y.std(1).log().abs() < math.log(2)).float().mean() > 0.98


def test_the_papers_functions_are_not_touched():
    y = draw_functions(paper_prior(), 3000, 2, seeded())(torch.rand(3000, 2, generator=seeded(1)))
    assert y.var().item() == pytest.approx(1.0, abs=0.1)
    functions = draw_functions(paper_prior(), 4, 2, seeded())
    assert functions.bowls is None
    assert functions.inputs.levels_BD is functions.inputs.a_BD is functions.outputs.mean_B is None
    assert functions.noise_B.tolist() == [0.0] * 4


@pytest.mark.parametrize("kind", ["gp", "quadratic", "multimodal", "all"])
def test_optima_are_spread_over_the_cube(kind):
    prior = broad_prior() if kind == "all" else only(kind)
    side = torch.linspace(0, 1, 33)
    grid = torch.cartesian_prod(side, side)[torch.randperm(33 * 33, generator=seeded(1))]  # ties go anywhere
    functions = draw_functions(prior, 500, 2, seeded())
    best = grid[functions.many(grid.expand(500, -1, -1)).argmin(-1)]
    central = ((best - 0.5).abs() < 0.25).all(-1).float().mean()  # a quarter of the square
    boundary = ((best == 0) | (best == 1)).any(-1).float().mean()
    quadrants = torch.bincount((best > 0.5).long() @ torch.tensor([1, 2]), minlength=4) / 500
    assert 0.05 < central < 0.3
    assert 0.15 < boundary < 0.75
    assert (quadrants - 0.25).abs().max() < 0.08


@pytest.mark.parametrize("kind", ["quadratic", "valley", "multimodal"])
def test_bowls_are_lowest_at_their_centres(kind):
    functions = draw_functions(only(kind, input_warp=0.0, output_warp=0.0, sparse=0.0), 64, 3, seeded())
    bowls = functions.bowls
    centre = torch.linalg.solve(bowls.axes_BDD, -bowls.offset_BD)
    assert ((centre > -1e-4) & (centre < 1 + 1e-4)).all()
    y = functions.many(torch.rand(64, 500, 3, generator=seeded(1)))
    assert (functions(centre) <= y.amin(1) + 1e-4).all()
    # not as low everywhere: there is something to be found
    assert (functions(centre) < y.median(1).values - 0.05).all()


def test_quadratics_have_the_condition_numbers_asked_for():
    prior = only("quadratic", FunctionPrior(power=(1.0, 1.0), condition=(1e4, 1e4), rotated=1.0))
    functions = draw_functions(prior, 5, 4, seeded()).to(dtype=torch.float64)
    hessians = torch.stack(
        [
            torch.autograd.functional.hessian(
                lambda x, at=at: functions(x.expand(5, -1))[at], torch.rand(4).double()
            )
            for at in range(5)
        ]
    )
    values = torch.linalg.eigvalsh(hessians)
    torch.testing.assert_close(
        values[:, -1] / values[:, 0], torch.full((5,), 1e4).double(), rtol=0.01, atol=0
    )
    assert (hessians.diagonal(dim1=1, dim2=2).amin(1) > 2 * values[:, 0]).any()  # rotated


def test_trends_are_linear_beside_their_process():
    functions = draw_functions(only("trend", output_warp=0.0, input_warp=0.0), 16, 3, seeded())
    planes = functions.bowls
    x, step = torch.rand(16, 3, generator=seeded(1)), torch.full((16, 3), 0.05)
    line = torch.stack([planes((x * 0.8 + k * step)[:, None])[:, 0] for k in range(3)])
    torch.testing.assert_close(line[1] - line[0], line[2] - line[1], atol=1e-4, rtol=1e-3)
    assert (line[1] - line[0]).abs().median() > 1e-3


def test_sparse_functions_ignore_coordinates():
    functions = draw_functions(replace(SMOOTH, sparse=1.0, active=(0.25, 0.25)), 64, 8, seeded())
    x = torch.rand(64, 8, generator=seeded(1)).requires_grad_()
    (slope,) = torch.autograd.grad(functions(x).sum(), x)
    assert (slope != 0).sum(-1).tolist() == [2] * 64


def test_rounded_coordinates_have_levels_and_pass_the_gradient_on():
    functions = draw_functions(only("gp", rounded_inputs=1.0, levels=(4, 4)), 32, 1, seeded())
    x = torch.linspace(0, 1, 401).expand(32, -1)[..., None].clone().requires_grad_()
    y = functions.many(x)
    values = torch.tensor([row.unique().numel() for row in y])
    assert set(values.tolist()) <= {4, *range(300, 402)}
    assert (values == 4).sum() > 5
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert (slope[values == 4].abs().amax((1, 2)) > 1e-2).all()


def test_rounded_values_rise_in_steps():
    functions = draw_functions(only("gp", rounded_values=1.0, rise=(0.5, 0.5)), 8, 2, seeded())
    y = functions.many(torch.rand(8, 500, 2, generator=seeded(1)))
    torch.testing.assert_close(y, (y / 0.5).round() * 0.5)
    assert all(4 <= row.unique().numel() <= 40 for row in y)


def test_output_warps_keep_the_order_and_make_tails():
    plain = draw_functions(only("gp", output_warp=0.0, input_warp=0.0), 64, 2, seeded())
    high = draw_functions(only("gp", output_warp=1.0, input_warp=0.0, tail=(4.0, 4.0)), 64, 2, seeded())
    x = torch.rand(64, 400, 2, generator=seeded(1))
    a, b = plain.many(x), high.many(x)
    assert (a.argsort(-1) == b.argsort(-1)).float().mean() > 0.99  # but for ties by rounding
    assert b.amax(1).median() > a.amax(1).median() + 1
    assert b.amin(1).median() > a.amin(1).median() + 0.5


def test_noise_is_as_deep_as_said():
    functions = draw_functions(replace(broad_prior(), noisy=0.5, noise=(0.2, 0.2)), 400, 2, seeded())
    noisy = functions.noise_B > 0
    assert 0.4 < noisy.float().mean() < 0.6
    x = torch.rand(400, 2, generator=seeded(1))
    error = functions.observe(x, seeded(2)) - functions(x)
    assert error[~noisy].abs().max() == 0
    assert error[noisy].std().item() == pytest.approx(0.2, abs=0.03)


def test_draws_are_reproducible_and_differ():
    x = torch.rand(16, 3, generator=seeded(1))
    values = [draw_functions(broad_prior(), 16, 3, seeded(seed))(x) for seed in (0, 0, 1)]
    assert torch.equal(values[0], values[1])
    assert (values[0] != values[2]).all()
    functions = draw_functions(broad_prior(), 16, 3, seeded(0))
    assert len(functions[4:7]) == 3
    torch.testing.assert_close(functions[4:7](x[4:7]), values[0][4:7])


@pytest.mark.parametrize("prior", [paper_prior(), broad_prior()])
def test_priors_survive_json(prior):
    assert from_json_dict(FunctionPrior, json.loads(json.dumps(to_json_dict(prior)))) == prior


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": {"gp": 0.0}}, "weights: expected at least one above 0"),
        ({"matern": 1.5}, "matern: expected a share"),
        ({"noise": (0.0, 0.1)}, "noise: expected a range above 0"),
        ({"power": (2.0, 1.0)}, r"power: expected \(lowest, highest\)"),
        ({"levels": (1, 3)}, "levels and points: expected at least 2"),
    ],
)
def test_wrong_priors_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        FunctionPrior(**change)
    with pytest.raises(UserError, match="at least 1 of at least 1 dimension"):
        draw_functions(paper_prior(), 3, 0, seeded())
