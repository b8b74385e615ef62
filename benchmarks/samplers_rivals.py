"""Everything that `benchmarks/samplers.py` plays against each other, behind one small interface: ask, tell, clock.

| rival | what |
|---|---|
| random, tpe, cma | Optuna's RandomSampler, TPESampler, CmaEsSampler as they come |
| gp | Optuna's GPSampler, told that the objective is deterministic |
| ngopt | Nevergrad's NGOpt, told the budget (subprocess) |
| botorch | BoTorch's SingleTaskGP with LogEI, 5 to 10 Sobol points first (subprocess) |
| gp-true | the same with the true, fixed kernel; suite `gp` only, 2 Sobol points first (subprocess) |
| rnn | `factotum.samplers.RNNSampler` in Optuna |
| core | the same weights without Optuna: all problems of one dimension as one batch |

`@told` after rnn, core or ngopt: instead of one run at the full budget, one run for each checkpoint, told that
number of evaluations.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import select
import subprocess
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from samplers_problems import Problem

from factotum.core.checks import UserError

HOSTED = ("random", "tpe", "cma", "gp")
EXTERNAL = ("ngopt", "botorch", "gp-true")
OURS = ("rnn", "core")
RIVALS = HOSTED + EXTERNAL + OURS
TOLD = "@told"


class Player(Protocol):
    """One run of a sampler on one problem."""

    def ask(self) -> np.ndarray:
        """The next point of the unit cube, shape (D,)."""

    def tell(self, y: float) -> None:
        """The value at the point asked for last."""

    def clock(self) -> float:
        """CPU seconds of this run's ask and tell so far, up to a constant."""


def play(player: Player, problem: Problem) -> tuple[list[float], list[float]]:
    """All values of a run, and the CPU seconds of each suggestion (its ask and tell, not the evaluation)."""
    values, seconds = [], []
    for _ in range(problem.budget):
        start = player.clock()
        x = player.ask()
        asked = player.clock()
        y = problem.evaluate(x)
        restart = player.clock()
        player.tell(y)
        values.append(y)
        seconds.append(asked - start + player.clock() - restart)
    return values, seconds


class HostedPlayer:
    """An Optuna sampler, asked through a study in memory."""

    def __init__(self, sampler: Any, problem: Problem) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.simplefilter("ignore")
        self.study = optuna.create_study(sampler=sampler)
        self.problem = problem

    def ask(self) -> np.ndarray:
        """Suggest floats in [0, 1], or the index of an ordinal level."""
        self.trial = self.study.ask()
        levels, dimensions = self.problem.levels, self.problem.dimensions
        if levels:
            index = [self.trial.suggest_int(f"x{d}", 0, count - 1) for d, count in enumerate(levels)]
            return (np.array(index) + 0.5) / levels
        return np.array([self.trial.suggest_float(f"x{d}", 0.0, 1.0) for d in range(dimensions)])

    def tell(self, y: float) -> None:
        """Finish the trial."""
        self.study.tell(self.trial, y)

    def clock(self) -> float:
        """CPU seconds of this process."""
        return time.process_time()


def hosted_sampler(name: str, seed: int) -> Any:
    """Optuna's sampler with its defaults."""
    from optuna import samplers

    return {
        "random": lambda: samplers.RandomSampler(seed=seed),
        "tpe": lambda: samplers.TPESampler(seed=seed),
        "cma": lambda: samplers.CmaEsSampler(seed=seed),
        "gp": lambda: samplers.GPSampler(seed=seed, deterministic_objective=True),
    }[name]()


class Worker:
    """The other environment's process; started anew now and then, because NGOpt leaves threads behind."""

    runs_a_process = 20

    def __init__(self, python: str, patience: float = 900.0) -> None:
        self.python, self.patience, self.runs = python, patience, 0
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Be ready for another run."""
        if self.process is not None and self.runs % self.runs_a_process == 0:
            self.stop()
        if self.process is None:
            script = str(Path(__file__).with_name("samplers_worker.py"))
            log = (Path("/dev") / "null").open("w") if not os.environ.get("RIVALS_DEBUG") else None
            self.process = subprocess.Popen(
                [self.python, script],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        self.runs += 1

    def stop(self) -> None:
        """Kill the process: it holds nothing, and Nevergrad may hang at a polite exit."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send one line and read one line.

        Raises:
            RuntimeError: the process died or was silent for `patience` seconds.
        """
        assert self.process is not None
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], self.patience)
        line = self.process.stdout.readline() if ready else ""
        if not line:
            self.stop()
            raise RuntimeError(
                f"expected an answer from {self.python} within {self.patience:g} s, got none; "
                "RIVALS_DEBUG=1 shows what it prints"
            )
        return json.loads(line)


class ExternalPlayer:
    """A rival that lives in the other environment."""

    def __init__(self, rival: str, worker: Worker, problem: Problem) -> None:
        worker.start()
        self.worker, self.seconds = worker, 0.0
        self.request: dict[str, Any] = {
            "rival": rival,
            "dimensions": problem.dimensions,
            "budget": problem.budget,
            "seed": problem.seed,
            "levels": list(problem.levels),
        }

    def ask(self) -> np.ndarray:
        """Send what is to be told, get the next point."""
        answer = self.worker.answer(self.request)
        self.seconds = answer["cpu"]
        return np.array(answer["x"])

    def tell(self, y: float) -> None:
        """Keep the value until the next point is asked for, so that none is made beyond the budget."""
        self.request = {"y": y}

    def clock(self) -> float:
        """CPU seconds that the other process spent on suggestions."""
        return self.seconds


@cache
def the_worker(python: str) -> Worker:
    """One worker in each process of the benchmark."""
    return Worker(python)


@dataclass(frozen=True)
class Rival:
    """A rival by name, with what it needs to be started.

    Args:
        name: one of RIVALS, maybe with `@told`.
        weights: for rnn and core: a shipped name or a folder; None is the sampler's default.
        python: for the external ones: the other environment's interpreter.
    """

    name: str
    weights: str | None = None
    python: str | None = None

    def __post_init__(self) -> None:
        if self.base not in RIVALS:
            raise UserError(f"unknown rival {self.name!r}: expected one of {', '.join(RIVALS)}")
        if self.base in EXTERNAL and self.python is None:
            raise UserError(f"{self.name} needs --rivals-python PATH; see requirements-samplers.txt")

    @property
    def base(self) -> str:
        """The name without `@told`."""
        return self.name.removesuffix(TOLD)

    @property
    def label(self) -> str:
        """The name in tables and files: ours carry their weights' hash."""
        if self.base not in OURS:
            return self.name
        if self.base == "rnn":
            sampler_class()
        return f"{self.base}-{weights_hash(self.weights)}{self.name[len(self.base) :]}"

    def takes(self, problem: Problem) -> bool:
        """Whether it can be run on this problem."""
        if self.base == "gp-true":
            return problem.suite == "gp"
        if self.base == "core":
            config = our_core(self.weights).config
            if config.any_dimensions:
                return problem.dimensions <= config.dimensions
            return problem.dimensions == config.dimensions
        return True

    def tasks(self, problems: Sequence[Problem]) -> list[Problem]:
        """The runs to be made: one a problem, or for `@told` one for each checkpoint."""
        taken = [problem for problem in problems if self.takes(problem)]
        if not self.name.endswith(TOLD):
            return taken
        return [replace(problem, budget=told) for problem in taken for told in problem.checkpoints]

    def player(self, problem: Problem) -> Player:
        """A fresh run."""
        if self.base in HOSTED:
            return HostedPlayer(hosted_sampler(self.base, problem.seed), problem)
        if self.base in EXTERNAL:
            assert self.python is not None
            return ExternalPlayer(self.base, the_worker(self.python), problem)
        return HostedPlayer(our_sampler(self.weights, problem), problem)


def sampler_class() -> Any:
    """`factotum.samplers.RNNSampler`, which needs Optuna."""
    from factotum.samplers import RNNSampler

    return RNNSampler


def default_weights() -> str:
    """The name that RNNSampler takes when none is given."""
    return inspect.signature(sampler_class().__init__).parameters["weights"].default


@cache
def our_core(weights: str | None) -> Any:
    """The core of a shipped name or of a folder."""
    from factotum.samplers import load_core

    return load_core(weights or default_weights())


@cache
def weights_hash(weights: str | None) -> str:
    """Eight hexadecimal digits of the SHA-256 of configuration and weights."""
    core = our_core(weights)
    digest = hashlib.sha256(repr(core.config).encode())
    for name, tensor in sorted(core.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:8]


def our_sampler(weights: str | None, problem: Problem) -> Any:
    """RNNSampler as a user makes it: it learns the search space from the first trial."""
    return sampler_class()(weights=our_core(weights), n_trials=problem.budget, seed=problem.seed)


def play_batch(core: Any, problems: Sequence[Problem]) -> tuple[list[list[float]], list[float]]:
    """Values of all problems (one dimension, one budget) as one batch, and CPU seconds of each step."""
    import torch

    from factotum.samplers.history import Observation

    batch, dimensions, budget = len(problems), problems[0].dimensions, problems[0].budget
    x = np.full((batch, dimensions), 0.5)
    y, seen = np.zeros(batch), False
    values, seconds = [], []
    with torch.inference_mode():
        state = core.initial_state(batch, dimensions, torch.Generator().manual_seed(problems[0].seed))
        for t in range(budget):
            start = time.process_time()
            observation = Observation(
                torch.as_tensor(x, dtype=torch.float32),
                torch.as_tensor(y),
                torch.full((batch,), seen),
                torch.full((batch,), float(budget - t)),
            )
            proposal, state = core.step(observation, state)
            seconds.append(time.process_time() - start)
            pairs = zip(problems, proposal.double().numpy(), strict=True)
            x = np.stack([problem.snap(point) for problem, point in pairs])
            y = np.array([problem.evaluate(point) for problem, point in zip(problems, x, strict=True)])
            seen = True
            values.append(y)
    return np.array(values).T.tolist(), seconds
