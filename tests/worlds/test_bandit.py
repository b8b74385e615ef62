"""Bandits: noisy, correlated, differentiable, new in each reset, over when the pulls are."""

import pytest
import torch

from factotum.core.checks import UserError
from factotum.core.step import World, interact
from factotum.worlds.bandit import Bandit, arms, regret
from factotum.worlds.search import Observation


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dimensions", [1, 2])
def test_no_arm_is_better_than_the_best(dimensions):
    _, state = Bandit(50, 10, dimensions).reset(seeded())
    anywhere = torch.rand(50, 2000, dimensions, generator=seeded(1))
    lost = regret(state, anywhere)
    assert lost.amin() > -0.02  # the grid is fine
    assert lost.amin(1).max() < 0.1
    grid = arms(dimensions)
    assert regret(state, grid.expand(50, -1, -1)).amin(1).abs().max() < 1e-5


def test_pulls_are_noisy_around_their_arm():
    bandit = Bandit(1, 2000, noise=0.5)
    _, state = bandit.reset(seeded())
    arm = torch.full((1, 1), 0.3)
    pulls = []
    for _ in range(2000):
        observation, state = bandit.step(arm, state)
        pulls.append(observation.y_B.item())
    pulls = torch.tensor(pulls)
    assert pulls.mean().item() == pytest.approx(state.functions(arm).item(), abs=0.05)
    assert pulls.std().item() == pytest.approx(0.5, abs=0.03)


def test_near_arms_pay_alike_and_far_ones_do_not():
    _, state = Bandit(3000, 1).reset(seeded())
    at = torch.tensor([[0.1], [0.15], [0.9]]).expand(3000, -1, -1)
    correlation = torch.corrcoef(state.functions.many(at).T)
    assert correlation[0, 1].item() == pytest.approx(0.969, abs=0.02)  # exp(-.05^2 / (2 * .2^2))
    assert abs(correlation[0, 2].item()) < 0.06


def test_resets_draw_new_bandits_from_the_generator():
    best = [Bandit(4, 3).reset(seeded(seed))[1].best_B for seed in (0, 0, 1)]
    assert torch.equal(best[0], best[1])
    assert (best[0] != best[2]).all()


class Follow:
    """A core that pulls the arm it is told, for the loop's sake."""

    def __init__(self, arm):
        self.arm = arm

    def initial_state(self):
        return None

    def step(self, inputs, state):
        return self.arm, state


def test_a_closed_loop_is_differentiable_in_the_arm():
    bandit, arm = Bandit(2, 6, noise=0.2), torch.full((2, 1), 0.4, requires_grad=True)
    assert isinstance(bandit, World)
    seen = Observation(*interact(Follow(arm), bandit, 6, generator=seeded(), core_state=None)[0])
    assert seen.observed_B.tolist() == [[False] * 2] + [[True] * 2] * 5
    assert seen.remaining_B[:, 0].tolist() == [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]
    (slope,) = torch.autograd.grad(seen.y_B.sum(), arm)
    _, state = bandit.reset(seeded())
    up, down = (state.functions(arm.detach() + step) for step in (1e-3, -1e-3))
    torch.testing.assert_close(slope[:, 0], 5 * (up - down) / 2e-3, atol=0.05, rtol=0.02)


def test_more_pulls_than_agreed_and_wrong_settings_are_refused():
    bandit = Bandit(1, 1)
    _, state = bandit.reset(seeded())
    _, state = bandit.step(torch.zeros(1, 1), state)
    with pytest.raises(UserError, match="at most 1 pulls"):
        bandit.step(torch.zeros(1, 1), state)
    with pytest.raises(UserError, match="arms of 1 or 2 dimensions, got 3"):
        Bandit(1, 1, 3)
    with pytest.raises(UserError, match="noise 0 or more"):
        Bandit(1, 1, noise=-1.0)
