"""The spread target on cases worked out by hand."""

import math

import pytest
import torch
import torch.nn.functional as F

from factotum.losses.likelihood import token_loss


def test_without_spread_it_is_cross_entropy():
    logits, ids = torch.randn(7, 11), torch.randint(11, (7,))
    torch.testing.assert_close(token_loss(logits, ids), F.cross_entropy(logits, ids, reduction="none"))


def test_spread_by_hand():
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0, 4.0]])
    weights = [math.exp(-0.5 * k * k) for k in (-1, 0, 1)]
    logs = F.log_softmax(logits, -1)[0]
    # id 3 of a range from 2 on: neighbours 2, 3, 4; those three away lie outside
    expected = -sum(w * logs[k] for w, k in zip(weights, (2, 3, 4), strict=True)) / sum(weights)
    got = token_loss(logits, torch.tensor([3]), ordinal_start=2, spread=1.0)
    assert got.item() == pytest.approx(expected.item(), rel=1e-6)


def test_ids_below_the_range_are_not_spread():
    logits, ids = torch.randn(4, 40), torch.tensor([1, 30, 5, 39])
    got = token_loss(logits, ids, ordinal_start=20, spread=2.0)
    plain = F.cross_entropy(logits, ids, reduction="none")
    torch.testing.assert_close(got[[0, 2]], plain[[0, 2]])
    assert (got[[1, 3]] != plain[[1, 3]]).all()


def test_gradient_of_the_spread_target_is_prediction_minus_target():
    logits = torch.zeros(1, 6, requires_grad=True)
    token_loss(logits, torch.tensor([3]), ordinal_start=0, spread=0.5).sum().backward()
    weights = torch.exp(-0.5 * ((torch.arange(6) - 3) / 0.5) ** 2) * (torch.arange(6).sub(3).abs() <= 2)
    torch.testing.assert_close(logits.grad[0], 1 / 6 - weights / weights.sum())


def test_smallest_loss_is_the_spread_targets_entropy():
    ids = torch.tensor([20])
    weights = torch.exp(-0.5 * ((torch.arange(40) - 20) / 2.0) ** 2) * (torch.arange(40).sub(20).abs() <= 6)
    target = weights / weights.sum()
    logits = target.clamp(min=1e-30).log()[None]
    entropy = -(target[target > 0] * target[target > 0].log()).sum()
    assert token_loss(logits, ids, ordinal_start=0, spread=2.0).item() == pytest.approx(
        entropy.item(), rel=1e-4
    )
