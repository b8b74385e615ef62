"""Which arm to pull next, when near arms pay alike and every pull is noisy? A bandit with a continuum of arms.

    python examples/samplers/bandit.py

The bare core searches all bandits side by side, one step a pull; Optuna's samplers have a study for each. All meet the
same bandits with the same noise (`factotum/worlds/bandit.py`). GP-UCB is told what no other is: kernel and noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import optuna
import torch
import tyro
from comparison import COLOUR, OURS, MakeSampler, draw_medians, make_samplers, print_medians, save_figure
from matplotlib.figure import Figure
from torch import Tensor

from factotum.core.gaussian_process import posterior, squared_exponential
from factotum.core.seeding import torch_generator
from factotum.samplers import load_core
from factotum.samplers.history import Observation
from factotum.samplers.replay import DEFAULT_WEIGHTS
from factotum.worlds.bandit import Bandit, BanditState, arms, regret

Player = Callable[[Observation], Tensor]
"""From what the last pull paid to the next arms, x_BD."""


@dataclass(frozen=True)
class Args:
    """Pull arms by random search, TPE, GP-UCB and the learned core."""

    pulls: int = 50
    """of each bandit"""
    bandits: int = 40
    """drawn from the Gaussian process"""
    noise: float = 0.3
    """standard deviation of a pull; arms have 1"""
    seed: int = 0
    """of bandits, noise and players"""
    weights: str = DEFAULT_WEIGHTS
    """shipped weights by name, or a folder"""
    output: Path = Path("runs/examples/bandit.png")
    """file of the plot"""
    quick: bool = False
    """a few seconds: 10 pulls of 3 bandits"""


def main(args: Args) -> dict[str, np.ndarray]:
    """Play, print and draw regrets; the regret of each pull by player."""
    if args.quick:
        args = replace(args, pulls=10, bandits=3)
    bandit = Bandit(args.bandits, args.pulls, noise=args.noise)
    players: dict[str, Player] = {"GP-UCB, true kernel": UpperConfidence(bandit)}
    for name, make in make_samplers(args.weights, args.pulls).items():
        players[name] = Learned(args.weights, bandit, args.seed) if name == OURS else Hosted(make, bandit)
    played = {name: play(bandit, player, args.seed) for name, player in players.items()}
    regrets = {name: regret(state, x_BTD).numpy() for name, (state, x_BTD) in played.items()}
    mean = {name: rows.cumsum(1) / np.arange(1, args.pulls + 1) for name, rows in regrets.items()}
    best = {name: np.minimum.accumulate(rows, 1) for name, rows in regrets.items()}
    print_medians("mean regret of all pulls", mean, (10, 20), over="bandits")
    print_medians("regret of the best arm pulled", best, (10, 20), over="bandits")
    save_figure(lambda figure: draw(figure, mean, best, played[OURS]), (11, 3.6), args.output)
    return regrets


def play(bandit: Bandit, player: Player, seed: int) -> tuple[BanditState, Tensor]:
    """All pulls of all bandits: the last state, and the arms x_BTD."""
    told, state = bandit.reset(torch_generator(seed, "bandit"))
    pulled = []
    for _ in range(bandit.pulls):
        x_BD = player(Observation(*told))
        told, state = bandit.step(x_BD, state)
        pulled.append(x_BD)
    return state, torch.stack(pulled, 1)


class Learned:
    """The core: a step function with carried state, alternating with the world."""

    def __init__(self, weights: str, bandit: Bandit, seed: int) -> None:
        self.core = load_core(weights)
        generator = torch_generator(seed, "core")
        self.state = self.core.initial_state(bandit.batch_size, bandit.dimensions, generator)

    def __call__(self, told: Observation) -> Tensor:
        """One step."""
        x_BD, self.state = self.core.step(told, self.state)  # type: ignore[arg-type]
        return x_BD


class Hosted:
    """One of Optuna's samplers: a study for each bandit, asked and told in turn."""

    def __init__(self, make: MakeSampler, bandit: Bandit) -> None:
        self.studies = [optuna.create_study(sampler=make(place)) for place in range(bandit.batch_size)]
        self.trials: list[optuna.Trial] = []

    def __call__(self, told: Observation) -> Tensor:
        """Tell each study its result, ask it for the next arm."""
        for study, trial, y in zip(self.studies, self.trials, told.y_B.tolist(), strict=False):
            study.tell(trial, y)
        self.trials = [study.ask() for study in self.studies]
        return torch.tensor([[trial.suggest_float("arm", 0.0, 1.0)] for trial in self.trials])


class UpperConfidence:
    """The arm of least $\\mu - 2 s$ under the Gaussian process that the bandits are drawn from."""

    def __init__(self, bandit: Bandit) -> None:
        B = bandit.batch_size
        self.process = {
            "lengthscale_BD": torch.full((B, bandit.dimensions), bandit.lengthscale),
            "variance_B": torch.ones(B),
            "noise_B": torch.full((B,), max(bandit.noise, 1e-2)),
        }
        self.arms_BMD = arms(bandit.dimensions).expand(B, -1, -1)
        self.x_BTD, self.y_BT = self.arms_BMD[:, :0], torch.zeros(B, 0)

    def __call__(self, told: Observation) -> Tensor:
        """The next arm of each bandit; the first is the one in the middle."""
        if not told.observed_B.all():
            return told.x_BD
        self.x_BTD = torch.cat([self.x_BTD, told.x_BD[:, None]], 1)
        self.y_BT = torch.cat([self.y_BT, told.y_B[:, None]], 1)
        mean_BM, deviation_BM = posterior(
            self.x_BTD, self.y_BT, self.arms_BMD, kernel=squared_exponential, **self.process
        )
        choice_B = (mean_BM - 2 * deviation_BM).argmin(1)
        return self.arms_BMD[torch.arange(len(choice_B)), choice_B]


def draw(
    figure: Figure,
    mean: dict[str, np.ndarray],
    best: dict[str, np.ndarray],
    ours: tuple[BanditState, Tensor],
) -> None:
    """One bandit with our pulls; what pulls cost on average; the best arm found."""
    one, left, right = figure.subplots(1, 3)
    state, x_BTD = ours
    grid = arms(1)
    one.plot(grid, state.functions[:1].many(grid[None])[0], color="black", linewidth=1, label="cost")
    at = x_BTD[:1]
    paid = state.functions[:1].many(at)[0] + state.noise_BT[0]
    dots = one.scatter(at[0, :, 0], paid, c=np.arange(1, len(paid) + 1), cmap="Blues", s=16, zorder=3)
    dots.set_edgecolor(COLOUR[OURS])
    dots.set_linewidth(0.5)
    one.set(xlabel="arm", ylabel="cost", title=f"the first bandit, pulls of {OURS}")
    figure.colorbar(dots, ax=one, label="pull")
    draw_medians(left, mean, label="mean regret of all pulls so far", every="pull")
    draw_medians(right, best, label="regret of the best arm so far", every="pull")
    left.set_title(f"median of {len(state.best_B)} bandits, quartiles")
    left.set_ylim(bottom=0)
    right.set_yscale("log")
    right.set_ylim(bottom=1e-5)
    right.legend(fontsize=8)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
