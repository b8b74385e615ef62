"""Quadratics, norms and bowls: their lowest points and their noise."""

import math

import pytest
import torch

from factotum.core.checks import UserError
from factotum.worlds.problems import corpus
from factotum.worlds.problems.quadratics import EPSILON, Bowl, Norm, Quadratic

LINEAR = [p for p in corpus() if p.family in ("quadratic", "norm") and p.size < 784]
NOISY = [
    p for p in corpus() if max(p.noise) > 0 and p.family in ("quadratic", "norm", "bowl", "two-dimensional")
]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("problem", LINEAR, ids=lambda problem: problem.name)
def test_the_solution_of_the_linear_system_is_the_lowest_point(problem):
    instances = problem.draw(4, seeded(), torch.float64)
    best = torch.linalg.solve(instances.data["weight"], instances.data["target"])
    expected = torch.full((4,), problem.minimum, dtype=torch.float64)
    torch.testing.assert_close(instances.loss([best]), expected, rtol=1e-4, atol=1e-15)
    for size in (1e-3, 1.0, 100.0):
        near = best + size * torch.randn(best.shape, generator=seeded(1), dtype=torch.float64)
        assert (instances.loss([near]) > problem.minimum).all()


def test_values_by_hand():
    weight, target = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), torch.tensor([[[1.0], [2.0]]])
    tensors = {"copies": torch.zeros(1), "weight": weight, "target": target}
    x = torch.ones(1, 2, 1)  # residual (2, 5)
    assert Quadratic(2).restore(tensors).loss([x]).item() == pytest.approx(14.5)
    assert Norm(2, 1).restore(tensors).loss([x]).item() == pytest.approx(7 + 2 * EPSILON)
    assert Norm(2, 3).restore(tensors).loss([x]).item() == pytest.approx(133 ** (1 / 3), rel=1e-5)
    ones = [torch.ones(1, 2, 1)]
    assert Bowl(5).draw(1, seeded()).loss(ones).item() == pytest.approx(3.0)
    rotated = Bowl(5, math.pi / 4).draw(1, seeded())
    assert rotated.loss(ones).item() == pytest.approx(1.0)  # (1, 1) is turned onto the flat axis


def test_bowls_are_lowest_at_zero():
    for problem in corpus():
        if problem.family == "bowl":
            instances = problem.draw(64, seeded())
            assert (instances.loss([torch.zeros(64, 2, 1)]) == problem.minimum).all()
            assert (instances.loss(instances.initial(seeded())) > 0).all()


@pytest.mark.parametrize("problem", NOISY, ids=lambda problem: problem.name)
def test_the_noise_is_as_large_as_it_says(problem):
    instances = problem.draw(4000 // problem.size, seeded()).to(dtype=torch.float64)
    at = [p.requires_grad_() for p in instances.initial(seeded(1))]
    (exact,) = torch.autograd.grad(instances.loss(at).sum(), at)
    noise = instances.gradient(at, seeded(2))[0] - exact
    assert noise.std().item() == pytest.approx(problem.noise[0], rel=0.06)
    assert abs(noise.mean().item()) < 0.08 * problem.noise[0]
    assert not torch.equal(noise, instances.gradient(at, seeded(3))[0] - exact)


def test_sizes_that_cannot_be_are_refused():
    for wrong in (lambda: Quadratic(0), lambda: Norm(3, 0.5), lambda: Bowl(0.0), lambda: Quadratic(2, -1.0)):
        with pytest.raises(UserError, match="expected"):
            wrong()
