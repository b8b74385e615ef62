"""Six hyper-parameters of a small residual network on scanned digits, one worker or five that finish in any order.

    python examples/samplers/tune_residual_network.py                # one trial at a time
    python examples/samplers/tune_residual_network.py --workers 1 5  # and five at a time, in threads

The paper's last experiment (arXiv 1611.03824) in small: seconds a trial. With five workers a proposal is made while
four trials still run; the sampler is told where they are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
import torch.nn.functional as F
import tyro
from comparison import COLOUR, best_so_far, draw_medians, make_samplers, print_medians, save_figure
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn

from factotum.core.seeding import torch_generator
from factotum.samplers.replay import DEFAULT_WEIGHTS


@dataclass(frozen=True)
class Args:
    """Tune a residual network by random search, TPE and the learned sampler."""

    trials: int = 50
    """trainings of each study"""
    seeds: int = 3
    """studies of each sampler"""
    workers: tuple[int, ...] = (1,)
    """trials at a time; several numbers are compared"""
    epochs: int = 4
    """of each training"""
    weights: str = DEFAULT_WEIGHTS
    """shipped weights by name, or a folder"""
    output: Path = Path("runs/examples/tune_residual_network.png")
    """file of the plot"""
    quick: bool = False
    """a few seconds: 4 trainings of one epoch, 1 seed"""


Studies = dict[tuple[str, int], list[optuna.Study]]
"""By sampler and number of workers."""
DASHES = ("-", "--", ":")


def main(args: Args) -> Studies:
    """Run the studies, print and draw their errors."""
    if args.quick:
        args = replace(args, trials=4, seeds=1, epochs=1)
    torch.set_num_threads(1)  # the workers share the cores
    digits = Digits()
    studies: Studies = {}
    for name, make in make_samplers(args.weights, args.trials).items():
        for workers in args.workers:
            studies[name, workers] = [tune(make(seed), args, workers, digits) for seed in range(args.seeds)]
    for workers in args.workers:
        print_medians(f"validation error, {workers} at a time", curves(studies, workers), (10, 20))
    best = min((one for ran in studies.values() for one in ran), key=lambda study: study.best_value)
    print(f"best of all: {best.best_value:.4f} with {best.best_params}")
    save_figure(lambda figure: draw(figure, args, studies), (10, 3.9), args.output)
    return studies


class Digits:
    """8 x 8 pictures: 1,000 to train on, 797 to validate on."""

    def __init__(self) -> None:
        pictures, names = load_digits(return_X_y=True)
        order = np.random.default_rng(0).permutation(len(names))
        x, y = torch.tensor(pictures[order]).float().view(-1, 1, 8, 8) / 16, torch.tensor(names[order])
        self.x, self.y, self.x_held_out, self.y_held_out = x[:1000], y[:1000], x[1000:], y[1000:]


class Block(nn.Module):
    """Two convolutions beside a plain path."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.first_norm, self.second_norm = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise, rectify, convolve, twice; add."""
        change = self.first(F.relu(self.first_norm(x)))
        return x + self.second(F.relu(self.second_norm(change)))


class ResidualNetwork(nn.Sequential):
    """A convolution, blocks, the mean over the picture, ten classes."""

    def __init__(self, width: int, blocks: int, generator: torch.Generator) -> None:
        stem = nn.Conv2d(1, width, 3, padding=1)
        top = [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)]
        super().__init__(stem, *(Block(width) for _ in range(blocks)), *top)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


def validation_error(params: dict[str, Any], epochs: int, digits: Digits) -> float:
    """Train and validate; NaN where training blew up. Threads share no random numbers."""
    generator = torch_generator(0, "network")
    network = ResidualNetwork(params["width"], params["blocks"], generator)
    updates = epochs * -(-len(digits.y) // params["batch_size"])
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=params["learning_rate"],
        momentum=params["momentum"],
        weight_decay=params["weight_decay"],
        nesterov=True,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, params["learning_rate"], total_steps=updates)
    for _ in range(epochs):
        for rows in torch.randperm(len(digits.y), generator=generator).split(params["batch_size"]):
            loss = F.cross_entropy(network(digits.x[rows]), digits.y[rows])
            if not bool(loss.isfinite()):
                return float("nan")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        answers = network.eval()(digits.x_held_out).argmax(1)
    return (answers != digits.y_held_out).double().mean().item()


def tune(sampler: optuna.samplers.BaseSampler, args: Args, workers: int, digits: Digits) -> optuna.Study:
    """One study; a trial whose training blew up fails, and the study goes on."""

    def objective(trial: optuna.Trial) -> float:
        params = {
            "learning_rate": trial.suggest_float("learning_rate", 1e-4, 3.0, log=True),
            "momentum": trial.suggest_float("momentum", 0.5, 0.99),
            "weight_decay": trial.suggest_float("weight_decay", 1e-6, 1e-1, log=True),
            "batch_size": trial.suggest_int("batch_size", 16, 256, log=True),
            "width": trial.suggest_int("width", 4, 24, step=4),
            "blocks": trial.suggest_int("blocks", 1, 4),
        }
        return validation_error(params, args.epochs, digits)

    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, n_trials=args.trials, n_jobs=workers)
    return study


def curves(studies: Studies, workers: int) -> dict[str, np.ndarray]:
    """Best error so far, by sampler; 1 before any training succeeded."""
    return {
        name: np.stack([np.minimum(best_so_far(study), 1.0) for study in ran])
        for (name, n), ran in studies.items()
        if n == workers
    }


def draw(figure: Figure, args: Args, studies: Studies) -> None:
    """Errors by trial, a panel a number of workers, and by the time since the start."""
    *by_trial, by_time = figure.subplots(1, len(args.workers) + 1, sharey=True)
    for axes, workers in zip(by_trial, args.workers, strict=True):
        label = "best validation error so far" if axes is by_trial[0] else ""
        draw_medians(axes, curves(studies, workers), label=label, every="trial")
        axes.set_title(f"{'one' if workers == 1 else workers} at a time, median of {args.seeds} seeds")
    for (name, workers), ran in studies.items():
        style = {"color": COLOUR[name], "linestyle": DASHES[args.workers.index(workers) % len(DASHES)]}
        for study in ran:
            by_time.step(seconds(study), best_so_far(study), where="post", linewidth=1.1, **style)
    by_time.set(xlabel="seconds since the start", title="every study", yscale="log", ylim=(None, 1.0))
    by_trial[0].legend(loc="lower left", fontsize=8)
    if len(args.workers) > 1:
        for workers, dashes in zip(args.workers, DASHES, strict=False):
            by_time.plot([], [], color="black", linewidth=1.1, linestyle=dashes, label=f"{workers} at a time")
        by_time.legend(loc="upper right", fontsize=8)


def seconds(study: optuna.Study) -> list[float]:
    """Since the start of the study, when each trial ended."""
    start = min(t.datetime_start for t in study.trials if t.datetime_start)
    return sorted((t.datetime_complete - start).total_seconds() for t in study.trials if t.datetime_complete)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
