"""Which experiments to run next for the best yield? A simulated batch reactor: six inputs, one of them a solvent.

    python examples/samplers/experimental_design.py

A reagent makes the product, the product decays (A -> P -> waste). Experiments are run in plates: a whole plate is asked
for before any of its results is told, so that each proposal must mind the others that are still pending.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import tyro
from comparison import COLOUR, OURS, draw_medians, make_samplers, print_medians, save_figure
from matplotlib.figure import Figure
from scipy.optimize import differential_evolution

from factotum.core.seeding import numpy_generator
from factotum.samplers.replay import DEFAULT_WEIGHTS

SOLVENTS = {"water": (0.35, 0.7), "ethanol": (0.8, 0.75), "acetonitrile": (1.0, 0.9), "toluene": (0.6, 1.6)}
"""How much faster each makes the reaction, and the decay."""

RANGES: dict[str, tuple[float, float]] = {
    "temperature": (20.0, 120.0),
    "minutes": (5.0, 300.0),
    "acidity": (3.0, 10.0),
    "equivalents": (1.0, 3.0),
    "catalyst": (0.1, 10.0),
}
"""Degrees Celsius, minutes, pH, equivalents of the reagent, mol % of catalyst."""
LOGARITHMIC = ("minutes", "catalyst")


@dataclass(frozen=True)
class Args:
    """Plan experiments by random design, Sobol design, TPE and the learned sampler."""

    plates: int = 10
    """rounds of experiments"""
    plate: int = 4
    """experiments of a round, run at the same time"""
    noise: float = 1.5
    """standard deviation of a measured yield, percentage points"""
    seeds: int = 10
    """campaigns of each sampler"""
    weights: str = DEFAULT_WEIGHTS
    """shipped weights by name, or a folder"""
    output: Path = Path("runs/examples/experimental_design.png")
    """file of the plot"""
    quick: bool = False
    """a few seconds: 3 plates, 2 seeds"""


def main(args: Args) -> dict[str, np.ndarray]:
    """Run the campaigns, print and draw the true yields of the best measured experiments, by sampler."""
    if args.quick:
        args = replace(args, plates=3, seeds=2)
    samplers = make_samplers(args.weights, args.plates * args.plate)
    samplers["Sobol design"] = sobol_design
    studies = {
        name: [campaign(make(s), args, s) for s in range(args.seeds)] for name, make in samplers.items()
    }
    curves = {name: np.stack([chosen_yield(study) for study in ran]) for name, ran in studies.items()}
    best = best_possible()
    print_medians("true yield of the best measured experiment, %", curves, (12, 20))
    print(f"best possible: {best:.1f} %")
    save_figure(lambda figure: draw(figure, studies[OURS], curves, best), (10, 4), args.output)
    return curves


def sobol_design(seed: int) -> optuna.samplers.BaseSampler:
    """Evenly spread, whatever the results; the solvent is drawn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.QMCSampler(scramble=True, seed=seed, warn_independent_sampling=False)


def true_yield(p: dict[str, Any]) -> float:
    r"""$100\, \frac{k_1}{k_2 - k_1} (e^{-k_1 t} - e^{-k_2 t})$ %, less what excess reagent costs in purification."""
    faster, decay = SOLVENTS[p["solvent"]]
    warmth = 1 / 350 - 1 / (p["temperature"] + 273.15)
    near = np.exp(-(((p["acidity"] - 7.2) / 1.8) ** 2))
    k1 = 0.02 * faster * np.exp(6_000 * warmth) * near * p["catalyst"] ** 0.6 * p["equivalents"] ** 0.7
    k2 = 0.002 * decay * np.exp(9_500 * warmth) * (1 + 0.15 * p["catalyst"]) * (1.2 - 0.4 * near)
    made = k1 / (k2 - k1) * (np.exp(-k1 * p["minutes"]) - np.exp(-k2 * p["minutes"]))
    return float(100 * made * (1 - 0.05 * (p["equivalents"] - 1) ** 2))


def propose(trial: optuna.Trial) -> dict[str, Any]:
    """The inputs of an experiment."""
    numbers = {
        name: trial.suggest_float(name, low, high, log=name in LOGARITHMIC)
        for name, (low, high) in RANGES.items()
    }
    return {**numbers, "solvent": trial.suggest_categorical("solvent", list(SOLVENTS))}


def campaign(sampler: optuna.samplers.BaseSampler, args: Args, seed: int) -> optuna.Study:
    """All plates: ask for one, run it, tell its results."""
    noise = numpy_generator(seed, "assay")
    study = optuna.create_study(sampler=sampler, direction="maximize")
    for _ in range(args.plates):
        plate = [study.ask() for _ in range(args.plate)]
        inputs = [propose(trial) for trial in plate]
        for trial, one in zip(plate, inputs, strict=True):
            study.tell(trial, true_yield(one) + args.noise * noise.standard_normal())
    return study


def chosen_yield(study: optuna.Study) -> np.ndarray:
    """After each experiment, what the best measured one so far truly yields."""
    measured = np.array([trial.value for trial in study.trials], dtype=float)
    true = np.array([true_yield(trial.params) for trial in study.trials])
    return true[[int(measured[: n + 1].argmax()) for n in range(len(measured))]]


def best_possible() -> float:
    """The highest true yield of any input."""
    scaled = [tuple(np.log(ends)) if name in LOGARITHMIC else ends for name, ends in RANGES.items()]

    def loss(x: np.ndarray, solvent: str) -> float:
        numbers = {n: np.exp(v) if n in LOGARITHMIC else v for n, v in zip(RANGES, x, strict=True)}
        return -true_yield({**numbers, "solvent": solvent})

    found = [
        differential_evolution(loss, scaled, args=(s,), seed=0, maxiter=60, popsize=10) for s in SOLVENTS
    ]
    return -min(float(one.fun) for one in found)


def draw(figure: Figure, studies: list[optuna.Study], curves: dict[str, np.ndarray], best: float) -> None:
    """The campaign in the middle of ours on a slice through its best experiment, and the yields of all."""
    slice_, yields = figure.subplots(1, 2, width_ratios=(1, 1.15))
    middle = sorted(studies, key=lambda study: chosen_yield(study)[-1])[len(studies) // 2]
    params = middle.best_params
    warm, long = np.linspace(*RANGES["temperature"], 60), np.geomspace(*RANGES["minutes"], 60)
    surface = [[true_yield({**params, "temperature": a, "minutes": b}) for a in warm] for b in long]
    filled = slice_.contourf(warm, long, surface, levels=np.arange(0, 101, 10), cmap="Greens", alpha=0.8)
    figure.colorbar(filled, ax=slice_, label="true yield, %")
    slice_.grid(visible=False)
    places = [(trial.params["temperature"], trial.params["minutes"]) for trial in middle.trials]
    slice_.plot(*zip(*places, strict=True), "o", color=COLOUR[OURS], markersize=4, markeredgecolor="white")
    slice_.plot(params["temperature"], params["minutes"], "*", color="#c2476b", markersize=14, clip_on=False)
    slice_.set(yscale="log", xlabel="temperature, °C", ylabel="minutes")
    slice_.set_title(f"{OURS}: slice through its best of {len(places)}, in {params['solvent']}")
    draw_medians(yields, curves, label="true yield of the best measured, %", every="experiment")
    yields.axhline(best, color="black", linewidth=0.8, linestyle=":", label="best possible")
    yields.set_ylim(top=100)
    yields.set_title(f"median of {len(studies)} seeds, quartiles")
    yields.legend(loc="lower right")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
