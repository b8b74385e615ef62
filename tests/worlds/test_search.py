"""Batches of functions as a world."""

import pytest
import torch

from factotum.core.checks import UserError
from factotum.core.step import World, interact
from factotum.worlds.functions import TEST_FUNCTIONS
from factotum.worlds.gp import draw_functions, paper_prior
from factotum.worlds.search import FunctionWorld, Observation


class Walk:
    """A core that always goes on by the same step."""

    def initial_state(self):
        return None

    def step(self, inputs, state):
        return (inputs.x_BD + 0.05).detach().requires_grad_(), state


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_closed_loop_shows_where_and_what():
    branin = TEST_FUNCTIONS["Branin"]
    world = FunctionWorld(branin, 2, 2, 5)
    assert isinstance(world, World)
    seen, done, _ = interact(Walk(), world, 5, generator=seeded(), core_state=None)
    seen = Observation(*seen)
    assert seen.x_BD[0].tolist() == [[0.5, 0.5]] * 2
    assert seen.observed_B[:, 0].tolist() == [False, True, True, True, True]
    assert seen.remaining_B[:, 1].tolist() == [5.0, 4.0, 3.0, 2.0, 1.0]
    torch.testing.assert_close(seen.x_BD[1:], done[:-1])
    torch.testing.assert_close(seen.y_B[1:], branin(done[:-1]))
    assert seen.y_B.requires_grad


def test_noise_is_drawn_by_the_reset_and_its_size_is_the_functions():
    functions = draw_functions(paper_prior(), 2000, 2, seeded())
    noise = torch.cat([torch.zeros(1000), torch.full((1000,), 0.3)])
    world = FunctionWorld(functions, 2000, 2, 3, noise)
    x = torch.rand(2000, 2, generator=seeded(1))
    _, state = world.reset(seeded(2))
    first, later = world.step(x, state)
    again, _ = world.step(x, state)
    second, _ = world.step(x, later)
    assert torch.equal(first.y_B, again.y_B)
    error = first.y_B - functions(x)
    assert error[:1000].abs().max() == 0
    assert error[1000:].std().item() == pytest.approx(0.3, abs=0.03)
    assert (second.y_B != first.y_B)[1000:].all()


def test_more_evaluations_than_agreed_are_refused():
    world = FunctionWorld(TEST_FUNCTIONS["Branin"], 1, 2, 1)
    _, state = world.reset(seeded())
    _, state = world.step(torch.zeros(1, 2), state)
    with pytest.raises(UserError, match="at most 1 evaluations"):
        world.step(torch.zeros(1, 2), state)
