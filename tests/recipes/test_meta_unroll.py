"""Unrolled groups of problems: meta-gradients, what breaks, units, held-out measures."""

import pytest
import torch
from torch import nn

from factotum.core.checks import UserError
from factotum.core.seeding import torch_generator
from factotum.optim import HierarchicalRNNConfig
from factotum.optim.objective import log_loss_objective, start, unroll
from factotum.optim.training_core import TrainingCore
from factotum.recipes.meta_held_out import WORST, HeldOut, adam, few_of_each
from factotum.recipes.meta_objective import UnrollObjective
from factotum.recipes.meta_problems import Block, Dealing, FlatProblems, deal
from factotum.recipes.meta_unroll import ProblemGroup, _nested
from factotum.training.meta_gradient import Call
from factotum.worlds.problems import Problem, corpus, find

PLAIN = {"divergence_penalty": 0.0, "rescaled": 0.0}


def group(names, copies=3, **changes):
    blocks = [Block(find(name), copies) for name in names]
    return ProblemGroup(blocks, UnrollObjective(**{**PLAIN, **changes}))


def call(blocks, steps=5, starts=True, seed=0):
    return Call(steps, (starts,) * blocks, tuple(range(blocks)), seed)


def core(attention=False):
    torch.manual_seed(0)
    made = TrainingCore(HierarchicalRNNConfig(attention=attention, least_rate=1e-2, greatest_rate=1e-1))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return made


# -- unrolls


@pytest.mark.parametrize("attention", [False, True])
def test_the_meta_gradient_is_that_of_the_plain_unroll(attention):
    """Two unrolls, the second with carried state, against automatic differentiation through everything."""
    model, mine = core(attention), group(["quadratic-20", "booth"], measure_every=1)
    first = mine.unroll(model, {}, call(2), learn=True)
    found = mine.unroll(model, first.state, call(2, starts=False, seed=1), learn=True)
    gradients = torch.autograd.grad(found.loss, list(model.parameters()), allow_unused=True)

    tasks, generator = mine.problems, torch_generator(0)
    start_P = tasks.initial(0)
    run = start(model, tasks.layout, start_P, generator)
    rates_P = _rates_of(mine, model)
    run = run._replace(state=run.state._replace(slots=run.state.slots._replace(log_rate_P=rates_P)))
    begun = unroll(model, tasks, run, 5, generator)
    ahead_P = None if begun.run.attended_P is None else first.state["theta"] + first.state["ahead"]
    assert torch.allclose(begun.run.parameters_P, first.state["theta"], rtol=1e-4, atol=1e-5)
    carried = begun.run._replace(
        parameters_P=first.state["theta"],
        attended_P=ahead_P,
        state=_nested(first.state),
    )
    expected = unroll(model, tasks, carried, 5, generator)
    objective_B = log_loss_objective(expected.losses_TB, tasks.loss(start_P))
    loss = objective_B.view(2, 3).mean()
    reference = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    assert found.loss.item() == pytest.approx(loss.item(), rel=1e-4)
    for one, other in zip(gradients, reference, strict=True):
        if other is not None and other.norm() > 0:
            assert (one - other).norm() <= 2e-3 * other.norm()


def _rates_of(mine, model):
    generator = torch_generator(0, "fresh")
    mine._units(generator)  # drawn before
    return model.initial_state(mine.layout, generator).slots.log_rate_P


def test_second_derivatives_change_the_gradient_and_not_the_unroll():
    model, losses, gradients = core(), [], []
    for second in (False, True):
        done = group(["quadratic-20"], second_derivatives=second).unroll(model, {}, call(1), learn=True)
        losses.append(done.loss.item())
        gradients.append(torch.autograd.grad(done.loss, model.readout)[0])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert not torch.allclose(gradients[0], gradients[1], rtol=1e-3)


def test_an_unroll_is_a_pure_function():
    model, mine = core(), group(["quadratic-20-noise-0.5", "mlp-9-8"], rescaled=0.5)
    first = mine.unroll(model, {}, call(2), learn=False)
    kept = {name: tensor.clone() for name, tensor in first.state.items()}
    others = [
        mine.unroll(model, first.state, call(2, starts=False, seed=3), learn=learn) for learn in (False, True)
    ]
    assert others[0].loss.item() == pytest.approx(others[1].loss.item(), abs=1e-6)
    for name, tensor in first.state.items():
        assert torch.equal(tensor, kept[name])
        assert torch.equal(others[0].state[name], others[1].state[name])


def test_blocks_start_alone():
    model, mine = core(), group(["quadratic-20", "booth"])
    state = mine.unroll(model, {}, call(2), learn=False).state
    going = mine.unroll(model, state, Call(1, (False, True), (0, 7), 5), learn=False).state
    still_P = mine.problems.block_of_B[mine.problems.problem_of_P] == 0
    assert torch.equal(going["first"][:3], state["first"][:3])
    assert not torch.equal(going["first"][3:], state["first"][3:])
    assert (going["theta"] - state["theta"]).abs()[still_P].max() < 1.0
    assert going["state/0"].shape == state["state/0"].shape


class Cliff(Problem):
    """Infinite from the start for some copies."""

    def __init__(self):
        super().__init__("cliff", "cliff", [(1,)], 0.0)

    def loss(self, parameters, data):
        x = parameters[0][:, 0]
        return torch.where(x > 0, x.square() / 0.0, x.square() + 1)


def test_what_is_not_finite_is_dropped_counted_and_drawn_anew():
    model = core()
    mine = ProblemGroup([Block(Cliff(), 16), Block(find("booth"), 2)], UnrollObjective(**PLAIN))
    done = mine.unroll(model, {}, call(2), learn=True)
    broken = done.state["fresh"]
    assert 0 < broken.sum() < 16
    assert done.metrics["restarted"][0] == broken.sum()
    assert done.loss.isfinite()
    assert all(g.isfinite().all() for g in torch.autograd.grad(done.loss, [model.readout, model.step_offset]))
    again = mine.unroll(model, done.state, call(2, starts=False, seed=1), learn=False).state
    assert (again["theta"][:16] - done.state["theta"][:16]).abs()[broken[:16]].min() > 1e-3
    assert again["first"].isfinite().sum() > done.state["first"].isfinite().sum()


def test_every_kind_counts_the_same():
    model = core()
    blocks = [Block(find("booth"), 1), Block(find("bowl-5"), 9)]
    mine = ProblemGroup(blocks, UnrollObjective(**PLAIN))
    done = mine.unroll(model, {}, call(2), learn=False)
    assert done.loss.item() == pytest.approx(done.loss_K.mean().item(), rel=1e-6)
    assert done.loss_K.shape == (2,)


def test_objective_penalises_what_is_above_the_start():
    loss_TB, first_B = torch.tensor([[0.1, 10.0]]), torch.ones(2)
    measured_TB = torch.ones(1, 2, dtype=torch.bool)
    plain, _ = UnrollObjective(divergence_penalty=0.0)(loss_TB, first_B, measured_TB)
    more, has = UnrollObjective(divergence_penalty=0.5)(loss_TB, first_B, measured_TB)
    assert has.all()
    assert (more / plain).tolist() == pytest.approx([1.0, 1.5])
    _, has = UnrollObjective()(loss_TB, first_B, ~measured_TB)
    assert not has.any()


def test_units_are_seen_by_the_optimizer_alone():
    model = core()
    done = group(["quadratic-20"], rescaled=1.0, loss_scale=0.0).unroll(model, {}, call(1), learn=False)
    units_P, factors_P = done.state["units"], done.state["factors"]
    assert torch.equal(units_P, factors_P)
    assert units_P.view(3, 20).std(1).max() == 0  # one unit a tensor
    assert units_P.unique().numel() == 3
    many = group(["quadratic-20"], 400, rescaled=0.5).unroll(model, {}, call(1, steps=1), learn=False)
    assert (many.state["units"] != 1).float().mean() == pytest.approx(0.5, abs=0.1)


# -- problems side by side


def test_evaluation_is_that_of_the_instances():
    names = ["quadratic-20-noise-0.5", "sum-quadratics-2", "mlp-9-8", "sparse-bowl-5"]
    problems = FlatProblems([Block(find(name), 2) for name in names])
    problems.draw(range(4))
    theta_P = problems.initial(0)
    seen = problems.evaluate(theta_P, torch_generator(1))
    views = problems.views(theta_P.requires_grad_())
    losses = [one.loss(part) for one, part in zip(problems.instances, views, strict=True)]
    assert torch.allclose(seen.loss_B, torch.cat(losses), rtol=1e-5)
    assert torch.allclose(seen.slope_P, torch.autograd.grad(torch.cat(losses).sum(), theta_P)[0], atol=1e-4)
    assert seen.measured_B.all()
    some = problems.evaluate(theta_P, torch_generator(1), everything=False)
    assert some.measured_B.tolist() == [True] * 4 + [False] * 2 + [True] * 2
    assert torch.equal(some.gradient_P, seen.gradient_P)
    noise = (seen.gradient_P - seen.slope_P)[:40]
    assert 0.3 < noise.std() < 0.7


def test_groups_hold_every_kind_and_large_ones_apart():
    problems = corpus("code")
    groups = deal(problems, Dealing(rounds=2), seed=0)
    dealt = [block.problem.name for blocks, _ in groups for block in blocks]
    assert sorted(dealt) == sorted(2 * [problem.name for problem in problems])
    for blocks, weight in groups:
        sizes = [Dealing().is_large(block.problem) for block in blocks]
        assert all(sizes) or not any(sizes)
        assert weight == (Dealing().large_weight if all(sizes) else 1.0)
        assert all(block.copies == 1 or block.copies * block.problem.size <= 800 for block in blocks)


# -- held out


def test_rivals_are_the_optimizers_they_are_called():
    x, rule = nn.Parameter(torch.tensor([3.0, -1.0])), adam(torch.tensor([0.1, 0.1]), 0.9, 0.999)
    mine, optimizer = x.detach().clone(), torch.optim.Adam([x], lr=0.1)
    for _ in range(20):
        x.grad = 2 * x.detach()
        optimizer.step()
        mine = mine + rule(2 * mine)
    assert torch.allclose(mine, x.detach(), atol=1e-5)


def test_held_out_measures(tmp_path):
    kinds = [find(name) for name in ("quadratic-20", "bowl-5", "bowl-1")]
    held_out = HeldOut(kinds, 2, 30, tmp_path)
    made = core()
    found = held_out.rivals(made)
    assert set(found["curves"]) == {"quadratic", "bowl"}
    assert [len(curve) for curve in found["curves"]["bowl"].values()] == [30, 30, 30]
    assert sum(found["curves"]["bowl"]["Adam"]) < -30  # the best rate does optimize
    assert found["rates"]["bowl"]["Adam"] in (0.1, 0.3, 1.0)
    assert held_out.rivals(made) == found
    with pytest.raises(UserError, match="copies was 2 and is now 3"):
        HeldOut(kinds, 3, 30, tmp_path).rivals(made)
    assert min(min(curve) for curve in found["curves"]["bowl"].values()) >= -WORST
    assert next(problem.name for problem in few_of_each(corpus("code"), 1)).startswith("quadratic")
