"""Features of values: known answers, no scale, nothing from points without a value, gradients that stay finite."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from factotum.samplers.history import (
    FEATURES,
    SMALLEST,
    Observation,
    first_observation,
    initial_history,
    observe,
)

RANK, STALE, EXCESS, IMPROVEMENT = range(4)
MAGNITUDES = slice(4, 9)


def told(y_B, observed=True, x_BD=None):
    """An observation of one step for values given as a list or a tensor."""
    y_B = torch.as_tensor(y_B)
    B = len(y_B)
    x_BD = torch.full((B, 2), 0.25) if x_BD is None else x_BD
    observed_B = torch.as_tensor([observed] * B if isinstance(observed, bool) else observed)
    return Observation(x_BD, y_B, observed_B, torch.ones(B))


def features_of(values, history=None, dtype=torch.float64):
    """Features after each value of one function, None for a point without a value; and the history."""
    history = history or initial_history(1, 2)
    seen = []
    for value in values:
        y_B = torch.tensor([math.nan if value is None else value], dtype=dtype)
        features_BF, history = observe(told(y_B, value is not None), history)
        seen.append(features_BF[0])
    return torch.stack(seen), history


def magnitude(ratio):
    return 1 + math.log(ratio + SMALLEST) / -math.log(SMALLEST)


def test_known_answers():
    features, history = features_of([5.0, 1.0, 3.0, 9.0, 0.0])
    rank, excess, improvement = features[:, RANK], features[:, EXCESS], features[:, IMPROVEMENT]
    assert rank.tolist() == pytest.approx([0, -1, 0, 1, -1])
    # units: none, 5 - 1, 3 - 1, 5 - 1, 3 - 0
    assert excess.tolist() == pytest.approx([0, 0, math.log(2), math.log(3), 0])
    assert improvement.tolist() == pytest.approx([0, math.log(2), 0, 0, math.log(4 / 3)])
    assert features[:, STALE].tolist() == pytest.approx([0, 0, math.log(2) / 5, math.log(3) / 5, 0])
    assert features[-1, MAGNITUDES].tolist() == pytest.approx(
        [magnitude(r) for r in (0, 1 / 3, 1, 1 / 3, 3)], abs=1e-6
    )
    assert history.sorted_BT.tolist() == [[0, 1, 3, 5, 9]]
    assert (history.count_B1.item(), history.best_B1.item()) == (5, 0)
    assert features.shape == (5, FEATURES)


def test_magnitudes_tell_small_improvements_apart():
    start = [3.0, 1.0, 2.0, 0.0]
    small, tiny = (features_of([*start, -step])[0][-1] for step in (1e-3, 1e-5))
    assert small[5] - tiny[5] == pytest.approx(math.log(100) / -math.log(SMALLEST), abs=2e-3)


def test_best_point_is_where_the_least_value_was_seen_first():
    history = initial_history(1, 1)
    for x, y, observed in ((0.1, 2.0, True), (0.2, 1.0, True), (0.3, 1.0, True), (0.4, 0.0, False)):
        _, history = observe(told([y], observed, torch.tensor([[x]])), history)
    assert history.best_x_BD.item() == pytest.approx(0.2)


numbers = st.integers(-1000, 1000)


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(st.one_of(numbers, st.none()), min_size=1, max_size=30), a=st.integers(1, 1000), b=numbers
)
def test_rescaling_without_rounding_changes_no_bit(values, a, b):
    scaled = [None if value is None else a * value + b for value in values]
    assert torch.equal(features_of(values)[0], features_of(scaled)[0])
    assert features_of(values)[0].isfinite().all()


@pytest.mark.parametrize("a", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("b", [0.0, -7.3, 1e3])
def test_rescaling_with_rounding_changes_nothing_that_matters(a, b):
    torch.manual_seed(0)
    values = torch.cat([torch.randn(60), 0.1 * torch.randn(40).exp(), torch.zeros(5)]).double().tolist()
    plain, scaled = features_of(values)[0], features_of([a * value + b for value in values])[0]
    assert torch.equal(plain[:, [RANK, STALE]][:100], scaled[:, [RANK, STALE]][:100])
    torch.testing.assert_close(plain, scaled, atol=1e-5, rtol=0)
    mirrored = features_of([-value for value in values])[0]
    assert not torch.allclose(plain, mirrored, atol=1e-2)


@pytest.mark.parametrize("a", [2.0**-10, 2.0**10])
def test_rescaling_by_a_power_of_two_changes_no_bit_in_single_precision(a):
    values = torch.randn(50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(
        features_of(values.tolist(), dtype=torch.float32)[0],
        features_of((a * values).tolist(), dtype=torch.float32)[0],
    )


@pytest.mark.parametrize("values", [[3.0], [3.0] * 2, [0.0] * 9, [-1e30] * 5])
def test_one_value_or_equal_values_say_nothing(values):
    features, _ = features_of(values, dtype=torch.float32)
    assert not features[:, [RANK, EXCESS, IMPROVEMENT]].any()
    assert features.isfinite().all()


@pytest.mark.parametrize("values", [[1e300, -1e300, 0.0], [0.0, 5e-324, 1e-310], [1.0, 1e30, 1.0, 1.0]])
def test_extreme_values_give_finite_features(values):
    assert features_of(values)[0].isfinite().all()


def test_more_than_half_equal_values_still_have_a_unit():
    features, _ = features_of([0.0] * 9 + [1.0, 2.0**-10])
    assert features[-1, EXCESS].item() == pytest.approx(math.log(2))


def test_points_without_a_value_change_nothing():
    values = [3.0, 1.0, 2.0, 0.5, 4.0]
    plain, history = features_of(values)
    mixed, with_pending = features_of([None, 3.0, None, None, 1.0, 2.0, 0.5, None, 4.0, None])
    assert not mixed[[0, 2, 3, 7, 9]].any()
    assert torch.equal(mixed[[1, 4, 5, 6, 8]], plain)
    assert torch.equal(with_pending.best_x_BD, history.best_x_BD)
    for name in ("count_B1", "best_B1", "stale_B1"):
        assert torch.equal(getattr(with_pending, name), getattr(history, name))


def test_rows_of_a_batch_do_not_mix():
    torch.manual_seed(0)
    y_TB, observed_TB = torch.randn(20, 3), torch.rand(20, 3) < 0.7
    history, together = initial_history(3, 2), []
    for y_B, observed_B in zip(y_TB, observed_TB, strict=True):
        features_BF, history = observe(told(y_B, observed_B), history)
        together.append(features_BF)
    for b in range(3):
        values = [float(y) if seen else None for y, seen in zip(y_TB[:, b], observed_TB[:, b], strict=True)]
        alone, _ = features_of(values, dtype=torch.float32)
        torch.testing.assert_close(torch.stack(together)[:, b], alone, atol=1e-6, rtol=0)


def test_the_history_before_stays_as_it_was():
    _, history = features_of([3.0, 1.0, 2.0])
    before = [part.clone() for part in history]
    first, _ = features_of([0.0], history)
    features_of([7.0, None], history)
    assert torch.equal(features_of([0.0], history)[0], first)
    assert all(torch.equal(a, b) for a, b in zip(history, before, strict=True))


def test_gradients_of_excess_and_improvement():
    """d log(1 + r / u) = 1 / (u + r), the unit held; magnitudes and ranks send nothing back."""
    y_B3 = torch.tensor([[5.0, 1.0, 3.0]], requires_grad=True)
    history = initial_history(1, 2)
    for y_B in y_B3.unbind(1):
        features_BF, history = observe(told(y_B), history)
    (gradient,) = torch.autograd.grad(features_BF[0, EXCESS], y_B3, retain_graph=True)
    torch.testing.assert_close(gradient, torch.tensor([[0.0, -0.25, 0.25]]))
    (gradient,) = torch.autograd.grad(features_BF[0, [RANK, STALE]].sum() + features_BF[0, 4:].sum(), y_B3)
    assert not gradient.any()


@pytest.mark.parametrize(
    "values",
    [
        [2.0],
        [2.0] * 6,
        [1.0, 2.0, 1.0, 2.0],
        [0.0, 1e-30, 0.0],
        [1.0, 1.0, 1.0, 1.0 + 1e-7],
        [1e30, -1e30, 0.0],
    ],
)
def test_gradients_are_finite(values):
    y_T = torch.tensor(values, requires_grad=True)
    history, total = initial_history(1, 2), torch.zeros(())
    features_BF, history = observe(first_observation(1, 2, 9.0), history)
    for y in y_T:
        features_BF, history = observe(told(y[None]), history)
        pending = told(torch.full((1,), math.nan, requires_grad=True), False)
        total = total + features_BF.sum() + observe(pending, history)[0].sum()
    (gradient,) = torch.autograd.grad(total + history.best_B1.sum(), y_T)
    assert gradient.isfinite().all()
    pending = told(torch.zeros(1, requires_grad=True), False)
    features_BF, _ = observe(pending, initial_history(1, 2))
    assert not torch.autograd.grad(features_BF.sum(), pending.y_B)[0].any()


def test_training_after_use_shares_nothing_made_without_gradient():
    with torch.inference_mode():
        features_of([1.0, 2.0, 0.5])
    y_B = torch.tensor([1.0], requires_grad=True)
    _, history = observe(told([0.5]), initial_history(1, 2))
    features_BF, history = observe(told([2.0]), history)
    features_BF, _ = observe(told(y_B), history)
    assert torch.autograd.grad(features_BF.sum(), y_B)[0].any()
