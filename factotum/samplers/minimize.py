"""Who calls it? A function to be minimised and its bounds, by scipy's conventions; Optuna is not needed."""

from __future__ import annotations

import inspect
import math
import random
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from factotum.core.checks import UserError, missing_extra
from factotum.samplers.cube import Axis, Cube, Fixed, Interval, new_point
from factotum.samplers.replay import DEFAULT_WEIGHTS, Replay, Told, core_of

OptimizeResult = Any
"""scipy's, which is not imported here."""


def minimize(
    fun: Callable[[np.ndarray], float],
    bounds: Any,
    *,
    maxfun: int = 100,
    seed: int | None = None,
    workers: int = 1,
    executor: Executor | None = None,
    x0: Sequence[float] | None = None,
    callback: Callable[..., Any] | None = None,
    weights: str | Path | nn.Module = DEFAULT_WEIGHTS,
) -> OptimizeResult:
    r"""$\min_x f(x)$ within bounds in `maxfun` evaluations by a learned rule, no gradients.

    Args:
        fun: of x with shape (D,); NaN and infinity count as the worst value seen.
        bounds: (low, high) of each variable, or scipy's `Bounds`; equal ones fix a variable.
        maxfun: evaluations.
        seed: the same seed, the same result (with one worker).
        workers: evaluations at a time; a new one starts as soon as one ends.
        executor: where they run, such as a `ProcessPoolExecutor`; threads by default.
        x0: evaluated first.
        callback: called after each evaluation with an `OptimizeResult` of the best so far if its argument is
            named `intermediate_result`, else with the best x; stops the search by raising StopIteration.
        weights: name of shipped weights, a folder, or a core.

    Returns:
        scipy's result: x, fun, nfev, nit, success, message; and, in the order in which evaluations ended,
        x_iters (nfev, D) and func_vals (nfev,).

    Raises:
        UserError: no bounds, reversed or infinite ones, more variables than the weights were trained for,
            an x0 outside, unknown weights; all before the first evaluation.
        Exception: what `fun` raises, when the evaluations that still run have ended.

    >>> from factotum.samplers import SamplerConfig, make_core
    >>> core = make_core(SamplerConfig(width=8))
    >>> result = minimize(lambda x: (x**2).sum(), [(-1, 2), (-1, 2)], maxfun=20, seed=0, weights=core)
    >>> result.nfev, result.x.shape, bool(result.fun == result.func_vals.min())
    (20, (2,), True)

    Chen et al., 2017 (arXiv 1611.03824), section 2.3 for several workers.
    """
    for name, number in (("maxfun", maxfun), ("workers", workers)):
        if not isinstance(number, int) or number < 1:
            raise UserError(f"{name}: expected a whole number of at least 1, got {number!r}")
    _result_class()
    cube = Cube(_axes(bounds))
    search = _Search(cube, maxfun, random.SystemRandom().randrange(2**31) if seed is None else seed, weights)
    first = None if x0 is None else _start(x0, cube)
    if executor is not None or workers == 1:
        return _run(fun, search, first, executor, workers, callback)
    with ThreadPoolExecutor(workers) as threads:
        return _run(fun, search, first, threads, workers, callback)


class _Search:
    """What was evaluated, what runs, and what comes next."""

    def __init__(self, cube: Cube, maxfun: int, seed: int, weights: str | Path | nn.Module):
        self.cube, self.maxfun, self.seed = cube, maxfun, seed
        self.replay = Replay(core_of(weights), cube.dimensions, maxfun, seed)
        self.points: list[np.ndarray] = []
        self.values: list[float] = []
        self.running: dict[Future[Any], np.ndarray] = {}
        self.started = 0

    def propose(self) -> np.ndarray:
        pending = [self._cube(x) for x in self.running.values()]
        x, _ = self.replay.propose(
            list(range(len(self.values))), lambda i: Told(self._cube(self.points[i]), self.values[i]), pending
        )
        taken = (self.replay.points, {tuple(place) for place in pending})
        point = new_point(x, self.cube, taken, random.Random(f"{self.seed} {self.started}"))
        return np.array(list(point.values()))

    def _cube(self, x: np.ndarray) -> list[float]:
        return self.cube.to_cube(dict(enumerate(x)))

    def result(self, message: str = "", success: bool = True) -> OptimizeResult:
        result = _result_class()
        func_vals = np.array(self.values)
        usable = np.where(np.isnan(func_vals), np.inf, func_vals)
        best = int(usable.argmin())
        return result(
            x=self.points[best].copy(), fun=self.values[best], nfev=len(func_vals), nit=len(func_vals),
            success=success and bool(np.isfinite(func_vals[best])), message=message,
            x_iters=np.array(self.points), func_vals=func_vals,
        )  # fmt: skip


def _run(
    fun: Callable[[np.ndarray], float],
    search: _Search,
    first: np.ndarray | None,
    executor: Executor | None,
    workers: int,
    callback: Callable[..., Any] | None,
) -> OptimizeResult:
    try:
        while len(search.values) < search.maxfun:
            while len(search.running) < workers and search.started < search.maxfun:
                x = first if first is not None and search.started == 0 else search.propose()
                search.running[_submit(executor, fun, x.copy())] = x
                search.started += 1
            ended, _ = wait(search.running, return_when=FIRST_COMPLETED)
            # dictionaries keep the order of proposals: ties end in it
            for future in [one for one in search.running if one in ended]:
                x = search.running.pop(future)
                search.values.append(_number(future.result()))
                search.points.append(x)
                if _stops(callback, search):
                    return search.result("callback raised StopIteration", success=False)
    finally:
        for future in search.running:
            future.cancel()
    return search.result(f"{search.maxfun} evaluations made")


def _submit(executor: Executor | None, fun: Callable[[np.ndarray], float], x: np.ndarray) -> Future[Any]:
    if executor is not None:
        return executor.submit(fun, x)
    future: Future[Any] = Future()
    future.set_result(fun(x))
    return future


def _number(value: Any) -> float:
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "biuf":
        raise UserError(f"fun: expected one number, got {value!r}")
    return float(array.item())


def _stops(callback: Callable[..., Any] | None, search: _Search) -> bool:
    if callback is None:
        return False
    result = search.result()
    try:
        if set(inspect.signature(callback).parameters) == {"intermediate_result"}:
            callback(intermediate_result=result)
        else:
            callback(result.x)
    except StopIteration:
        return True
    return False


def _axes(bounds: Any) -> dict[int, Axis]:
    if hasattr(bounds, "lb") and hasattr(bounds, "ub"):
        bounds = np.stack(np.broadcast_arrays(bounds.lb, bounds.ub), -1)
    try:
        pairs = np.array(bounds, dtype=float)
    except (ValueError, TypeError) as error:
        raise UserError(f"bounds: expected (low, high) for each variable, got {bounds!r}") from error
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not len(pairs):
        raise UserError(f"bounds: expected (low, high) for each variable, at least one, got {bounds!r}")
    for index, (low, high) in enumerate(pairs.tolist()):
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise UserError(
                f"bounds: expected finite numbers with low <= high, got ({low}, {high}) for variable {index}"
            )
    return {i: Fixed(a) if a == b else Interval(a, b) for i, (a, b) in enumerate(pairs.tolist())}


def _start(x0: Sequence[float], cube: Cube) -> np.ndarray:
    x = np.array(x0, dtype=float)
    if x.shape != (len(cube.axes),):
        raise UserError(f"x0: expected {len(cube.axes)} numbers, got shape {x.shape}")
    for value, (index, axis) in zip(x.tolist(), cube.axes.items(), strict=True):
        low, high = (
            (axis.low, axis.high) if isinstance(axis, Interval) else (axis.decode(()), axis.decode(()))
        )
        if not low <= value <= high:
            raise UserError(f"x0: expected a number from {low} to {high} for variable {index}, got {value}")
    return x


def _result_class() -> type:
    try:
        from scipy.optimize import OptimizeResult
    except ImportError as error:
        raise missing_extra("optuna", "scipy") from error
    return OptimizeResult
