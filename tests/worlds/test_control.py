"""The particles obey their mechanics, and their score is smooth."""

from dataclasses import replace

import pytest
import torch

from factotum.worlds.control import REPELLERS, Particles
from factotum.worlds.functions import perturb

FREE = Particles(friction=0.0, gravity=(0.3, -1.0))
PLACES = torch.tensor([[0.4, 0.5], [0.7, 0.2]], dtype=torch.float64)


def test_without_repellers_particles_fall_freely():
    positions, velocities = FREE.paths(PLACES, torch.zeros(2).double())
    t = torch.arange(1, FREE.steps + 1, dtype=torch.float64)[:, None, None]
    gravity, start = (torch.tensor(each, dtype=torch.float64) for each in (FREE.gravity, FREE.starts))
    torch.testing.assert_close(velocities, (t * FREE.interval * gravity).expand_as(velocities))
    # the sum 1 + 2 + ... + t of the discrete steps
    torch.testing.assert_close(positions, start + FREE.interval**2 * t * (t + 1) / 2 * gravity)


def test_friction_leads_to_the_terminal_velocity():
    falling = replace(FREE, friction=4.0, steps=400)
    _, velocities = falling.paths(PLACES, torch.zeros(2).double())
    last = velocities[-1]
    torch.testing.assert_close(last, torch.tensor([0.3, -1.0]).double().expand_as(last) / 4)


def energy(particles, strength):
    positions, velocities = particles.paths(PLACES, strength)
    distance = (positions[..., None, :] - PLACES).square().sum(-1) + particles.softness**2
    height = (positions * torch.tensor(particles.gravity).double()).sum(-1)
    total = 0.5 * velocities.square().sum(-1) - height + (strength / distance.sqrt()).sum(-1)
    return (total[1:] - total[:1]).abs().max().item()


def test_energy_is_conserved_the_better_the_finer_the_steps():
    strength = torch.tensor([0.1, 0.05]).double()
    coarse, fine = (
        energy(replace(FREE, interval=1.5 / steps, steps=steps), strength) for steps in (300, 3000)
    )
    assert fine < 0.01
    assert fine < 0.2 * coarse


def test_repellers_push_away_the_more_the_nearer():
    still = Particles(starts=((0.5, 0.5),), gravity=(0.0, 0.0), steps=1, softness=0.0)
    places = torch.tensor([[[0.4, 0.5]] * 2, [[0.3, 0.5]] * 2], dtype=torch.float64)
    _, velocities = still.paths(places, torch.tensor([[0.1, 0.0]] * 2).double())
    push = velocities[:, 0, 0] / still.interval
    torch.testing.assert_close(push, torch.tensor([[0.1 / 0.01, 0.0], [0.1 / 0.04, 0.0]]).double())


def test_a_mirrored_problem_has_mirrored_paths():
    mirror = torch.tensor([-1.0, 1.0]).double()
    strength = torch.tensor([0.1, 0.05]).double()
    there, _ = Particles().paths(PLACES, strength)
    mirrored = replace(Particles(), starts=tuple((-x, y) for x, y in Particles().starts))
    back, _ = mirrored.paths(PLACES * mirror, strength)
    torch.testing.assert_close(back, there * mirror)


def test_repellers_may_change_places():
    x = torch.rand(5, 6, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(REPELLERS(x), REPELLERS(x[:, [3, 4, 5, 0, 1, 2]]))


def test_score_is_discounted_reward():
    resting = Particles(starts=((0.75, 0.3),), gravity=(0.0, 0.0), goal=(0.75, 0.3), steps=3, discount=0.5)
    assert resting.cost(torch.zeros(6)).item() == pytest.approx(-(0.5 + 0.25 + 0.125))
    away = replace(resting, goal=(0.75, 0.3 + resting.width))
    assert away.cost(torch.zeros(6)).item() == pytest.approx(-0.875 * 0.6065306597)


def test_gradients_are_finite_differences():
    x = torch.rand(3, 6, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    assert torch.autograd.gradcheck(REPELLERS.evaluate, x)
    (slope,) = torch.autograd.grad(REPELLERS(x).sum(), x)
    assert (slope != 0).all()


def test_minimum_is_reached_and_random_points_are_poor_but_not_flat():
    values = REPELLERS(REPELLERS.minimisers)
    torch.testing.assert_close(values, torch.full_like(values, REPELLERS.minimum), atol=1e-9, rtol=0)
    x = torch.rand(3000, 6, generator=torch.Generator().manual_seed(0))
    y = REPELLERS(x)
    assert y.min() > REPELLERS.minimum
    assert y.median() > 0.2 * REPELLERS.minimum
    assert (y < -0.05).float().mean() > 0.9


def test_instances_have_a_minimum_of_their_own():
    quick = Particles(steps=20)
    function = replace(REPELLERS, evaluate=quick.cost)
    instance = perturb(function, torch.Generator().manual_seed(0))
    x = torch.rand(5000, 6, generator=torch.Generator().manual_seed(1)).double()
    assert instance.minimum < instance(x).min()
    assert instance(instance.minimisers).item() == pytest.approx(instance.minimum)
    assert abs(instance.minimum - REPELLERS.minimum) > 0.1
