"""A replay feeds what training fed, keeps nothing that matters, and says what became of odd values."""

import math

import pytest
import torch

from factotum.core.checks import UserError
from factotum.samplers.history import Observation
from factotum.samplers.replay import Replay, Told, core_of
from tests.samplers.recording import RecordingCore
from tests.samplers.untrained import untrained_core


def bowl(x):
    return sum((u - 0.3) ** 2 for u in x)


@torch.inference_mode()
def closed_loop(core, evaluations, dimensions, seed):
    """The plain loop, by hand."""
    state = core.initial_state(1, dimensions, torch.Generator().manual_seed(seed))
    x, y = torch.full((1, dimensions), 0.5), None
    points = []
    for t in range(evaluations):
        told = torch.tensor([0.0 if y is None else y], dtype=torch.float64)
        x, state = core.step(
            Observation(x, told, torch.tensor([y is not None]), torch.tensor([evaluations - t + 0.0])), state
        )
        points.append(x[0].tolist())
        y = bowl(points[-1])
    return points


@pytest.mark.parametrize(
    "sizes", [{"core": "axial"}, {"core": "lstm", "dimensions": 3}, {"core": "acquisition"}]
)
def test_equals_the_plain_loop_and_a_replay_from_nothing(sizes):
    core = untrained_core(**sizes)
    expected = closed_loop(core, 15, 3, seed=4)
    replay, points = Replay(core, 3, 15, 4), []
    for t in range(15):
        keys, read = list(range(t)), lambda i: Told(points[i], bowl(points[i]))
        points.append(replay.propose(keys, read)[0])
        assert Replay(core, 3, 15, 4).propose(keys, read)[0] == points[-1]
    assert points == expected


def test_pending_points_are_seen_and_leave_no_trace():
    core = untrained_core()
    replay = Replay(core, 2, 10, 0)
    read = {0: Told([0.2, 0.4], 1.0), 1: Told([0.9, 0.1], 2.0)}.__getitem__
    alone, _ = replay.propose([0, 1], read)
    beside, filled = replay.propose([0, 1], read, [[0.5, 0.6], [0.7, math.nan]])
    assert alone != beside
    assert filled[0] == [0.5, 0.6]
    assert filled[1][0] == 0.7
    assert 0 <= filled[1][1] <= 1
    assert replay.propose([0, 1], read)[0] == alone
    assert replay.propose([0, 1], read, [[0.5, 0.6], [0.7, math.nan]])[0] == beside


def test_one_step_a_result_and_a_pending_point():
    core = RecordingCore()
    replay = Replay(core, 2, 10, 0)
    replay.propose([0, 1], lambda i: Told([i / 10, 0.5], float(i)), [[0.8, 0.8], [0.9, 0.9]])
    assert [(one.x, one.y, one.remaining, one.step) for one in core.seen] == [
        ((0.5, 0.5), None, 10, 0),
        ((0.0, 0.5), 0.0, 9, 1),
        ((0.1, 0.5), 1.0, 8, 2),
        ((0.8, 0.8), None, 7, 3),
        ((0.9, 0.9), None, 6, 4),
    ]
    del core.seen[:]
    replay.propose([0, 1, 2], lambda i: Told([i / 10, 0.5], float(i)))
    assert [(one.y, one.remaining, one.step) for one in core.seen] == [(2.0, 7, 3)]


def test_goes_back_to_where_the_order_changed():
    core = RecordingCore()
    replay = Replay(core, 1, 10, 0)
    values = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}

    def told(keys):
        del core.seen[:]
        replay.propose(list(keys), lambda i: Told([values[keys[i]] / 10], values[keys[i]]))
        return core.told

    assert told("abd") == [1.0, 2.0, 4.0]
    assert told("abcd") == [3.0, 4.0]
    assert replay.points == {(0.1,), (0.2,), (0.3,), (0.4,)}
    assert told("ab") == []
    assert replay.points == {(0.1,), (0.2,)}
    assert told("ba") == [2.0, 1.0]


@pytest.mark.parametrize(
    ("tolds", "expected"),
    [
        ([5.0, math.nan, 3.0], [5.0, 5.0, 3.0]),
        ([5.0, 7.0, math.inf, 3.0], [5.0, 7.0, 7.0, 3.0]),
        ([5.0, 7.0, -math.inf], [5.0, 7.0, 5.0]),
        ([math.nan, math.inf, 2.0, math.nan], [2.0, 2.0]),
        ([1e308, -1e308], [1e300, -1e300]),
        ([1.0, 2.0, 9.0, math.nan, math.nan, (0.5, True)], [1.0, 2.0, 9.0, 9.0, 9.0, 2.0]),
        ([1.0, 2.0, 9.0, (5.0, True)], [1.0, 2.0, 9.0, 5.0]),
        ([1.0, (math.inf, True), (0.0, True)], [1.0, 1.0, 1.0]),
        ([(4.0, True), 1.0], [4.0, 1.0]),
    ],
)
def test_odd_values(tolds, expected):
    core = RecordingCore()
    pairs = [one if isinstance(one, tuple) else (one, False) for one in tolds]
    Replay(core, 1, 10, 0).propose(list(range(len(pairs))), lambda i: Told([0.1 * i], *pairs[i]))
    assert core.told == expected
    assert len(core.seen) == len(tolds) + 1, "whatever it was told, an evaluation is a step"


def test_enormous_values_give_finite_proposals():
    core = untrained_core()
    values = [1e308, -1e308, math.inf, 1e-308, 0.0, 1e20]
    replay = Replay(core, 3, 10, 0)
    for count in range(len(values) + 1):
        x, _ = replay.propose(list(range(count)), lambda i: Told([0.1 * i] * 3, values[i]))
        assert all(0 <= u <= 1 for u in x)


def test_unknown_coordinates_are_taken_as_proposed_and_nothing_is_no_step():
    core = RecordingCore()
    points = [[0.1, 0.2], [math.nan, 0.3], [math.nan, math.nan], [0.4, math.nan]]
    keys, read = [0, 1, 2, 3], lambda i: Told(points[i], 1.0)
    proposals = [Replay(core, 2, 10, 0).propose(keys[:count], read)[0] for count in (1, 3)]
    core.seen.clear()
    Replay(core, 2, 10, 0).propose(keys, read)
    told = [(one.x, one.remaining) for one in core.seen[1:]]
    assert [left for _, left in told] == [9, 8, 7]
    assert told[0][0] == pytest.approx((0.1, 0.2), abs=1e-5)
    assert told[1][0] == pytest.approx((proposals[0][0], 0.3), abs=1e-5)
    assert told[2][0] == pytest.approx((0.4, proposals[1][1]), abs=1e-5)


@pytest.mark.parametrize(("budget", "first"), [(4, 4), (1000, 6)])
def test_past_the_budget_it_is_counted_anew(budget, first):
    core = RecordingCore(budget=6)
    Replay(core, 1, budget, 0).propose(list(range(13)), lambda i: Told([0.1], 1.0))
    assert [one.remaining for one in core.seen] == [first - i % first for i in range(14)]


def test_no_stall_past_the_budget():
    """The core's answers go on changing, and go on following what it is told."""
    core, points = untrained_core(budget=10), []
    replay = Replay(core, 2, 10, 0)
    for t in range(40):
        points.append(tuple(replay.propose(list(range(t)), lambda i: Told(points[i], bowl(points[i])))[0]))
    assert len(set(points)) == 40


@pytest.mark.parametrize("dimensions", [0, 13])
def test_untrained_dimensions_are_refused(dimensions):
    with pytest.raises(UserError, match=rf"expected 1 to 12 coordinates, .* got {dimensions}"):
        Replay(untrained_core(), dimensions, 10, 0)
    with pytest.raises(UserError, match=r"expected exactly 3 coordinates, .* got 2"):
        Replay(untrained_core(core="lstm", dimensions=3), 2, 10, 0)


def test_unknown_weights_are_named():
    with pytest.raises(UserError, match="unknown weights 'axail'"):
        core_of("axail")
