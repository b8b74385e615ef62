"""Test functions have the optimum they claim, and so have their random instances."""

from dataclasses import replace

import pytest
import torch

from factotum.core.checks import UserError
from factotum.worlds.functions import SCALABLE, TEST_FUNCTIONS, off_centre, perturb, test_function
from factotum.worlds.minimum import lowest

TABLE = {  # value in the middle of the cube, from the formulas written out in plain Python
    "Branin": ([0.5, 0.5], 24.129964413622268),
    "GoldsteinPrice": ([0.5, 0.5], 600.0),
    "Hartmann3": ([0.5, 0.5, 0.5], -0.6280220150705937),
    "Hartmann6": ([0.5] * 6, -0.5053149917022333),
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", TABLE)
def test_values_of_the_textbook(name):
    point, value = TABLE[name]
    found = TEST_FUNCTIONS[name](torch.tensor(point, dtype=torch.float64)).item()
    assert found == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("name", TEST_FUNCTIONS)
def test_minimum_is_reached_at_every_minimiser_and_nowhere_undercut(name):
    function = TEST_FUNCTIONS[name]
    assert function.minimisers.shape[1] == function.dimensions
    assert ((function.minimisers >= 0) & (function.minimisers <= 1)).all()
    values = function(function.minimisers)
    torch.testing.assert_close(values, torch.full_like(values, function.minimum), atol=1e-12, rtol=0)
    # also where instances evaluate it, up to .15 outside the cube
    wide = -0.15 + 1.3 * torch.rand(200_000, function.dimensions, generator=seeded(), dtype=torch.float64)
    near = function.minimisers[:1] + 0.01 * torch.randn(10_000, 1, generator=seeded(), dtype=torch.float64)
    assert function(torch.cat([wide, near])).min().item() >= function.minimum


@pytest.mark.parametrize("name", TEST_FUNCTIONS)
def test_gradients_are_finite_differences(name):
    function = TEST_FUNCTIONS[name]
    x = torch.rand(4, function.dimensions, generator=seeded(2)).double().requires_grad_()
    assert torch.autograd.gradcheck(function.evaluate, x, rtol=1e-3, atol=1e-3)
    (slope,) = torch.autograd.grad(function(x).sum(), x)
    assert (slope.abs().max() > 0) == (name != "Steps5")


def test_gradients_are_finite_at_the_optimum():
    for function in TEST_FUNCTIONS.values():
        x = function.minimisers.clone().requires_grad_()
        (slope,) = torch.autograd.grad(function(x).sum(), x)
        assert slope.abs().max() < 1e-4, function.name


def test_shapes_and_precision_are_kept():
    for function in TEST_FUNCTIONS.values():
        value = function(torch.rand(2, 3, function.dimensions))
        assert (value.shape, value.dtype) == ((2, 3), torch.float32)


@pytest.mark.parametrize("dimensions", [2, 5, 20])
def test_optima_are_off_the_centre_and_inside(dimensions):
    place = off_centre(dimensions)
    assert ((place > 0.1) & (place < 0.9)).all()
    assert (place - 0.5).abs().mean() > 0.15
    for name in SCALABLE:
        assert torch.equal(test_function(name, dimensions).minimisers[0], place)


def test_unknown_names_and_too_few_dimensions_are_refused():
    with pytest.raises(UserError, match="did you mean Sphere"):
        test_function("Spher", 3)
    with pytest.raises(UserError, match="Rosenbrock: expected at least 2 dimensions, got 1"):
        test_function("Rosenbrock", 1)


def dense(function):
    """Lowest value over a fine grid (two dimensions) or many random points."""
    if function.dimensions == 2:
        side = torch.linspace(0, 1, 1001, dtype=torch.float64)
        return function(torch.cartesian_prod(side, side)).min().item()
    return (
        function(torch.rand(100_000, function.dimensions, dtype=torch.float64, generator=seeded(9)))
        .min()
        .item()
    )


@pytest.mark.parametrize(("name", "near"), [("Branin", 1e-2), ("GoldsteinPrice", 0.5), ("Hartmann3", 0.1)])
def test_minimum_of_instances_is_that_of_a_dense_search(name, near):
    for seed in range(5):
        instance = perturb(TEST_FUNCTIONS[name], seeded(seed))
        found = dense(instance)
        assert instance.minimum <= found <= instance.minimum + near
        values = instance(instance.minimisers)
        torch.testing.assert_close(values, torch.full_like(values, instance.minimum), atol=1e-9, rtol=0)
        assert ((instance.minimisers >= 0) & (instance.minimisers <= 1)).all()


def test_instances_differ_and_are_reproducible():
    x = torch.rand(6, generator=seeded(1)).double()
    values = [perturb(TEST_FUNCTIONS["Hartmann6"], seeded(seed))(x).item() for seed in (0, 0, 1, 2)]
    assert values[0] == values[1]
    assert len(set(values)) == 3


def test_instances_are_the_papers_map():
    """Recovered from where the function is evaluated when one coordinate of x moves."""
    u = []

    def seen(point):
        u.append(point)
        return point.sum(-1)

    scales, shifts, flips, orders = [], [], [], set()
    axes = torch.eye(3, dtype=torch.float64)
    probe = replace(TEST_FUNCTIONS["Hartmann3"], evaluate=seen, minimisers=torch.full((1, 3), 0.5).double())
    for seed in range(200):
        instance = perturb(probe, seeded(seed))
        u.clear()
        instance(torch.cat([torch.full((1, 3), 0.5).double(), 0.5 + 0.5 * axes]))
        middle, moved = u[0][0], u[0][1:] - u[0][:1]  # moved[d, k]: what coordinate d of x does to u_k
        order = moved.abs().argmax(-1)
        slope = 2 * moved[torch.arange(3), order]
        assert (moved != 0).sum() == 3
        orders.add(tuple(order.tolist()))
        scales += slope.abs().tolist()
        shifts += (middle - 0.5).tolist()
        flips += (slope < 0).tolist()
    assert len(orders) == 6
    assert 0.9 <= min(scales) < 0.91 < 1.09 < max(scales) <= 1.1
    assert -0.1 <= min(shifts) < -0.09 < 0.09 < max(shifts) <= 0.1
    assert 0.4 < sum(flips) / len(flips) < 0.6


def test_a_minimum_that_leaves_the_box_is_searched_again():
    def evaluate(u):
        return ((u - torch.tensor([0.02, 0.97]).to(u)) ** 2 * torch.tensor([1.0, 5.0]).to(u)).sum(-1)

    place = torch.tensor([[0.02, 0.97]]).double()
    corner = replace(
        TEST_FUNCTIONS["Branin"],
        evaluate=evaluate,
        minimum=0.0,
        minimisers=place,
    )
    lost = 0
    for seed in range(20):
        instance = perturb(corner, seeded(seed))
        lost += instance.minimum > 0
        assert instance.minimum <= dense(instance) <= instance.minimum + 2e-3
        assert instance(instance.minimisers[0]).item() == pytest.approx(instance.minimum, abs=1e-12)
    assert 5 <= lost < 20


def test_lowest_finds_a_minimum_at_the_wall_and_through_a_valley():
    rosenbrock = test_function("Rosenbrock", 4)
    value, where = lowest(rosenbrock.evaluate, torch.rand(2, 4, generator=seeded()).double(), seeded())
    assert value < 1e-12
    torch.testing.assert_close(where, rosenbrock.minimisers[0], atol=1e-6, rtol=0)
    shifted = lowest(lambda x: rosenbrock(x + 0.4), torch.rand(2, 4, generator=seeded()).double(), seeded())
    random = rosenbrock(torch.rand(200_000, 4, generator=seeded(3)).double() + 0.4).min().item()
    assert 0 < shifted[0] < random
    assert ((shifted[1] == 0) | (shifted[1] == 1)).any()
