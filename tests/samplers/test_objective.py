"""Who is told what and when, gradients through the closed loop, and that each loss teaches to search."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import grad

from factotum.core.checks import UserError
from factotum.core.gaussian_process import posterior, squared_exponential
from factotum.core.seeding import torch_generator
from factotum.losses.trajectory import expected_improvement
from factotum.samplers.history import Observation
from factotum.samplers.objective import MetaBatch, SamplerObjective
from factotum.samplers.rollout import detached, limited, make_turns, rollout
from tests.samplers.toys import Bowls, Interpolants, ToyCore

BOWLS = Bowls(torch.tensor([[0.2, 0.7], [0.9, 0.4], [0.5, 0.1]]))
SHAPE = {"batch_size": 3, "dimensions": 2}


def core(seed=0):
    torch.manual_seed(seed)
    return ToyCore()


def run(model, evaluations=6, function=BOWLS, seed=7, **options):
    return rollout(model, function, evaluations, generator=torch_generator(seed), **SHAPE, **options)


def after_draws(evaluations, seed=7):
    """The generator of a rollout when the core's state is drawn: after run times and noise."""
    generator = torch_generator(seed)
    torch.rand(evaluations, generator=generator), torch.randn(3, evaluations, generator=generator)
    return generator


# -- turns


@settings(deadline=None, max_examples=60)
@given(evaluations=st.integers(1, 40), workers=st.integers(1, 9), seed=st.integers(0, 1000))
def test_turns_keep_every_worker_busy_and_end_each_evaluation_once(evaluations, workers, seed):
    turns = make_turns(evaluations, workers, torch_generator(seed))
    ended = [number for turn in turns for number in turn.finished]
    assert len(turns) == evaluations
    assert len(ended) == len(set(ended)) == max(0, evaluations - workers)
    known: set[int] = set()
    for proposal, turn in enumerate(turns):
        known |= set(turn.finished)
        assert known | set(turn.pending) == set(range(proposal))  # each is either ended or still runs
        assert not known & set(turn.pending)
        assert list(turn.pending) == sorted(turn.pending)
        assert len(turn.pending) == min(proposal, workers - 1)


def test_completions_overtake_each_other_but_not_by_much():
    """Run times differ by a factor of three at most, so an evaluation is overtaken by few."""
    turns = make_turns(200, 4, torch_generator(0))
    ended = [number for turn in turns for number in turn.finished]
    assert ended != sorted(ended)
    assert max(abs(number - place) for place, number in enumerate(ended)) <= 3 * 4


def test_one_worker_is_sequential():
    assert [tuple(turn) for turn in make_turns(4, 1, torch_generator(0))] == [
        ((), ()),
        ((0,), ()),
        ((1,), ()),
        ((2,), ()),
    ]


@pytest.mark.parametrize("wrong", [(0, 1), (5, 0)])
def test_no_evaluations_or_workers_are_refused(wrong):
    with pytest.raises(UserError, match="1 or more evaluations and workers"):
        make_turns(*wrong, torch_generator(0))


# -- rollout


def test_one_worker_equals_the_plain_loop():
    """The paper's loop written out: centre, unobserved; then each point with its value."""
    model = core()
    done = run(model)
    state = model.initial_state(3, 2, after_draws(6))
    seen = Observation(torch.full((3, 2), 0.5), torch.zeros(3), torch.zeros(3) > 0, torch.full((3,), 6.0))
    for t in range(6):
        x_BD, state = model.step(seen, state)
        assert torch.equal(x_BD, done.x_BTD[:, t])
        assert torch.equal(BOWLS(x_BD), done.y_BT[:, t])
        seen = Observation(x_BD, BOWLS(x_BD), torch.ones(3) > 0, torch.full((3,), 5.0 - t))
    assert torch.equal(done.y_BT, done.value_BT)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_each_proposal_is_observed_once_in_order_of_completion(workers):
    model, evaluations = core(), 12
    done = run(model, evaluations, workers=workers)
    turns = make_turns(evaluations, workers, torch_generator(7))
    order = [number for turn in turns for number in turn.finished]
    told = [(seen, depth) for seen, depth in model.diary if seen.observed_B.all()]
    assert len(told) == len(order) == evaluations - workers
    for place, (number, (seen, depth)) in enumerate(zip(order, told, strict=True)):
        assert torch.equal(seen.x_BD, done.x_BTD[:, number])
        assert torch.equal(seen.y_B, done.y_BT[:, number])
        # carried on from the state after all that ended before, never from one that saw pending points
        assert depth == place + 1
        assert seen.remaining_B.tolist() == [evaluations - place - 1] * 3


def test_pending_points_are_told_without_their_values_at_their_own_places():
    model, evaluations, workers = core(), 9, 3
    done = run(model, evaluations, workers=workers)
    turns = make_turns(evaluations, workers, torch_generator(7))
    silent = [seen for seen, _ in model.diary if not seen.observed_B.any()]
    assert torch.equal(silent[0].x_BD, torch.full((3, 2), 0.5))
    assert silent[0].remaining_B.tolist() == [evaluations] * 3
    expected = [(proposal, turn, number) for proposal, turn in enumerate(turns) for number in turn.pending]
    assert len(silent) - 1 == len(expected)
    for seen, (proposal, turn, number) in zip(silent[1:], expected, strict=True):
        assert torch.equal(seen.x_BD, done.x_BTD[:, number])
        assert (seen.y_B == 0).all()
        behind = len(turn.pending) - 1 - turn.pending.index(number)
        assert seen.remaining_B.tolist() == [evaluations - proposal + behind] * 3


def test_workers_do_not_propose_the_same_point():
    done = run(core(), 8, workers=4)
    assert len(torch.unique(done.x_BTD[0], dim=0)) == 8


def test_noise_reaches_the_core_alone():
    model = core()
    done = run(model, 5, noise_B=torch.tensor([0.0, 0.1, 10.0]))
    added = (done.y_BT - done.value_BT).detach()
    assert (added[0] == 0).all()
    assert 0 < added[1].abs().mean() < 1 < added[2].abs().mean()
    for t, (seen, _) in enumerate(model.diary[1:]):
        assert torch.equal(seen.y_B, done.y_BT[:, t])
        torch.testing.assert_close(BOWLS(seen.x_BD), done.value_BT[:, t])


@pytest.mark.parametrize("workers", [1, 3])
def test_gradient_through_the_loop_against_finite_differences(workers):
    model, bowls = core().double(), Bowls(BOWLS.centre_BD.double())
    weight = model.head.bias
    slope = grad(run(model, 5, bowls, workers=workers).value_BT.sum(), weight)[0]
    values = []
    for shift in (1e-6, -1e-6):
        with torch.no_grad():
            weight[0] += shift
            values.append(run(model, 5, bowls, workers=workers).value_BT.sum().item())
            weight[0] -= shift
    assert slope[0].item() == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-6)


def test_truncation_cuts_gradients_and_nothing_else():
    model = core()
    whole, cut, each = (run(model, 6, truncation=k) for k in (0, 3, 1))
    assert torch.equal(whole.value_BT, cut.value_BT)
    weights = [grad(done.value_BT.sum(), model.cell.weight_hh)[0] for done in (whole, cut, each)]
    assert all(slope.isfinite().all() and (slope != 0).any() for slope in weights)
    assert not torch.allclose(weights[0], weights[1])
    assert not torch.allclose(weights[1], weights[2])
    # cut after each evaluation: what is left is each step's own gradient
    diary, model.diary = model.diary[-6:], []
    state = model.initial_state(3, 2, after_draws(6))
    expected = torch.zeros_like(weights[2])
    for seen, _ in diary:
        x_BD, state = model.step(Observation(*(part.detach() for part in seen)), detached(state))
        expected += grad(BOWLS(x_BD).sum(), model.cell.weight_hh, retain_graph=True)[0]
    torch.testing.assert_close(weights[2], expected)


def test_gradients_into_proposals_are_limited():
    class Cliffs(Bowls):
        def __call__(self, x_BD):
            return 1e6 * super().__call__(x_BD)

    model = core()
    slopes = {}
    for limit in (0.0, 1.0):
        done = run(model, 6, Cliffs(BOWLS.centre_BD), gradient_limit=limit)
        slopes[limit] = grad(done.value_BT.sum(), model.head.weight)[0].norm().item()
    assert slopes[0.0] > 1e5
    assert slopes[1.0] <= 3 * 6 * math.sqrt(5 + 1)  # 18 proposals, hidden values at most 1
    rows = torch.tensor([[0.0, 0.0], [math.nan, 1.0], [-3.0, 4.0]])
    assert limited(rows, 5.0).tolist() == [[0, 0], [0, 0], [-3, 4]]


# -- losses


def batch(**changes):
    given = {"functions": BOWLS, "evaluations": 6, "seed": 3, **SHAPE, **changes}
    return MetaBatch(**given)


def values(model, one):
    return rollout(
        model, one.functions, one.evaluations, generator=torch_generator(one.seed, "rollout"), **SHAPE
    ).value_BT


def test_losses_and_metrics_by_hand():
    model, one = core(), batch()
    y = values(model, one)
    expected = {
        "sum": y.mean(1),
        "best": y.cummin(1).values.mean(1),
        "oi": y.amin(1),
        "soft": -0.1 * (-y / 0.1).exp().mean(1).log(),
    }
    for loss, per_function in expected.items():
        got, weight, metrics = SamplerObjective(loss)(model, one)
        torch.testing.assert_close(got, per_function.mean())
        assert weight == 3
        torch.testing.assert_close(metrics["value/best"], y.amin(1).mean())
        torch.testing.assert_close(metrics["value/first"], y[:, 0].mean())
        torch.testing.assert_close(metrics["value/mean"], y.mean())
    both = SamplerObjective("oi", first="drop", sum_weight=0.5)(model, one)[0]
    torch.testing.assert_close(both, (y.amin(1) - y[:, 0] + 0.5 * y.mean(1)).mean())


def test_expected_improvement_is_that_of_each_prefix():
    draws = Interpolants(3, 2, 0.3, torch_generator(1))
    model, one = core(), batch(functions=draws, process=draws.process)
    done = rollout(model, draws, 6, generator=torch_generator(3, "rollout"), **SHAPE)
    x, y, total = done.x_BTD.detach(), done.y_BT.detach(), torch.zeros(3)
    for t in range(1, 6):
        mean, deviation = posterior(
            x[:, :t],
            y[:, :t],
            x[:, t : t + 1],
            kernel=squared_exponential,
            lengthscale_BD=torch.full((3, 2), 0.3),
            variance_B=torch.ones(3),
            noise_B=torch.full((3,), 1e-3),
        )
        total -= expected_improvement(mean[:, 0], deviation[:, 0], y[:, :t].amin(1))
    torch.testing.assert_close(SamplerObjective("ei")(model, one)[0], total.mean(), rtol=1e-4, atol=1e-6)


def test_expected_improvement_needs_the_process():
    with pytest.raises(UserError, match=r"loss ei: expected functions of one known Gaussian process"):
        SamplerObjective("ei")(core(), batch())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "regret"}, "loss: expected one of oi, ei, sum, best, soft, got 'regret'"),
        ({"sum_weight": -1.0}, "sum_weight: expected 0 or more, got -1.0"),
        ({"temperature": 0.0}, "temperature: expected a number above 0, got 0"),
        ({"gradient_limit": math.nan}, "gradient_limit: expected 0 or more, got nan"),
    ],
)
def test_wrong_options_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        SamplerObjective(**changes)


@pytest.mark.parametrize("loss", ["oi", "ei"])
def test_the_two_gradient_forms_agree_in_value_alone(loss):
    draws = Interpolants(3, 2, 0.3, torch_generator(1))
    model, one = core(), batch(functions=draws, process=draws.process)
    found = []
    for detach in (True, False):
        value = SamplerObjective(loss, detach_incumbent=detach)(model, one)[0]
        found.append((value.item(), grad(value, model.cell.weight_ih)[0]))
    assert found[0][0] == pytest.approx(found[1][0])
    assert not torch.allclose(found[0][1], found[1][1])


def test_a_batch_is_the_same_each_time_and_moves():
    model, one = core(), batch(workers=3, functions=Bowls(BOWLS.centre_BD, torch.full((3,), 0.1)))
    objective = SamplerObjective()
    first = objective(model, one)[0]
    assert torch.equal(first, objective(model, one.to(torch.device("cpu")))[0])
    assert not torch.equal(first, objective(model, batch(workers=3, seed=4))[0])
    assert one.tokens == 18


@pytest.mark.parametrize("loss", ["oi", "ei", "sum", "best", "soft"])
def test_each_loss_teaches_to_search(loss):
    """Functions of one shape at different places: a trained core beats the untrained one on new functions."""
    torch.manual_seed(0)
    model = ToyCore(1, 16)

    def make(seed):
        draws = Interpolants(64, 1, 0.3, torch_generator(seed))
        return MetaBatch(draws, 64, 1, 5, seed=seed, process=draws.process)

    def best(seed):
        with torch.no_grad():
            return SamplerObjective()(model, make(seed))[2]["value/best"].item()

    before = best(-1)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    objective = SamplerObjective(loss, gradient_limit=1.0)
    for seed in range(80):
        optimizer.zero_grad()
        objective(model, make(seed))[0].backward()
        optimizer.step()
    assert best(-1) < before - 0.2
