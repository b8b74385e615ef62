"""What holds for the core that chooses among candidates whatever its weights are, and what it does untrained."""

import pytest
import torch

from factotum.core.checks import UserError
from factotum.core.trees import tree_items
from factotum.samplers.acquisition import AcquisitionCore
from factotum.samplers.config import SamplerConfig
from factotum.samplers.history import Observation, first_observation
from factotum.samplers.model import load_core, save_core


def untrained(candidates=64, dimensions=20):
    torch.manual_seed(0)
    return AcquisitionCore(
        SamplerConfig(core="acquisition", width=8, dimensions=dimensions, candidates=candidates)
    )


def wild(candidates=64, seed=0):
    """Weights so large that all that is told matters."""
    core = untrained(candidates)
    torch.manual_seed(seed)
    for name, parameter in core.named_parameters():
        if not name.startswith("prior"):
            torch.nn.init.normal_(parameter, std=0.3)
    return core


def start(core, batch_size=2, dimensions=3, seed=0, snap=None):
    return core.initial_state(batch_size, dimensions, torch.Generator().manual_seed(seed), snap)


def told(x_BD, y_B, observed=True, left=20.0):
    count = len(x_BD)
    return Observation(x_BD, y_B, torch.full((count,), observed), torch.full((count,), left))


def follow(core, state, points_TBD, function):
    """The state after the first step and all points but the last, and what is told last."""
    _, B, D = points_TBD.shape
    _, state = core.step(first_observation(B, D, 30.0), state)
    for x_BD in points_TBD[:-1]:
        _, state = core.step(told(x_BD, function(x_BD)), state)
    return told(points_TBD[-1], function(points_TBD[-1])), state


def search(core, function, evaluations, *, batch_size=2, dimensions=3, seed=0, snap=None):
    """Closed loop: points x_TBD and values y_TB."""
    state, observation = start(core, batch_size, dimensions, seed, snap), None
    xs, ys = [], []
    for t in range(evaluations):
        observation = observation or first_observation(batch_size, dimensions, float(evaluations))
        x_BD, state = core.step(observation, state)
        xs.append(x_BD)
        ys.append(function(x_BD))
        observation = told(x_BD, ys[-1], left=float(evaluations - t - 1))
    return torch.stack(xs), torch.stack(ys)


def bowl(x_BD):
    return (x_BD.double() - torch.linspace(0.2, 0.7, x_BD.shape[1])).square().sum(1)


def whole_bowl(x_BD):
    """Values that are whole numbers, so that rescaling by powers of two rounds nothing."""
    return (1e4 * bowl(x_BD)).round()


def random_points(T, B=2, D=3, seed=3):
    return torch.rand(T, B, D, generator=torch.Generator().manual_seed(seed))


# -- what is told


@torch.no_grad()
@pytest.mark.parametrize("make", [untrained, wild])
@pytest.mark.parametrize(("a", "b"), [(1.0, -7.0), (1024.0, 0.0), (1024.0, 1024.0), (2.0**-10, 3.0)])
def test_rescaled_functions_get_the_same_proposals_bit_by_bit(make, a, b):
    core = make()
    plain_TBD, _ = search(core, whole_bowl, 12)
    assert torch.equal(plain_TBD, search(core, lambda x: a * whole_bowl(x) + b, 12)[0])
    assert not torch.allclose(plain_TBD[3:], search(core, lambda x: -whole_bowl(x), 12)[0][3:], atol=1e-2)


@torch.no_grad()
@pytest.mark.parametrize(("a", "b"), [(1e-3, 0.0), (1e3, 1e3), (3.0, -5.0)])
def test_rescaled_functions_get_the_same_proposals_but_for_rounding(a, b):
    core, points_TBD = wild(), random_points(12, B=6)
    plain, other = (
        core.step(*follow(core, start(core, 6), points_TBD, function))
        for function in (bowl, lambda x: a * bowl(x) + b)
    )
    torch.testing.assert_close(plain[0], other[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(plain[1].log_lengthscale_BD, other[1].log_lengthscale_BD, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_proposals_follow_values_budget_and_pending_points():
    core = wild()
    last, state = follow(core, start(core), random_points(6), bowl)
    score_BC = core.consider(last, state)[0].score_BC
    for other in (
        last._replace(y_B=last.y_B - 1.0),
        last._replace(x_BD=1 - last.x_BD),
        last._replace(remaining_B=torch.full((2,), 1.0)),
        last._replace(observed_B=last.observed_B ^ True),
    ):
        assert not torch.allclose(score_BC, core.consider(other, state)[0].score_BC, atol=1e-2)
    pending = last._replace(observed_B=last.observed_B ^ True)
    without_value = pending._replace(y_B=torch.full((2,), torch.nan))
    assert torch.equal(core.step(pending, state)[0], core.step(without_value, state)[0])


@torch.no_grad()
def test_workers_spread():
    """A point that still runs is not proposed again, nor its neighbourhood where nothing is left to learn."""
    core = untrained()
    last, state = follow(core, start(core, 1, 2), random_points(8, B=1, D=2), bowl)
    x_BD, state = core.step(last, state)
    running = [x_BD]
    for _ in range(5):
        x_BD, state = core.step(told(x_BD, torch.zeros(1), observed=False), state)
        assert min(float((x_BD - other).norm()) for other in running) > 1e-3
        running.append(x_BD)


@torch.no_grad()
def test_step_leaves_the_old_state_as_it_was():
    core = wild()
    last, state = follow(core, start(core), random_points(5), bowl)
    before = {
        path: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf for path, leaf in tree_items(state)
    }
    first = core.step(last, state)
    core.step(last._replace(observed_B=last.observed_B ^ True), state)
    core.consider(last, state)
    second = core.step(last, state)
    assert torch.equal(first[0], second[0])
    for path, leaf in tree_items(state):
        assert torch.equal(leaf, before[path]) if isinstance(leaf, torch.Tensor) else leaf == before[path]
    assert torch.equal(first[1].log_lengthscale_BD, second[1].log_lengthscale_BD)


@torch.no_grad()
def test_rows_of_a_batch_do_not_mix():
    core, points_TBD = wild(), random_points(8, B=3)
    x_BD, _ = core.step(*follow(core, start(core, 3), points_TBD, bowl))
    others_TBD = torch.cat([points_TBD[:, :1], 1 - points_TBD[:, 1:]], 1)
    other_BD, _ = core.step(*follow(core, start(core, 3), others_TBD, bowl))
    torch.testing.assert_close(x_BD[0], other_BD[0])
    assert not torch.allclose(x_BD[1:], other_BD[1:], atol=1e-3)


@torch.no_grad()
def test_the_generator_alone_decides():
    core = untrained()
    first, _ = search(core, bowl, 8, seed=1)
    torch.manual_seed(7)
    again, _ = search(core, bowl, 8, seed=1)
    other, _ = search(core, bowl, 8, seed=2)
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-3)
    assert not torch.allclose(first[:, 0], first[:, 1], atol=1e-3)


@torch.no_grad()
def test_without_gradients_the_same_is_proposed():
    """A fast path for use must not be another function: single searches, with and without running points."""
    core = wild()
    for points_TBD in (random_points(1, B=1), random_points(9, B=1), random_points(30, B=1, D=7)):
        last, state = follow(core, start(core, 1, points_TBD.shape[2]), points_TBD, bowl)
        for observed in (True, False):
            observation = last._replace(observed_B=torch.tensor([observed]))
            plain = core.step(observation, state)
            with torch.inference_mode():
                fast = core.step(observation, state)
            with torch.enable_grad():
                slow = core.step(observation, state)
            for other in (fast, slow):
                torch.testing.assert_close(plain[0], other[0], atol=1e-6, rtol=0)
                torch.testing.assert_close(
                    plain[1].log_lengthscale_BD, other[1].log_lengthscale_BD.detach(), atol=1e-6, rtol=1e-6
                )


@torch.no_grad()
def test_step_takes_the_highest_score_of_what_is_considered():
    core = wild()
    for T in (1, 7):
        last, state = follow(core, start(core), random_points(T), bowl)
        x_BD, after = core.step(last, state)
        choice, considered = core.consider(last, state)
        chosen_BD = choice.candidates_BCD[torch.arange(2), choice.score_BC.argmax(1)]
        torch.testing.assert_close(chosen_BD.float(), x_BD)
        torch.testing.assert_close(after.log_lengthscale_BD, considered.log_lengthscale_BD)
        assert choice.candidates_BCD.min() >= 0
        assert choice.candidates_BCD.max() <= 1


def test_nothing_is_considered_before_the_first_value():
    core = untrained()
    choice, state = core.consider(first_observation(2, 3, 10.0), start(core))
    assert choice is None
    choice, _ = core.consider(told(torch.rand(2, 3), torch.zeros(2), observed=False), state)
    assert choice is None


# -- what can be evaluated


def grid(steps):
    return lambda x: (x * steps).round() / steps


@torch.no_grad()
def test_proposals_are_on_the_grid_and_new_until_nothing_is_left():
    core = untrained(candidates=300)  # so many that each cell gets some
    x_TBD, _ = search(core, whole_bowl, 14, batch_size=3, dimensions=2, snap=grid(2))
    torch.testing.assert_close(x_TBD, grid(2)(x_TBD))
    for b in range(3):
        seen = [tuple(x.tolist()) for x in x_TBD[:, b]]
        assert len(set(seen[:9])) == 9
        assert set(seen[9:]) <= set(seen[:9])


@torch.no_grad()
def test_running_points_of_a_grid_are_not_proposed_again():
    core, snap = untrained(), grid(3)
    state = start(core, 1, 1, snap=snap)
    x_BD, state = core.step(first_observation(1, 1, 9.0), state)
    x_BD, state = core.step(told(x_BD, bowl(x_BD)), state)
    seen = {float(x_BD)}
    for _ in range(2):
        x_BD, state = core.step(told(x_BD, torch.zeros(1), observed=False), state)
        seen.add(float(x_BD))
    assert len(seen) == 3


# -- extremes


@torch.no_grad()
@pytest.mark.parametrize("make", [untrained, wild])
@pytest.mark.parametrize(
    "function",
    [
        lambda x: 0 * x.double().sum(1) + 3,
        lambda x: (4 * x[:, 0].double()).round(),
        lambda x: (-700 * x[:, 0].double()).exp(),
        lambda x: 1e300 * (x[:, 0].double() - 0.5),
        lambda x: torch.where(x[:, 0] > 0.3, 1e300, x[:, 0].double()),
    ],
)
@pytest.mark.parametrize("dimensions", [1, 20])
def test_odd_values_do_no_harm(make, function, dimensions):
    x_TBD, _ = search(make(32), function, 10, dimensions=dimensions)
    assert x_TBD.isfinite().all()
    assert x_TBD.min() >= 0
    assert x_TBD.max() <= 1


@torch.no_grad()
def test_long_searches_and_repeated_points():
    core = wild(32)
    points_TBD = random_points(20).repeat(10, 1, 1)
    noise = torch.randn(200, 2, generator=torch.Generator().manual_seed(0)).double()
    state = start(core)
    _, state = core.step(first_observation(2, 3, 200.0), state)
    for x_BD, noise_B in zip(points_TBD, noise, strict=True):
        x, state = core.step(told(x_BD, bowl(x_BD) + 0.1 * noise_B), state)
        assert x.isfinite().all()
        assert state.log_lengthscale_BD.isfinite().all()
        assert state.log_noise_B.isfinite().all()
    assert state.x_BND.shape[1] == 200


@pytest.mark.parametrize("dimensions", [0, 21])
def test_other_numbers_of_dimensions_are_refused(dimensions):
    with pytest.raises(UserError, match=f"made for 1 to 20, got {dimensions}"):
        start(untrained(), dimensions=dimensions)


# -- gradients


@pytest.mark.parametrize(
    "function", [bowl, lambda x: 0 * x.double().sum(1) + 3, lambda x: (2 * x[:, 0].double()).round()]
)
@pytest.mark.parametrize("repeat", [False, True])
@pytest.mark.parametrize("T", [1, 2, 12])
def test_gradients_are_finite(function, repeat, T):
    core, points_TBD = wild(), random_points(T)
    if repeat:
        points_TBD = points_TBD[:1].expand(T, -1, -1)
    last, state = follow(core, start(core), points_TBD, function)
    choice, after = core.consider(last, state)
    choice, _ = core.consider(last, after)
    loss = (choice.score_BC / 100).softmax(1)[:, 0].sum() + choice.posterior.mean_BVC.square().mean()
    (loss + choice.posterior.share_BC.log().mean()).backward()
    for name, parameter in core.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_every_weight_is_trained():
    core = wild()
    last, state = follow(core, start(core), random_points(5), bowl)
    choice, after = core.consider(last, state)
    last = told(random_points(1, seed=8)[0], torch.tensor([0.1, 0.2]))
    choice, _ = core.consider(last, after)
    choice.score_BC.log_softmax(1)[:, 3].sum().backward()
    for name, parameter in core.named_parameters():
        assert parameter.grad is not None, name
        # a constant in all scores changes no choice
        assert name == "output.bias" or parameter.grad.any(), name


# -- what it does before training


@torch.no_grad()
@pytest.mark.parametrize("dimensions", [1, 2, 6])
def test_an_untrained_core_finds_the_bottom_of_a_bowl(dimensions):
    _, y_TB = search(untrained(), bowl, 30, batch_size=8, dimensions=dimensions)
    random_TB = bowl(random_points(30, 8 * 50, dimensions).flatten(0, 1)).view(30, -1)
    assert y_TB.amin(0).median() < 0.05 * random_TB.amin(0).median()


@torch.no_grad()
def test_lengthscales_learn_what_does_not_matter():
    core, state = untrained(), start(untrained(), 4, 2)
    _, state = core.step(first_observation(4, 2, 30.0), state)
    for x_BD in random_points(30, 4, 2):
        _, state = core.step(told(x_BD, (6 * x_BD[:, 0].double()).sin()), state)
    relevant_B, irrelevant_B = state.log_lengthscale_BD.unbind(1)
    assert (irrelevant_B > relevant_B + 1.0).all()


@torch.no_grad()
def test_noise_is_learnt():
    core = untrained()
    noise = torch.randn(40, 2, generator=torch.Generator().manual_seed(0)).double()
    levels = []
    for size in (0.0, 0.5):
        state = start(core, 2, 1)
        _, state = core.step(first_observation(2, 1, 30.0), state)
        for x_BD, noise_B in zip(random_points(40, 2, 1), noise, strict=True):
            _, state = core.step(told(x_BD, (6 * x_BD[:, 0].double()).sin() + size * noise_B), state)
        levels.append(state.log_noise_B)
    assert (levels[1] > levels[0] + 3.0).all()


@torch.no_grad()
def test_saved_and_loaded_it_is_the_same(tmp_path):
    core = wild()
    save_core(core, tmp_path)
    loaded = load_core(tmp_path)
    assert torch.equal(search(core, bowl, 5)[0], search(loaded, bowl, 5)[0])
