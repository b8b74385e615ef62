"""Problems made of others do to them what they say, and nothing else."""

import math

import pytest
import torch

from factotum.core.checks import UserError
from factotum.worlds.problems import find
from factotum.worlds.problems.classifiers import SmallNetwork
from factotum.worlds.problems.plane import TwoDimensional
from factotum.worlds.problems.quadratics import Bowl, Norm, Quadratic
from factotum.worlds.problems.slow import OutwardSnake
from factotum.worlds.problems.transforms import LogObjective, Rescaled, SparseGradient, SumTask


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pair(outer, inner, batch=3):
    """Instances with the same data, and their starts."""
    ours, theirs = outer.draw(batch, seeded(), torch.float64), inner.draw(batch, seeded(), torch.float64)
    return ours, ours.initial(seeded(1)), theirs, theirs.initial(seeded(1))


@pytest.mark.parametrize("inner", [Norm(18, 2.5), Quadratic(20)])
def test_rescaling_is_a_change_of_units(inner):
    ours, start, theirs, plain = pair(Rescaled(inner, 50.0), inner)
    torch.testing.assert_close(start[0], 50 * plain[0])
    torch.testing.assert_close(ours.loss(start), theirs.loss(plain))
    gradient, unscaled = ours.gradient(start, seeded()), theirs.gradient(plain, seeded())
    torch.testing.assert_close(gradient[0], unscaled[0] / 50)
    assert ours.problem.minimum == inner.minimum


def test_the_logarithm_is_stable_and_starts_at_zero():
    ours, start, theirs, _ = pair(LogObjective(Quadratic(20)), Quadratic(20))
    expected = (theirs.loss(start) + 1e-6).log() - math.log(1e-6)
    torch.testing.assert_close(ours.loss(start), expected)
    bowl = LogObjective(Bowl(5)).draw(1, seeded())
    assert bowl.loss([torch.zeros(1, 2, 1)]).item() == bowl.problem.minimum == 0
    assert 0 < bowl.loss([torch.full((1, 2, 1), 1e-8)]).item() < 1e-6
    assert LogObjective(Norm(4, 1)).minimum == pytest.approx(math.log(5))
    assert LogObjective(SmallNetwork(8, (8,), 10)).minimum is None


def test_sparse_gradients_are_the_inner_ones_or_zero():
    inner = Quadratic(100, noise=0.5)
    ours, start, theirs, _ = pair(SparseGradient(inner), inner, batch=400)
    torch.testing.assert_close(ours.loss(start), theirs.loss(start))
    sparse, dense = ours.gradient(start, seeded(3))[0], theirs.gradient(start, seeded(3))[0]
    there = sparse != 0
    assert there.double().mean().item() == pytest.approx(0.01, rel=0.2)
    assert torch.equal(sparse[there], dense[there])  # noise comes first
    none, every = (SparseGradient(inner, share).draw(400, seeded(), torch.float64) for share in (1.0, 0.0))
    assert not none.gradient(start, seeded(3))[0].any()
    assert torch.equal(every.gradient(start, seeded(3))[0], dense)


def test_zeros_are_zeros_where_the_gradient_is_not_finite():
    instances = SparseGradient(TwoDimensional("rosenbrock"), 1.0).draw(1, seeded())
    assert not instances.gradient([torch.full((1, 2), math.inf)], seeded())[0].any()


@pytest.mark.parametrize("name", ["sparse-mlp-8-8-5", "sparse-quadratic-50", "sparse-bowl-0.1"])
def test_the_corpus_s_share_of_zeros(name):
    problem = find(name)
    instances = problem.draw(max(4, 20_000 // problem.size), seeded())
    parts = instances.gradient(instances.initial(seeded(1)), seeded(2))
    zeros = torch.cat([part.flatten() for part in parts]) == 0
    assert zeros.double().mean().item() == pytest.approx(0.99, abs=0.006)


def test_a_sum_is_the_sum_of_its_parts():
    parts = [Quadratic(5, noise=0.1), TwoDimensional("booth"), OutwardSnake(4, 10, 5), Norm(3, 2)]
    problem = SumTask("four", parts)
    assert problem.shapes == ((5, 1), (2,), (4,), (3, 1))
    assert problem.noise == (0.1, 0.0, 0.0, 0.0)
    assert problem.minimum == pytest.approx(Norm(3, 2).minimum)
    instances = problem.draw(6, seeded(), torch.float64)
    start = instances.initial(seeded(1))
    for k, (part, own) in enumerate(zip(parts, start, strict=True)):
        alone = {
            key.removeprefix(f"{k}/"): t for key, t in instances.tensors().items() if key.startswith(f"{k}/")
        }
        of_part = part.restore({"copies": torch.zeros(6, dtype=torch.float64), **alone})
        moved = [tensor.clone() for tensor in start]
        moved[k] = own + 1
        torch.testing.assert_close(
            instances.loss(moved) - instances.loss(start), of_part.loss([own + 1]) - of_part.loss([own])
        )
        if not max(part.noise) and not isinstance(part, OutwardSnake):
            expected = of_part.gradient([own], seeded())[0]
            torch.testing.assert_close(instances.gradient(start, seeded(2))[k], expected)


def test_a_sum_s_noise_stays_with_its_part():
    parts = [Quadratic(200, noise=0.5), Quadratic(200), SparseGradient(Quadratic(200))]
    instances = SumTask("three", parts).draw(10, seeded(), torch.float64)
    at = [p.requires_grad_() for p in instances.initial(seeded(1))]
    exact = torch.autograd.grad(instances.loss(at).sum(), at)
    noisy = instances.gradient(at, seeded(2))
    assert (noisy[0] - exact[0]).std().item() == pytest.approx(0.5, rel=0.1)
    torch.testing.assert_close(noisy[1], exact[1])
    assert (noisy[2] == 0).double().mean().item() == pytest.approx(0.99, abs=0.01)


@pytest.mark.parametrize(
    "name", ["sum-quadratics-7-noise-0.1", "sum-two-dimensional-9-quadratics-2-noise-0.5"]
)
def test_the_noisy_sums_are_noisy(name):
    noisy, plain = find(name), find(name.rpartition("-noise")[0])
    instances = noisy.draw(400, seeded())
    twin = plain.restore(instances.tensors())
    start = instances.initial(seeded(1))
    for level, with_noise, without in zip(
        noisy.noise, instances.gradient(start, seeded(2)), twin.gradient(start, seeded(2)), strict=True
    ):
        assert (with_noise - without).std().item() == pytest.approx(level, rel=0.15)
    assert max(noisy.noise) == float(name.rpartition("-")[2])


def test_what_cannot_be_is_refused():
    for wrong in (
        lambda: Rescaled(Quadratic(2), 0.0),
        lambda: SparseGradient(Quadratic(2), 1.5),
        lambda: SumTask("none", []),
    ):
        with pytest.raises(UserError, match="expected"):
            wrong()
