"""Values and gradients by hand: which way they point, what is tempered, what is summed."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Categorical, Normal, kl_divergence

from factotum.core.checks import UserError
from factotum.losses.distillation import (
    action_mse,
    agreement,
    best_action_nll,
    gaussian_kl,
    policy_kl,
    q_value_mse,
    reduce,
)

TOY_STUDENT = [[0.0, 0.0]]
TOY_TEACHER = [[0.05, 0.0]]
"""At temperature 0.01 the teacher's policy is softmax(5, 0): the first action with 1 / (1 + e^-5)."""
SHARP = 1 / (1 + math.exp(-5))

rows = st.lists(st.lists(st.floats(-20, 20, width=32), min_size=4, max_size=4), min_size=1, max_size=5)


def gradient(loss, student):
    student = torch.tensor(student, requires_grad=True)
    loss(student).sum().backward()
    return student.grad


def test_kl_of_two_actions_by_hand():
    loss = policy_kl(torch.tensor(TOY_STUDENT), torch.tensor(TOY_TEACHER), 0.01)
    by_hand = SHARP * math.log(2 * SHARP) + (1 - SHARP) * math.log(2 * (1 - SHARP))
    assert loss.item() == pytest.approx(by_hand, rel=1e-5)


def test_gradient_of_kl_is_student_minus_sharpened_teacher():
    found = gradient(lambda s: policy_kl(s, torch.tensor(TOY_TEACHER), 0.01), TOY_STUDENT)
    expected = torch.tensor([[0.5 - SHARP, 0.5 - (1 - SHARP)]])
    torch.testing.assert_close(found, expected)
    assert found[0, 0] < 0 < found[0, 1], "a step down the gradient makes the teacher's action likelier"


def test_tempering_both_makes_the_gradient_a_hundred_times_larger():
    found = gradient(lambda s: policy_kl(s, torch.tensor(TOY_TEACHER), 0.01, "both"), TOY_STUDENT)
    torch.testing.assert_close(found, 100 * torch.tensor([[0.5 - SHARP, SHARP - 0.5]]), rtol=1e-4, atol=1e-4)


def test_who_is_tempered_decides_what_the_student_becomes():
    teacher = torch.tensor([[1.0, 1.02, 0.98]])
    assert policy_kl(teacher, teacher, 0.01, "both").item() == pytest.approx(0, abs=1e-6)
    assert policy_kl(teacher, teacher, 0.01, "teacher").item() > 0.1
    assert policy_kl(teacher / 0.01, teacher, 0.01, "teacher").item() == pytest.approx(0, abs=1e-6)


def test_kl_sums_over_actions_as_torch_does_with_batchmean_not_mean():
    student, teacher = torch.randn(3, 6), torch.randn(3, 6)
    log_student, policy = student.log_softmax(1), teacher.softmax(1)
    ours = reduce(policy_kl(student, teacher, 1.0), "mean")
    torch.testing.assert_close(ours, F.kl_div(log_student, policy, reduction="batchmean"))
    torch.testing.assert_close(ours / 6, F.kl_div(log_student, policy, reduction="mean"))


@given(rows, rows)
def test_both_directions_are_those_of_torch(student, teacher):
    count = min(len(student), len(teacher))
    student, teacher = torch.tensor(student[:count]), torch.tensor(teacher[:count])
    p, q = Categorical(logits=teacher / 2), Categorical(logits=student)
    forward = policy_kl(student, teacher, 2.0, direction="forward")
    torch.testing.assert_close(forward, kl_divergence(p, q), rtol=1e-4, atol=1e-4)
    reverse = policy_kl(student, teacher, 2.0, direction="reverse")
    torch.testing.assert_close(reverse, kl_divergence(q, p), rtol=1e-4, atol=1e-4)
    assert bool((forward > -1e-5).all())
    assert bool((reverse > -1e-5).all())


def test_gradient_of_reverse_kl_by_hand():
    """d/ds_k sum_a q_a (log q_a - log p_a) = q_k (log q_k - log p_k - KL)."""
    student, teacher = [[0.3, -0.2, 0.5]], torch.tensor([[1.0, 0.0, -1.0]])
    log_q, log_p = torch.tensor(student).log_softmax(1), teacher.log_softmax(1)
    difference = log_q - log_p
    expected = log_q.exp() * (difference - (log_q.exp() * difference).sum())
    torch.testing.assert_close(
        gradient(lambda s: policy_kl(s, teacher, 1.0, direction="reverse"), student), expected
    )


def test_huge_gaps_of_q_values_stay_finite():
    teacher, student = torch.tensor([[1e4, 0.0, -1e4]]), [[0.0, 0.0, 0.0]]
    for direction in ("forward", "reverse"):
        loss = policy_kl(torch.tensor(student), teacher, 0.01, direction=direction)
        slope = gradient(lambda s, d=direction: policy_kl(s, teacher, 0.01, direction=d), student)
        assert bool(loss.isfinite())
        assert bool(slope.isfinite().all())
    assert policy_kl(torch.tensor(student), teacher, 0.01).item() == pytest.approx(math.log(3))


def test_nll_takes_the_teachers_best_action():
    student, teacher = [[0.0, math.log(3.0)], [0.0, 0.0]], torch.tensor([[-2.0, -1.0], [5.0, 4.9]])
    loss = best_action_nll(torch.tensor(student), teacher)
    torch.testing.assert_close(loss, torch.tensor([math.log(4 / 3), math.log(2.0)]))
    found = gradient(lambda s: best_action_nll(s, teacher), student)
    torch.testing.assert_close(found, torch.tensor([[0.25, -0.25], [-0.5, 0.5]]))


def test_mse_is_the_squared_norm_and_pulls_towards_the_teacher():
    student, teacher = [[1.0, 2.0, 3.0]], torch.tensor([[2.0, 2.0, 1.0]])
    assert q_value_mse(torch.tensor(student), teacher).tolist() == [5.0]
    assert gradient(lambda s: q_value_mse(s, teacher), student).tolist() == [[-2.0, 0.0, 4.0]]


@given(rows, rows)
def test_no_loss_is_negative_and_each_is_least_at_the_teacher(student, teacher):
    count = min(len(student), len(teacher))
    student, teacher = torch.tensor(student[:count]), torch.tensor(teacher[:count])
    for loss in (q_value_mse, action_mse, lambda s, t: policy_kl(s, t, 1.0)):
        assert bool((loss(student, teacher) > -1e-5).all())
        assert float(loss(teacher, teacher).abs().max()) < 1e-4
    assert bool((best_action_nll(student, teacher) >= 0).all())


def test_gaussian_kl_is_torchs():
    means, logs = torch.randn(2, 5, 3), torch.randn(2, 5, 3)
    found = gaussian_kl(means[0], logs[0], means[1], logs[1])
    expected = kl_divergence(Normal(means[1], logs[1].exp()), Normal(means[0], logs[0].exp())).sum(1)
    torch.testing.assert_close(found, expected)


def test_gaussian_kl_pulls_mean_and_deviation_towards_the_teacher():
    mean = torch.zeros(1, 1, requires_grad=True)
    log_deviation = torch.zeros(1, 1, requires_grad=True)
    gaussian_kl(mean, log_deviation, torch.ones(1, 1), torch.full((1, 1), 2.0)).sum().backward()
    assert mean.grad.item() == pytest.approx(-1.0)
    # 1 - (e^4 + 1): the student's deviation has to grow
    assert log_deviation.grad.item() == pytest.approx(-math.exp(4.0), rel=1e-5)


def test_a_sum_gives_gradients_of_the_mean_times_the_batch():
    teacher, student = torch.randn(8, 3), torch.randn(8, 3)
    slopes = []
    for how in ("sum", "mean"):
        s = student.clone().requires_grad_()
        reduce(policy_kl(s, teacher), how).backward()
        slopes.append(s.grad)
    torch.testing.assert_close(slopes[0], 8 * slopes[1])


def test_agreement_counts_any_of_the_teachers_best_actions():
    teacher = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [3.0, 2.0, 1.0]])
    student = torch.tensor([[0.0, 9.0, 0.0], [0.0, 0.0, 9.0], [9.0, 0.0, 0.0]])
    assert agreement(student, teacher).tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda x: policy_kl(x, x, 0.0), "temperature: expected a number above 0, got 0.0"),
        (lambda x: policy_kl(x, x, math.nan), "temperature"),
        (lambda x: policy_kl(x, x, tempered="student"), "tempered: expected teacher or both, got 'student'"),
        (lambda x: policy_kl(x, x, direction="both"), "direction: expected forward or reverse, got 'both'"),
        (lambda x: reduce(x[:, 0], "none"), "reduction: expected sum or mean, got 'none'"),
    ],
)
def test_wrong_choices_are_refused(call, said):
    with pytest.raises(UserError, match=said):
        call(torch.zeros(2, 3))
