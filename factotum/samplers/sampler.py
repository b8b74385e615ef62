"""Who calls it? Optuna: `optuna.create_study(sampler=RNNSampler(seed=0))`.

The sampler keeps nothing that the study does not: the core's state is a replay of the study's trials, so that
processes on one storage and restarts agree. This is the one module that needs Optuna to be loaded.
"""

from __future__ import annotations

import math
import random
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from factotum.core.checks import UserError, missing_extra
from factotum.samplers.cube import Cube, new_point
from factotum.samplers.memory import Memory, Space
from factotum.samplers.replay import DEFAULT_WEIGHTS, Replay, Told, core_of, fits, trained_dimensions
from factotum.samplers.snap import Snap

try:
    import optuna
except ImportError as error:
    raise missing_extra("optuna", "optuna") from error

from optuna.distributions import BaseDistribution
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

MOST_PENDING = 16
"""Running trials that are fed at most, the newest."""
LOST_AFTER = 32
"""So many later trials have ended: a running one belongs to a worker that died."""
LOST_EMPTY_AFTER = 8
"""The same for a running trial that has not taken any value yet, which takes milliseconds."""
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
RUNNING = TrialState.RUNNING


class RNNSampler(optuna.samplers.BaseSampler):
    r"""Proposes trials by a learned rule: $(h_t, x_t) = RNN_\theta(h_{t-1}, o_{t-1}, x_{t-1}, y_{t-1})$.

    Every finished trial is one step of the core, in the order in which trials ended; trials that still run are
    told as pending (o = 0) at their own points. Values matter by their order and proportions alone: a study of
    a f + b, a > 0, is the same. Trials that failed, were told infinity or break a constraint
    (`trial.set_constraint`) count as the worst value seen; pruned ones as their last intermediate value, but no
    better than the median. The search space is what trials have used so far, conditional parameters included,
    so without `search_space` the first trial is random.

    What the weights were not trained for goes to `fallback`, which a warning says once: more coordinates (a
    number takes one, C unordered choices take C), more finished trials than the trained budget, parameters that
    `search_space` lacks. Past `n_trials` the search goes on, with as many evaluations in view as before.

    Args:
        weights: name of shipped weights, a folder that `factotum meta-train sampler` wrote, or a core.
        n_trials: evaluations planned; the core explores early and refines late.
        seed: of the core's start and of `fallback`; with None every sampler object has its own.
        search_space: distributions by parameter, if they are known beforehand.
        fallback: another sampler; by default Optuna's `TPESampler`, seeded anew for each trial, so that
            processes with the same seed do not repeat each other.

    Raises:
        UserError: unknown weights, a budget below 1, an empty search space.

    >>> from factotum.samplers import SamplerConfig, make_core
    >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
    >>> study = optuna.create_study(sampler=RNNSampler(make_core(SamplerConfig(width=8)), n_trials=5, seed=0))
    >>> study.optimize(lambda trial: trial.suggest_float("x", -1, 1) ** 2, n_trials=5)
    >>> len(study.trials), study.best_value <= 1
    (5, True)

    Chen et al., 2017 (arXiv 1611.03824), sections 2 and 2.3. Differs from the paper: see `docs/samplers.md`.
    """

    def __init__(
        self,
        weights: str | Path | nn.Module = DEFAULT_WEIGHTS,
        *,
        n_trials: int = 100,
        seed: int | None = None,
        search_space: Space | None = None,
        fallback: optuna.samplers.BaseSampler | None = None,
    ) -> None:
        if not isinstance(n_trials, int) or n_trials < 1:
            raise UserError(f"n_trials: expected a whole number of at least 1, got {n_trials!r}")
        if search_space is not None:
            _check_space(search_space)
        self.core: Any = core_of(weights)
        self.n_trials = n_trials
        self.seed = random.SystemRandom().randrange(2**31) if seed is None else seed
        self.search_space = None if search_space is None else dict(sorted(search_space.items()))
        self.fallback = fallback
        self._told: set[str] = set()
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._memories: WeakKeyDictionary[Any, dict[int, Memory]] = WeakKeyDictionary()

    def __getstate__(self) -> dict[str, Any]:
        """All but what a replay restores."""
        return {name: value for name, value in vars(self).items() if name not in ("_lock", "_memories")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The space that `sample_relative` fills: as given, or what finished trials have used."""
        self._raise_error_if_multi_objective(study)
        if self.search_space is not None:
            return dict(self.search_space)
        ended = _ended(study.get_trials(deepcopy=False))
        if len(ended) >= self.core.config.budget:
            return self._other(trial).infer_relative_search_space(study, trial)
        with self._lock:
            memory = self._memory(study)
            finished, keys = memory.in_order(ended)
            memory.union.update(keys, finished)
            if not memory.union.space or self._fits(memory.cube(memory.union.space)):
                return dict(memory.union.space)
            return memory.union.common()

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """$x_t$ as parameters; leaves it to `fallback` where the core was not trained for it."""
        self._raise_error_if_multi_objective(study)
        if not search_space:
            return {}
        trials = study.get_trials(deepcopy=False)
        ended = _ended(trials)
        with self._lock:
            cube = self._memory(study).cube(search_space)
            if self._in_reach(cube, len(ended)):
                return self._propose(study, trial, trials, ended, search_space)
        return self._other(trial).sample_relative(study, trial, search_space)

    def _propose(
        self,
        study: Study,
        trial: FrozenTrial,
        trials: Sequence[FrozenTrial],
        ended: Sequence[FrozenTrial],
        space: Space,
    ) -> dict[str, Any]:
        memory = self._memory(study)
        cube, replay = memory.cube(space), memory.replay(space, self._new_replay)
        finished, keys = memory.in_order(ended)
        sign = -1.0 if study.directions[0] == StudyDirection.MAXIMIZE else 1.0
        running = [cube.to_cube(params) for params in _running(trials, finished, trial)]
        x, guessed = replay.propose(keys, lambda i: _told(finished[i], cube, sign), running)
        taken = {tuple(cube.to_cube(cube.from_cube(place))) for place in guessed}
        taken |= {tuple(place) for place in running}
        return new_point(x, cube, (replay.points, taken), random.Random(f"{self.seed} {trial.number}"))

    def _new_replay(self, dimensions: int, snap: Snap) -> Replay:
        return Replay(self.core, dimensions, self.n_trials, self.seed, snap)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A parameter outside of the relative space, from `fallback`."""
        self._raise_error_if_multi_objective(study)
        if self.search_space is not None and param_name not in self.search_space:
            self._tell(
                "parameter",
                f"search_space lacks {param_name!r} (and maybe others): {self._other_name} samples it",
            )
        return self._other(trial, param_name).sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Passed on to `fallback`."""
        if self.fallback is not None:
            self.fallback.before_trial(study, trial)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Passed on to `fallback`."""
        if self.fallback is not None:
            self.fallback.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        """New random numbers for `fallback`; the core's follow from seed and trials alone."""
        if self.fallback is not None:
            self.fallback.reseed_rng()

    def _other(self, trial: FrozenTrial, name: str = "") -> optuna.samplers.BaseSampler:
        if self.fallback is not None:
            return self.fallback
        draw = random.Random(f"{self.seed} {trial.number} {name}")
        return optuna.samplers.TPESampler(seed=draw.randrange(2**32))

    @property
    def _other_name(self) -> str:
        return "TPESampler" if self.fallback is None else type(self.fallback).__name__

    def _fits(self, cube: Cube) -> bool:
        if fits(self.core, cube.dimensions):
            return True
        if cube.dimensions:
            self._tell(
                "dimensions",
                f"the weights were trained for {trained_dimensions(self.core)} coordinates, the search space has "
                f"{cube.dimensions}: what is beyond is left to {self._other_name}",
            )
        return False

    def _in_reach(self, cube: Cube, finished: int) -> bool:
        if finished >= self.core.config.budget:
            self._tell(
                "budget",
                f"{finished} trials have ended, and the weights were trained for {self.core.config.budget}: "
                f"{self._other_name} proposes from here on",
            )
            return False
        if finished >= self.n_trials:
            self._tell(
                "plan",
                f"n_trials={self.n_trials} trials have ended: the search goes on as if as many were still to come",
            )
        return self._fits(cube)

    def _tell(self, what: str, message: str) -> None:
        """Warn once."""
        if what not in self._told:
            self._told.add(what)
            warnings.warn(f"RNNSampler: {message}", stacklevel=3)

    def _memory(self, study: Study) -> Memory:
        return self._memories.setdefault(study._storage, {}).setdefault(study._study_id, Memory())


def _check_space(space: Space) -> None:
    if not isinstance(space, Mapping) or not space:
        raise UserError(f"search_space: expected distributions by parameter, at least one, got {space!r}")
    Cube.of_space(space)


def _ended(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    return [one for one in trials if one.state in FINISHED]


def _told(trial: FrozenTrial, cube: Cube, sign: float) -> Told:
    """A finished trial as the core is told it; what failed or broke a constraint is infinitely bad."""
    value = trial.values[0] * sign if trial.values else math.inf
    if trial.state == TrialState.FAIL or any(excess > 0 for excess in trial.constraints.values()):
        value = math.inf
    return Told(cube.to_cube(trial.params), value, pruned=trial.state == TrialState.PRUNED)


def _running(
    trials: Sequence[FrozenTrial], finished: Sequence[FrozenTrial], mine: FrozenTrial
) -> list[dict[str, Any]]:
    """Parameters of trials that still run elsewhere, without those whose worker must have died.

    One that has no parameters yet is about to take some: whoever has the higher number minds the other.
    """
    running = [one for one in trials if one.state is RUNNING and one.number != mine.number]
    found = []
    for one in running[-MOST_PENDING:]:
        params = {**one.system_attrs.get("fixed_params", {}), **one.params}
        overtaken = sum(other.number > one.number for other in finished)
        if overtaken < (LOST_AFTER if params else LOST_EMPTY_AFTER) and (params or one.number < mine.number):
            found.append(params)
    return found
