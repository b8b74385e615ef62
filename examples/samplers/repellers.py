"""Where should two repellers stand, and how strong, so that falling particles reach a goal? Six numbers, one reward.

    python examples/samplers/repellers.py

The control experiment of the paper (arXiv 1611.03824, after Hoffman et al. 2009): `factotum/worlds/control.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
import tyro
from comparison import OURS, best_so_far, draw_medians, make_samplers, print_medians, save_figure
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from factotum.samplers.replay import DEFAULT_WEIGHTS
from factotum.worlds.control import REPELLERS, Particles

NAMES = ("x1", "y1", "strength1", "x2", "y2", "strength2")


@dataclass(frozen=True)
class Args:
    """Place two repellers by random search, TPE and the learned sampler."""

    trials: int = 100
    """evaluations of each search"""
    seeds: int = 10
    """searches of each sampler"""
    weights: str = DEFAULT_WEIGHTS
    """shipped weights by name, or a folder"""
    output: Path = Path("runs/examples/repellers.png")
    """file of the plot"""
    quick: bool = False
    """a few seconds: 12 trials, 2 seeds"""


def main(args: Args) -> dict[str, np.ndarray]:
    """Search, print the medians, draw the median search; the best rewards so far by sampler."""
    if args.quick:
        args = replace(args, trials=12, seeds=2)
    studies: dict[str, list[optuna.Study]] = {}
    for name, make in make_samplers(args.weights, args.trials).items():
        studies[name] = [search(make(seed), args.trials) for seed in range(args.seeds)]
    curves = {name: np.stack([best_so_far(study) for study in ran]) for name, ran in studies.items()}
    print_medians("discounted reward, higher is better", curves, (20, 50))
    print(f"best known: {-REPELLERS.minimum:.4g}")
    save_figure(lambda figure: draw(figure, studies[OURS], curves), (11, 3.9), args.output)
    return curves


def search(sampler: optuna.samplers.BaseSampler, trials: int) -> optuna.Study:
    """One search for the placement of most reward."""

    def reward(trial: optuna.Trial) -> float:
        x = torch.tensor([trial.suggest_float(name, 0.0, 1.0) for name in NAMES])
        return -float(REPELLERS(x))

    study = optuna.create_study(sampler=sampler, direction="maximize")
    study.optimize(reward, n_trials=trials)
    return study


def draw(figure: Figure, studies: list[optuna.Study], curves: dict[str, np.ndarray]) -> None:
    """The first and the best trial of the search in the middle of ours, and the rewards of all."""
    before, after, rewards = figure.subplots(1, 3, width_ratios=(1, 1, 1.35))
    middle = sorted(studies, key=lambda study: study.best_value)[len(studies) // 2]
    first, best = middle.trials[0], middle.best_trial
    draw_paths(before, first.params, f"first trial: reward {first.value:.1f}")
    draw_paths(after, best.params, f"best of {len(middle.trials)}: reward {best.value:.1f}")
    draw_medians(rewards, curves, label="best discounted reward so far")
    rewards.axhline(-REPELLERS.minimum, color="black", linewidth=0.8, linestyle=":", label="best known")
    rewards.set_title(f"median of {len(studies)} seeds, quartiles")
    rewards.legend(loc="lower right")


def draw_paths(axes: Any, params: dict[str, float], title: str) -> None:
    """Particles and repellers in the plane; a repeller's area is its strength."""
    world = Particles()
    parts_R3 = torch.tensor([params[name] for name in NAMES]).view(2, 3)
    positions_TP2, _ = world.paths(parts_R3[:, :2], world.strength * parts_R3[:, 2])
    paths_TP2 = torch.cat([torch.tensor(world.starts)[None], positions_TP2])
    axes.add_patch(Circle(world.goal, world.width, color="#2f8f6b", alpha=0.15, linewidth=0))
    axes.plot(*world.goal, "*", color="#2f8f6b", markersize=13, label="goal")
    for place, path_T2 in enumerate(paths_TP2.unbind(1)):
        axes.plot(*path_T2.T, color="#2563a8", linewidth=1.3, label="particles" if place == 0 else None)
        axes.plot(*path_T2[0], "o", color="#2563a8", markersize=4)
    places_2R = parts_R3[:, :2].T
    axes.scatter(*places_2R, s=20 + 260 * parts_R3[:, 2], color="#c2476b", alpha=0.75, label="repellers")
    axes.set(xlim=(-0.25, 1.35), ylim=(-0.55, 1.15), aspect="equal", title=title)
    axes.legend(loc="lower left", fontsize=8, markerscale=0.6)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
