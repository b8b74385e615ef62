"""Nevergrad and BoTorch, asked and told over a pipe: runs in an environment of its own, imports nothing of Factotum.

    /path/to/rivals-env/bin/python benchmarks/samplers_worker.py

Standard input takes JSON lines: first `{"rival", "dimensions", "budget", "seed", "levels"}`, then one `{"y"}` for
every point. Standard output answers each with `{"x", "cpu"}`: the next point in the unit cube and the CPU seconds
spent on suggestions so far.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Generator
from typing import Any

Policy = Generator[list[float], float, None]


def ngopt(dimensions: int, budget: int, seed: int, levels: list[int]) -> Policy:
    """Nevergrad's NGOpt; ordinal coordinates are integers to it."""
    import nevergrad
    import numpy as np

    if levels:
        parts = [nevergrad.p.Scalar(lower=0, upper=count - 1).set_integer_casting() for count in levels]
        parametrization: Any = nevergrad.p.Tuple(*parts)
    else:
        parametrization = nevergrad.p.Array(shape=(dimensions,), lower=0.0, upper=1.0)
    parametrization.random_state = np.random.RandomState(seed)
    optimizer = nevergrad.optimizers.NGOpt(parametrization, budget=budget)
    while True:
        candidate = optimizer.ask()
        if levels:
            point = [(int(i) + 0.5) / count for i, count in zip(candidate.value, levels, strict=True)]
        else:
            point = np.clip(candidate.value, 0.0, 1.0).tolist()
        optimizer.tell(candidate, (yield point))


def botorch_logei(
    dimensions: int, budget: int, seed: int, levels: list[int], lengthscale: float = 0
) -> Policy:
    """BoTorch: SingleTaskGP and LogEI; with a lengthscale, the true and fixed kernel of the suite `gp`."""
    import torch
    from botorch.acquisition import LogExpectedImprovement
    from botorch.optim import optimize_acqf
    from torch.quasirandom import SobolEngine

    torch.set_default_dtype(torch.float64)
    torch.manual_seed(seed)
    bounds = torch.stack([torch.zeros(dimensions), torch.ones(dimensions)])
    starts = 2 if lengthscale else min(10, max(5, 2 * dimensions))
    x = SobolEngine(dimensions, scramble=True, seed=seed).draw(starts, dtype=torch.float64)
    y = torch.empty(0, 1)
    while True:
        if len(y) == len(x):
            model = _fixed(x, -y, lengthscale) if lengthscale else _fitted(x, -y)
            acquisition = LogExpectedImprovement(model, best_f=(-y).max())
            point, _ = optimize_acqf(acquisition, bounds, q=1, num_restarts=8, raw_samples=256)
            x = torch.cat([x, point.detach()])
        x[len(y)] = _snap(x[len(y)], levels)
        value = yield x[len(y)].tolist()
        y = torch.cat([y, torch.tensor([[value]])])


def _fitted(x: Any, y: Any) -> Any:
    from botorch import fit_gpytorch_mll
    from botorch.exceptions.errors import ModelFittingError
    from botorch.models import SingleTaskGP
    from gpytorch.mlls import ExactMarginalLogLikelihood

    model = SingleTaskGP(x, y)
    try:
        fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
    except ModelFittingError as error:  # rare: the last hyper-parameters tried are used
        print(error, file=sys.stderr)
    return model.eval()


def _fixed(x: Any, y: Any, lengthscale: float) -> Any:
    import torch
    from botorch.models import SingleTaskGP
    from gpytorch.kernels import RBFKernel
    from gpytorch.means import ZeroMean

    noise = torch.full_like(y, 1e-6)
    model = SingleTaskGP(
        x, y, noise, covar_module=RBFKernel(), mean_module=ZeroMean(), outcome_transform=None
    )
    model.covar_module.lengthscale = lengthscale
    return model.eval()


def _snap(x: Any, levels: list[int]) -> Any:
    import torch

    if not levels:
        return x
    counts = torch.tensor(levels, dtype=x.dtype)
    return (torch.minimum(torch.floor(x * counts), counts - 1) + 0.5) / counts


def policy(rival: str, **arguments: Any) -> Policy:
    """The named rival's policy: yields points, is sent values."""
    if rival == "ngopt":
        return ngopt(**arguments)
    return botorch_logei(**arguments, lengthscale=0.3 if rival == "gp-true" else 0.0)


def main() -> None:
    """Serve runs until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the libraries print must not reach the pipe
    warnings.simplefilter("ignore")
    playing, cpu = None, 0.0
    for line in sys.stdin:
        request = json.loads(line)
        start = time.process_time()
        if "rival" in request:
            playing, cpu = policy(**request), 0.0
            x = next(playing)
        else:
            assert playing is not None
            x = playing.send(request["y"])
        cpu += time.process_time() - start
        print(json.dumps({"x": x, "cpu": cpu}), file=answers, flush=True)
    os._exit(0)  # Nevergrad's threads can hang at exit


if __name__ == "__main__":
    main()
