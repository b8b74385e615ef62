"""Returns and targets on cases worked out by hand, and against sums written out."""

import pytest
import torch
from torch.nn import functional as F

from factotum.losses.q_learning import huber, lambda_returns, taken, td_target


def column(*values):
    return torch.tensor(values)[:, None]


def test_returns_by_hand():
    """gamma .5, lambda .5, last value 8: 4 + .5*8 = 8; 2 + .5*(.5*6 + .5*8) = 5.5; 1 + .5*(.5*4 + .5*5.5) = 3.375"""
    got = lambda_returns(column(1.0, 2.0, 4.0), torch.full((3, 1), 0.5), column(4.0, 6.0, 8.0), 0.5)
    assert got[:, 0].tolist() == [3.375, 5.5, 8.0]


def test_an_end_cuts_the_future():
    """The episode ends for good at step 1: 2 alone; before it 1 + .5*(.5*4 + .5*2) = 2.5"""
    got = lambda_returns(column(1.0, 2.0, 4.0), column(0.5, 0.0, 0.5), column(4.0, 6.0, 8.0), 0.5)
    assert got[:, 0].tolist() == [2.5, 2.0, 8.0]


def test_a_time_limit_keeps_the_value_and_cuts_what_comes_after():
    """Stopped at step 1: 2 + .5*6 = 5; before it 1 + .5*(.5*4 + .5*5) = 3.25"""
    last = torch.tensor([[False], [True], [False]])
    got = lambda_returns(column(1.0, 2.0, 4.0), torch.full((3, 1), 0.5), column(4.0, 6.0, 8.0), 0.5, last)
    assert got[:, 0].tolist() == [3.25, 5.0, 8.0]


def test_lambda_0_and_1_are_one_step_and_monte_carlo():
    reward, value = torch.randn(5, 3), torch.randn(5, 3)
    discount = torch.rand(5, 3) * (torch.rand(5, 3) < 0.8)
    torch.testing.assert_close(lambda_returns(reward, discount, value, 0.0), reward + discount * value)
    total = value[-1]
    for t in reversed(range(5)):
        total = reward[t] + discount[t] * total
        torch.testing.assert_close(lambda_returns(reward, discount, value, 1.0)[t], total)


def test_returns_are_the_weighted_sum_of_n_step_returns():
    """(1 - l) sum_n l^(n-1) G^(n), the last one with all the weight that is left."""
    T, gamma, lam = 6, 0.9, 0.65
    reward, value = torch.randn(T, 1, dtype=torch.float64), torch.randn(T, 1, dtype=torch.float64)
    got = lambda_returns(reward, torch.full((T, 1), gamma, dtype=torch.float64), value, lam)
    for t in range(T):
        returns = []
        for n in range(1, T - t + 1):
            paid = sum(gamma**k * reward[t + k] for k in range(n))
            returns.append(paid + gamma**n * value[t + n - 1])
        weights = [(1 - lam) * lam**n for n in range(len(returns) - 1)] + [lam ** (len(returns) - 1)]
        torch.testing.assert_close(got[t], sum(w * g for w, g in zip(weights, returns, strict=True)))


def test_columns_are_apart():
    reward, value = torch.randn(4, 3), torch.randn(4, 3)
    discount = torch.full((4, 3), 0.9)
    together = lambda_returns(reward, discount, value, 0.5)
    alone = [
        lambda_returns(reward[:, b : b + 1], discount[:, :1], value[:, b : b + 1], 0.5) for b in range(3)
    ]
    torch.testing.assert_close(together, torch.cat(alone, 1))


def test_target_takes_the_best_action_and_nothing_after_the_end():
    next_q = torch.tensor([[1.0, 5.0, 2.0], [9.0, 0.0, 0.0]])
    got = td_target(torch.tensor([1.0, -1.0]), torch.tensor([0.9, 0.0]), next_q)
    torch.testing.assert_close(got, torch.tensor([5.5, -1.0]))


def test_gradient_of_what_was_taken_reaches_it_alone():
    q = torch.zeros(2, 3, requires_grad=True)
    taken(q, torch.tensor([2, 0])).sum().backward()
    assert q.grad.tolist() == [[0, 0, 1], [1, 0, 0]]


@pytest.mark.parametrize("limit", [0.5, 1.0, 3.0])
def test_huber_is_torchs_and_its_gradient_is_clipped(limit):
    error = torch.linspace(-5, 5, 41, requires_grad=True)
    got = huber(error, limit)
    expected = F.huber_loss(error.detach(), torch.zeros(41), reduction="none", delta=limit)
    torch.testing.assert_close(got, expected)
    got.sum().backward()
    torch.testing.assert_close(error.grad, error.detach().clamp(-limit, limit))
