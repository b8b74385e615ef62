"""Slow problems and minibatch quadratics: values by hand, lowest points, where gradients are."""

import math

import pytest
import torch

from factotum.core.checks import UserError
from factotum.worlds.problems import minibatch_quadratics, slow_convergence
from factotum.worlds.problems.slow import (
    DependencyChain,
    MinMaxWell,
    OutwardSnake,
    ProjectionQuadratic,
    SumOfQuadratics,
)

EVERY = (*slow_convergence(), *minibatch_quadratics())


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_values_by_hand():
    x = torch.tensor([[0.5, -2.0, 1.0]], dtype=torch.float64)
    well = MinMaxWell(3).draw(1, seeded(), torch.float64)
    assert well.loss([x]).item() == pytest.approx(4 + 4 - 2)
    chain = DependencyChain(2).draw(1, seeded(), torch.float64)
    assert chain.loss([x]).item() == pytest.approx(0.25 + 4 / 0.250001 + 1 / 4.000001)


def test_the_snake_by_its_samples():
    instances = OutwardSnake(3, 10, 4).draw(2, seeded(), torch.float64)
    bits = instances.tensors()["samples"].double()
    x = torch.tensor([[0.5, -2.0, 1.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
    radius = x.norm(dim=-1)[:, None] + 1e-6
    wall = x[:, 1:] - math.pi * x[:, :-1].cos()
    of_samples = bits[..., 0] / radius + (wall[:, None] * bits[..., 1:]).square().sum(-1)
    torch.testing.assert_close(instances.loss([x]), of_samples.mean(1))
    assert set(bits.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("kind", [SumOfQuadratics, ProjectionQuadratic])
def test_minibatch_quadratics_by_their_samples(kind):
    instances = kind(3, 10, 4).draw(2, seeded(), torch.float64)
    half = instances.tensors()["samples"]
    every = torch.cat([half, -half], 1)
    x = torch.randn(2, 1, 3, generator=seeded(1), dtype=torch.float64)
    of_samples = (
        (x - every).square().sum(-1) - every.square().sum(-1) + 1e-12
        if kind is SumOfQuadratics
        else (x * every).square().sum(-1)
    )
    torch.testing.assert_close(instances.loss([x]), of_samples.mean(1))


def test_the_snake_goes_on_for_ever():
    instances = OutwardSnake(5, 100, 10).draw(1, seeded(), torch.float64)
    losses = []
    for first in (1.0, 10.0, 1e3, 1e9):
        path = [first]
        for _ in range(4):
            path.append(math.pi * math.cos(path[-1]))
        losses.append(instances.loss([torch.tensor([path], dtype=torch.float64)]).item())
    assert losses == sorted(losses, reverse=True)
    assert 0 < losses[-1] < 1e-8


@pytest.mark.parametrize("problem", EVERY, ids=lambda problem: problem.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_is_lower_than_the_minimum(problem, dtype):
    instances = problem.draw(8, seeded(), dtype)
    at_ones = isinstance(problem, MinMaxWell)
    best = torch.full((8, *problem.shapes[0]), 1.0 if at_ones else 0.0, dtype=dtype)
    if not isinstance(problem, OutwardSnake):
        torch.testing.assert_close(
            instances.loss([best]), torch.full((8,), problem.minimum, dtype=dtype), atol=1e-18, rtol=1e-6
        )
    for reach in (1e-7, 1e-5, 1e-2, 1.0, 30.0):
        near = best + reach * torch.randn(best.shape, generator=seeded(1), dtype=dtype)
        assert instances.loss([near]).min().item() >= problem.minimum * (1 - 1e-6)


def test_only_two_entries_of_the_well_have_a_gradient():
    instances = MinMaxWell(20).draw(30, seeded())
    (x,) = instances.initial(seeded(1))
    (gradient,) = instances.gradient([x], seeded())
    assert ((gradient != 0).sum(-1) == 2).all()
    assert (gradient.argmax(-1) != gradient.argmin(-1)).all()


def test_sums_of_quadratics_are_noisy_at_the_lowest_point_alone_through_minibatches():
    problem = SumOfQuadratics(12, 100, 10)
    instances = problem.draw(3000, seeded())
    (gradient,) = instances.gradient([torch.zeros(3000, 1, 12)], seeded(1))
    assert gradient.std().item() == pytest.approx(2 / 10**0.5, rel=0.05)
    assert gradient.mean().abs().item() < 0.02
    (projected,) = (
        ProjectionQuadratic(12, 100, 10).draw(5, seeded()).gradient([torch.zeros(5, 1, 12)], seeded(1))
    )
    assert not projected.any()


def test_sizes_that_cannot_be_are_refused():
    with pytest.raises(UserError, match="even number of samples and a batch >= 1, got 7, 2"):
        SumOfQuadratics(3, 7, 2)
