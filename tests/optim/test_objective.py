"""The objective's values, meta-gradients against finite differences, truncation, problems that get lost."""

import copy
import math
from dataclasses import replace

import pytest
import torch

from factotum.core.checks import UserError
from factotum.optim.config import HierarchicalRNNConfig, code_config, paper_config, shipped_config
from factotum.optim.objective import (
    MetaObjective,
    TaskGroup,
    detached,
    finite_mean,
    log_loss_objective,
    start,
    unroll,
)
from factotum.worlds.problems import find
from tests.optim.toys import Bowls, generator, make_core, wild_core

F64 = torch.float64


def begun(core, tasks, seed=0):
    parameters_P = 1 + torch.rand(tasks.layout.scalar_count, generator=generator(seed), dtype=F64)
    run = start(core, tasks.layout, parameters_P, generator(seed))
    # steps of a size that matters within few of them
    slots = run.state.slots._replace(log_rate_P=run.state.slots.log_rate_P / 4)
    return run._replace(state=run.state._replace(slots=slots))


def value(core, tasks, steps=5, **options):
    run = begun(core, tasks)
    done = unroll(core, tasks, run, steps, generator(1), **options)
    return log_loss_objective(done.losses_TB, tasks.loss(run.parameters_P)).mean()


def slopes(core, tasks, **options):
    found = torch.autograd.grad(value(core, tasks, **options), list(core.parameters()), allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for w, g in zip(core.parameters(), found, strict=True)]


@torch.no_grad()
def moved(core, directions, step):
    other = copy.deepcopy(core)
    for weight, direction in zip(other.parameters(), directions, strict=True):
        weight += step * direction
    return other


def test_known_values():
    losses_TB = torch.tensor([[1.0, 3.0], [0.1, 0.0]], dtype=F64)
    objective_B = log_loss_objective(losses_TB, torch.tensor([2.0, 3.0], dtype=F64))
    first = (math.log(0.5) + math.log(0.05)) / 2
    assert objective_B.tolist() == pytest.approx([first, math.log(1e-6) / 2], abs=1e-4)


def test_negative_minima_are_subtracted():
    losses_TB, first_B = torch.tensor([[-1.0, 1.0]], dtype=F64), torch.tensor([2.0, 2.0], dtype=F64)
    lowest = torch.tensor([-2.0, 0.5])
    objective_B = log_loss_objective(losses_TB, first_B, lowest)
    assert objective_B.tolist() == pytest.approx([math.log(0.25), math.log(0.5)], abs=1e-5)
    with pytest.raises(UserError, match="expected losses of 0 or more, got -1"):
        log_loss_objective(losses_TB, first_B)
    with pytest.raises(UserError, match="expected losses of 0 or more"):
        log_loss_objective(losses_TB, first_B, -0.5)
    rounding = log_loss_objective(torch.tensor([[-1e-7]]), torch.ones(1))
    assert rounding.item() == pytest.approx(math.log(1e-6), abs=1e-3)


def test_the_start_passes_no_gradient():
    first_B = torch.ones(1, requires_grad=True)
    losses_TB = torch.full((2, 1), 0.5, requires_grad=True)
    slope = torch.autograd.grad(
        log_loss_objective(losses_TB, first_B).sum(), (losses_TB, first_B), allow_unused=True
    )
    assert slope[1] is None
    torch.testing.assert_close(slope[0], torch.ones(2, 1), rtol=1e-4, atol=0)


# a floor lets gradients pass that are none
PLAIN = replace(shipped_config(), floor_steps=0)


@pytest.mark.parametrize("config", [PLAIN, paper_config(), code_config(attention=True)])
def test_meta_gradients_are_finite_differences(config):
    core, tasks = wild_core(config, dtype=F64), Bowls(torch.tensor([0.5, 5.0], dtype=F64))
    found = slopes(core, tasks, second_derivatives=True)
    for seed in range(3):
        directions = [torch.randn(w.shape, generator=generator(seed), dtype=F64) for w in found]
        expected = sum((g * v).sum() for g, v in zip(found, directions, strict=True))
        with torch.no_grad():
            ahead, behind = (value(moved(core, directions, step), tasks) for step in (1e-5, -1e-5))
        torch.testing.assert_close((ahead - behind) / 2e-5, expected, rtol=1e-4, atol=1e-6)


def test_second_derivatives_matter_and_are_off_by_default():
    core, tasks = wild_core(dtype=F64), Bowls(torch.tensor([0.5, 5.0], dtype=F64))
    without, given = slopes(core, tasks), slopes(core, tasks, second_derivatives=True)
    assert not all(torch.allclose(a, b, rtol=1e-3) for a, b in zip(without, given, strict=True))
    assert torch.equal(value(core, tasks), value(core, tasks, second_derivatives=True))


@pytest.mark.parametrize(("truncation", "same"), [(0, True), (5, True), (50, True), (4, False), (1, False)])
def test_truncation_beyond_the_horizon_is_none(truncation, same):
    core, tasks = wild_core(dtype=F64), Bowls(torch.tensor([0.5, 5.0], dtype=F64), noise=0.1)
    whole, cut = slopes(core, tasks), slopes(core, tasks, truncation=truncation)
    assert all(torch.equal(a, b) for a, b in zip(whole, cut, strict=True)) is same
    assert torch.equal(value(core, tasks), value(core, tasks, truncation=truncation))


def test_two_unrolls_go_on_where_one_would():
    core, tasks = wild_core(dtype=F64), Bowls(torch.tensor([0.5, 5.0], dtype=F64), noise=0.1)
    run, draws = begun(core, tasks), generator(1)
    whole = unroll(core, tasks, run, 6, generator(1))
    first = unroll(core, tasks, run, 4, draws)
    second = unroll(core, tasks, detached(first.run), 2, draws)
    assert torch.equal(whole.losses_TB, torch.cat([first.losses_TB, second.losses_TB]))
    assert torch.equal(whole.run.parameters_P, second.run.parameters_P)


def test_gradients_are_taken_where_attended():
    core, tasks = wild_core(code_config(attention=True), dtype=F64), Bowls(torch.tensor([1.0], dtype=F64))
    run, seen = begun(core, tasks), []
    inner = tasks.gradient
    tasks.gradient = lambda at, *rest, **more: seen.append(at) or inner(at, *rest, **more)
    with torch.no_grad():
        done = unroll(core, tasks, run, 2, generator())
    assert torch.equal(seen[0], run.parameters_P)
    assert not torch.allclose(seen[1], done.run.parameters_P)
    torch.testing.assert_close(tasks.loss(done.run.parameters_P), done.losses_TB[-1])


class Cliff(Bowls):
    """The second bowl is no number at all from the second gradient on."""

    calls = 0

    def loss(self, parameters_P):
        loss_B = super().loss(parameters_P)
        return torch.stack([loss_B[0], loss_B[1] * (math.inf if self.calls > 1 else 1.0)])

    def gradient(self, *given, **more):
        self.calls += 1
        return super().gradient(*given, **more)


@pytest.mark.parametrize("second", [False, True])
def test_a_lost_problem_leaves_the_others_alone(second):
    core, tasks = wild_core(dtype=F64), Cliff(torch.tensor([1.0, 2.0], dtype=F64))
    run = begun(core, tasks)
    first_B = tasks.loss(run.parameters_P)
    done = unroll(core, tasks, run, 4, generator(), second_derivatives=second)
    objective_B = log_loss_objective(done.losses_TB, first_B)
    assert objective_B.isfinite().tolist() == [True, False]
    finite_mean(objective_B).backward()
    assert all(w.grad is None or w.grad.isfinite().all() for w in core.parameters())
    assert core.readout.grad.abs().sum() > 0
    with torch.no_grad():
        other = Bowls(torch.tensor([1.0, 2.0], dtype=F64))
        alone = unroll(core, other, run, 4, generator())
    torch.testing.assert_close(done.losses_TB[:, 0].detach(), alone.losses_TB[:, 0])


def test_nothing_finite_counts_as_nothing():
    assert finite_mean(torch.tensor([torch.nan, torch.inf])).item() == 0.0


def test_a_group_of_problems_is_each_of_them():
    problems = [find("rosenbrock"), find("quadratic-20-noise-0.5")]
    instances = [
        problem.draw(copies, generator(copies)) for problem, copies in zip(problems, (3, 2), strict=True)
    ]
    group = TaskGroup(instances)
    flat = group.initial(generator(5))
    assert flat.shape == (group.layout.scalar_count,)
    assert group.layout.problem_count == len(group.minimum_B) == 5
    parts = group.unpack(flat)
    assert torch.equal(group.pack(parts), flat)
    losses = torch.cat([one.loss(own) for one, own in zip(instances, parts, strict=True)])
    assert torch.equal(group.loss(flat), losses)
    draws = generator(6)
    gradients = [one.gradient(own, draws) for one, own in zip(instances, parts, strict=True)]
    assert torch.equal(group.gradient(flat, generator(6)), group.pack(gradients))


def test_an_untrained_core_learns_to_do_better():
    """A few steps of plain descent on the objective lower it on fresh problems: everything fits together."""
    core = make_core(HierarchicalRNNConfig(least_rate=1e-3, greatest_rate=0.1))
    group = TaskGroup([find("quadratic-20-noise-0.5").draw(4, generator(1))])
    objective, optimizer = MetaObjective(), torch.optim.Adam(core.parameters(), 0.01)
    values = []
    for _ in range(8):
        run = start(core, group.layout, group.initial(generator(2)), generator(3))
        done = objective(core, group, run, 10, generator(4), first_B=group.loss(run.parameters_P))
        optimizer.zero_grad()
        done.objective_B.mean().backward()
        optimizer.step()
        values.append(done.objective_B.mean().item())
    assert not done.run.parameters_P.requires_grad
    assert values[-1] < values[0] - 0.01


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"steps": 0}, "expected steps >= 1 and truncation >= 0, got 0 and 0"),
        ({"steps": 1, "truncation": -1}, "got 1 and -1"),
    ],
)
def test_bad_unrolls_are_refused(given, complaint):
    core, tasks = make_core(), Bowls(torch.tensor([1.0]))
    run = start(core, tasks.layout, torch.ones(2), None)
    with pytest.raises(UserError, match=complaint):
        unroll(core, tasks, run, generator=generator(), **given)
    with pytest.raises(UserError, match="unroll: expected 2 parameters, got \\(3,\\)"):
        unroll(core, tasks, run._replace(parameters_P=torch.ones(3)), 1, generator())
