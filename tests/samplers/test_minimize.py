"""scipy's conventions, several workers, and errors before the first evaluation."""

import math
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from scipy.optimize import Bounds, OptimizeResult

from factotum.core.checks import UserError
from factotum.samplers.minimize import minimize
from tests.samplers.recording import RecordingCore
from tests.samplers.untrained import untrained_core

BOX = [(-1.0, 3.0), (0.0, 10.0)]


def bowl(x):
    return float((x[0] - 1) ** 2 + (x[1] - 2) ** 2)


def search(fun=bowl, bounds=BOX, core=None, **options):
    weights = untrained_core() if core is None else core
    return minimize(fun, bounds, **{"maxfun": 20, "seed": 0, "weights": weights, **options})


def test_result():
    result = search()
    assert isinstance(result, OptimizeResult)
    assert result.success
    assert result.message == "20 evaluations made"
    assert (result.nfev, result.nit, result.x_iters.shape) == (20, 20, (20, 2))
    assert result.fun == result.func_vals.min() == bowl(result.x)
    assert [bowl(x) for x in result.x_iters] == result.func_vals.tolist()
    low, high = np.array(BOX).T
    assert ((low <= result.x_iters) & (result.x_iters <= high)).all()
    assert len(np.unique(result.x_iters, axis=0)) == 20


def test_same_seed_same_search():
    first, again, other = search(), search(), search(seed=1)
    assert (first.x_iters == again.x_iters).all()
    assert not (first.x_iters == other.x_iters).all()


@pytest.mark.parametrize(
    "bounds", [Bounds([-1, 0], [3, 10]), np.array(BOX), Bounds(np.array([-1, 0]), [3.0, 10.0])]
)
def test_kinds_of_bounds(bounds):
    assert (search(bounds=bounds).x_iters == search().x_iters).all()


def test_equal_bounds_fix_a_variable():
    core = RecordingCore()
    result = search(lambda x: bowl(x) + x[2], [*BOX, (4.0, 4.0)], core)
    assert (result.x_iters[:, 2] == 4.0).all()
    assert {len(one.x) for one in core.seen} == {2}


def test_start_is_evaluated_first():
    core = RecordingCore()
    result = search(core=core, x0=[0.0, 5.0])
    assert result.x_iters[0].tolist() == [0.0, 5.0]
    assert core.seen[1].x == (0.25, 0.5)


def test_scale_and_offset_change_nothing():
    plain, scaled = search(), search(lambda x: 1024 * bowl(x))
    assert (plain.x_iters == scaled.x_iters).all()
    shifted = search(lambda x: 1e-3 * bowl(x) + 50)
    np.testing.assert_allclose(plain.x_iters, shifted.x_iters, rtol=1e-4)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_no_numbers_count_as_worst(bad):
    core = RecordingCore()
    values = iter([3.0, bad, 1.0, 2.0])
    result = search(lambda x: next(values), core=core, maxfun=4)
    assert core.told == [3.0, 3.0, 1.0]
    assert (result.fun, result.nfev, result.success) == (1.0, 4, True)


def test_no_finite_value_is_no_success():
    result = search(lambda x: math.nan, maxfun=3)
    assert not result.success
    assert result.nfev == 3


def test_workers_run_at_once_and_lose_nothing():
    lock, running, most = threading.Lock(), [0], [0]

    def slow(x):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.002 * (1 + x[0]))
        with lock:
            running[0] -= 1
        return bowl(x)

    result = search(slow, workers=4, maxfun=30)
    assert 2 <= most[0] <= 4
    assert result.nfev == 30
    assert [bowl(x) for x in result.x_iters] == result.func_vals.tolist()
    assert len(np.unique(result.x_iters, axis=0)) == 30


def test_pending_evaluations_are_told_as_such():
    core = RecordingCore()
    gate = threading.Event()
    calls = iter(range(100))

    def fun(x):
        number = next(calls)
        if number == 0:
            assert gate.wait(20)
        if number == 3:
            gate.set()
        return float(number)

    search(fun, core=core, workers=2, maxfun=5)
    kinds = "".join("." if one.y is None else "o" for one in core.seen)
    # start; the second proposal sees the first pending; then results, each followed by what still runs
    assert kinds.startswith("..o.o.")
    assert core.told[:2] == [1.0, 2.0]


def test_processes():
    with ProcessPoolExecutor(2) as executor:
        result = search(bowl, workers=2, executor=executor, maxfun=6)
    assert result.nfev == 6
    assert result.fun == bowl(result.x)


@pytest.mark.parametrize("workers", [1, 3])
def test_what_the_function_raises_comes_out(workers):
    def broken(x):
        raise ZeroDivisionError("here")

    with pytest.raises(ZeroDivisionError, match="here"):
        search(broken, workers=workers)


def test_callback_sees_the_best_and_can_stop():
    seen = []

    def callback(intermediate_result):
        seen.append(intermediate_result)
        if intermediate_result.nfev == 7:
            raise StopIteration

    result = search(callback=callback)
    assert [one.nfev for one in seen] == [1, 2, 3, 4, 5, 6, 7]
    assert (np.diff([one.fun for one in seen]) <= 0).all()
    assert (result.nfev, result.success, result.message) == (7, False, "callback raised StopIteration")
    points = []
    best = search(callback=points.append, maxfun=5)
    assert points[-1].tolist() == best.x.tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bounds": []}, "bounds: expected .low, high. for each variable, at least one, got "),
        ({"bounds": [(3, 1)]}, r"expected finite numbers with low <= high, got \(3.0, 1.0\) for variable 0"),
        ({"bounds": [(0, 1), (0, math.inf)]}, r"got \(0.0, inf\) for variable 1"),
        ({"bounds": [(0, math.nan)]}, r"got \(0.0, nan\)"),
        ({"bounds": [(0, 1, 2)]}, "expected .low, high. for each variable"),
        ({"bounds": "wide"}, "expected .low, high. for each variable, got 'wide'"),
        ({"bounds": [(0, 1)] * 13}, "expected 1 to 12 coordinates, .* got 13"),
        ({"bounds": [(1, 1)]}, "expected 1 to 12 coordinates, .* got 0"),
        ({"maxfun": 0}, "maxfun: expected a whole number of at least 1, got 0"),
        ({"workers": 0}, "workers: expected a whole number of at least 1, got 0"),
        ({"x0": [0.0]}, r"x0: expected 2 numbers, got shape \(1,\)"),
        ({"x0": [0.0, 11.0]}, "x0: expected a number from 0.0 to 10.0 for variable 1, got 11.0"),
        ({"weights": "axail"}, "unknown weights 'axail'"),
    ],
)
def test_bad_arguments_are_told_before_the_first_evaluation(options, message):
    def never(x):
        raise AssertionError("evaluated")

    with pytest.raises(UserError, match=message):
        search(never, **options)


def test_function_that_returns_no_number():
    with pytest.raises(UserError, match="fun: expected one number, got 'low'"):
        search(lambda x: "low")


def test_without_scipy_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(UserError, match=r"scipy is not installed: run  pip install 'factotum\[optuna\]'"):
        search()
