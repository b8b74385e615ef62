"""What PQN and DQN share: exploration, rectified Adam beside torch's, precision of the head."""

import numpy as np
import pytest
import torch
from torch import nn

from factotum.distill.config import minatar_teacher, mlp
from factotum.distill.model import PolicyNetwork
from factotum.distill.q_learning import Explorer, Updater, q_values, rectification


def test_share_of_drawn_actions():
    explorer = Explorer(0.5, 0.5, fall=0, seed=0)
    chosen = explorer.choose(np.full(40_000, 2), 4, step=0)
    shares = np.bincount(chosen, minlength=4) / 40_000
    np.testing.assert_allclose(shares, [0.125, 0.125, 0.625, 0.125], atol=0.01)


def test_no_exploration_is_greedy_and_the_same_seed_draws_the_same():
    greedy = np.arange(100) % 3
    assert (Explorer(0.0, 0.0, 1, seed=0).choose(greedy, 3, 5) == greedy).all()
    one, other, third = (Explorer(1.0, 1.0, 1, seed=seed).choose(greedy, 3, 0) for seed in (0, 0, 1))
    assert (one == other).all()
    assert (one != third).any()


def test_rectified_adam_is_torchs():
    """From where the factor exists: torch's own, started from the same moments, makes the same updates."""
    torch.manual_seed(0)
    mine, theirs = nn.Linear(5, 3), nn.Linear(5, 3)
    theirs.load_state_dict(mine.state_dict())
    updater = Updater(mine, 1e-2, gradient_clip=1e9)
    optimizer = torch.optim.RAdam(theirs.parameters(), lr=1e-2)
    for update in range(300):
        x = torch.randn(16, 5)
        updater.update((mine(x) - x.sum()).square().mean())
        optimizer.zero_grad()
        (theirs(x) - x.sum()).square().mean().backward()
        optimizer.step()
        if update == 4:  # torch's first five are steps of plain momentum
            theirs.load_state_dict(mine.state_dict())
            for own, other in zip(mine.parameters(), theirs.parameters(), strict=True):
                for name in ("exp_avg", "exp_avg_sq"):
                    optimizer.state[other][name].copy_(updater.optimizer.state[own][name])
    assert rectification(5) == 0.0
    assert rectification(6) > 0.0
    for own, other in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)


def test_gradients_are_clipped_as_a_whole():
    torch.manual_seed(0)
    module = nn.Linear(4, 2)
    updater = Updater(module, 1e-3, gradient_clip=0.5)
    norm = updater.update((1e3 * module(torch.ones(1, 4))).sum())
    assert norm > 100
    clipped = torch.cat([p.grad.flatten() for p in module.parameters()]).norm()
    assert clipped.item() == pytest.approx(0.5, rel=1e-4)


def test_the_updater_is_taken_up():
    torch.manual_seed(0)
    module = nn.Linear(4, 2)
    updater = Updater(module, 1e-2, gradient_clip=10.0)
    batches = torch.randn(20, 8, 4)
    for x in batches[:10]:
        updater.update(module(x).square().mean())
    again = nn.Linear(4, 2)
    again.load_state_dict(module.state_dict())
    second = Updater(again, 1e-2, gradient_clip=10.0)
    second.load({name: tensor.clone() for name, tensor in updater.tensors().items()}, updater.updates)
    for x in batches[10:]:
        updater.update(module(x).square().mean())
        second.update(again(x).square().mean())
    assert torch.equal(module.weight, again.weight)


def test_bf16_leaves_the_head_in_fp32():
    torch.manual_seed(0)
    network = PolicyNetwork(minatar_teacher(4, {"a": 3, "b": 6}))
    x = torch.rand(16, 4, 10, 10) < 0.3
    exact, rounded = network(x, "b"), q_values(network, x, "b", bf16=True)
    assert rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(exact, rounded, rtol=0.05, atol=0.05)
    assert torch.equal(exact, q_values(network, x, "b", bf16=False))
    with torch.no_grad():
        network.heads[1][-1].bias += 300.0  # bfloat16 would round this to even numbers
    shifted = q_values(network, x, "b", bf16=True)
    torch.testing.assert_close(shifted - 300.0, rounded, rtol=0, atol=1e-3)


def test_gradients_of_bf16_reach_all_weights():
    network = PolicyNetwork(mlp(4, (8, 8), 2, layer_norm=True))
    q_values(network, torch.randn(5, 4), None, bf16=True).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
