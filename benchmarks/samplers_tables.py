"""The tables of `benchmarks/samplers.py`, and what was asked of our sampler beside what was measured.

Ranks (suite bbob): within each function and instance by regret, ties averaged, regrets below 1e-8 counting as equal;
then averaged over the instances of a function that all ranked rivals have runs on, then over functions. Only rivals
that have a run of each function of a dimension are ranked, `@told` variants and other weights than the judged ones
are not. The gap (suite gp) is to the best value that any method read here found on that draw.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import samplers_results as results
from rich import box
from rich.console import Console
from rich.table import Table
from samplers_problems import FUNCTIONS, SUITES
from samplers_rivals import OURS, TOLD
from scipy.stats import rankdata

from factotum.core.checks import UserError
from factotum.core.files import read_json

Place = tuple[str, int]  # problem, instance
CHECKPOINTS = (20, 50, 100)
FLOOR = 1e-8


@dataclass
class Suite:
    """All runs of one suite: rival -> (problem, instance) -> budget told -> the best regret over evaluations."""

    name: str
    runs: dict[str, dict[Place, dict[int, np.ndarray]]]

    def places(self, problem: str) -> list[Place]:
        """The instances of a problem (or of all whose name starts so) that any rival has a run on."""
        return sorted({p for found in self.runs.values() for p in found if p[0].startswith(problem)})

    def problems(self) -> list[str]:
        """Names of the problems; of bbob and gp the dimensions."""
        names = {place[0].partition("/")[0] for found in self.runs.values() for place in found}
        return sorted(names, key=lambda n: (FUNCTIONS.index(n) if n in FUNCTIONS else len(n), n))

    def complete(self, rival: str, problem: str) -> bool:
        """Whether the rival has a run wherever anyone has."""
        places = self.places(problem)
        return bool(places) and all(place in self.runs.get(rival, {}) for place in places)

    def at(self, rival: str, place: Place, evaluations: int) -> float:
        """The regret after so many evaluations; of the run that was told this number, where there is one."""
        budgets = self.runs[rival][place]
        return float(budgets.get(evaluations, budgets[max(budgets)])[evaluations - 1])

    def regrets(self, rival: str, problem: str, evaluations: int) -> np.ndarray:
        """Regrets on the instances of a problem that the rival has runs on."""
        there = [place for place in self.places(problem) if place in self.runs.get(rival, {})]
        return np.array([self.at(rival, place, evaluations) for place in there])


def collect(folders: Sequence[Path], name: str) -> Suite:
    """Read a suite; of the suite gp, values become gaps to the best value found by any method."""
    runs: dict[str, dict[Place, dict[int, np.ndarray]]] = {}
    for folder in folders:
        for rival in results.rivals(folder, name):
            for (problem, instance, budget), row in results.load(folder, name, rival).items():
                place = runs.setdefault(rival, {}).setdefault((problem, instance), {})
                place[budget] = results.trajectory(row)
    suite = Suite(name, runs)
    if name == "gp":
        _to_gaps(suite)
    return suite


def _to_gaps(suite: Suite) -> None:
    best: dict[Place, float] = {}
    for found in suite.runs.values():
        for place, budgets in found.items():
            best[place] = min([best.get(place, np.inf), *(curve[-1] for curve in budgets.values())])
    for found in suite.runs.values():
        for place, budgets in found.items():
            found[place] = {budget: curve - best[place] for budget, curve in budgets.items()}


def judged(suites: Iterable[Suite], ours: str) -> str:
    """The label of ours that is judged: the one asked for, or the only one through Optuna, or the only core.

    Raises:
        UserError: there are several, or not the one asked for.
    """
    labels = sorted({r for s in suites for r in s.runs if r.partition("-")[0] in OURS and TOLD not in r})
    everything = {r for s in suites for r in s.runs}
    if ours:
        if ours not in everything:
            raise UserError(f"expected --ours one of {', '.join(sorted(everything))}, got {ours!r}")
        return ours
    hosted = [label for label in labels if label.startswith("rnn-")] or labels
    if len(hosted) > 1:
        raise UserError(f"several of ours have results; choose one by --ours: {', '.join(hosted)}")
    return hosted[0] if hosted else ""


def ranks(suite: Suite, problem: str, share: float, ours: str) -> dict[str, float]:
    """Average rank of each rival with all functions of one dimension of bbob, at a share of the budget."""
    pool = [
        rival
        for rival in suite.runs
        if rival == ours or (TOLD not in rival and rival.partition("-")[0] not in OURS)
    ]
    names = {name for name, _ in suite.places(problem)}
    pool = [rival for rival in pool if {n for n, _ in suite.runs[rival] if n.startswith(problem)} == names]
    rows: dict[str, list[np.ndarray]] = {}
    for place in suite.places(problem):
        if not all(place in suite.runs[rival] for rival in pool):
            continue
        budget = max(suite.runs[pool[0]][place]) if pool else 0
        regrets = [max(suite.at(rival, place, round(share * budget)), FLOOR) for rival in pool]
        rows.setdefault(place[0], []).append(rankdata(regrets))
    means = [np.mean(found, axis=0) for found in rows.values()]
    return dict(zip(pool, np.mean(means, axis=0), strict=True)) if pool and means else {}


@dataclass(frozen=True)
class Verdict:
    """A target: what was asked, what was measured, whether that is met (None: not measured yet)."""

    asked: str
    measured: str
    met: bool | None


def _better(suite: Suite, ours: str, other: str, problem: str, evaluations: int, equal: bool) -> list[bool]:
    a, b = (suite.regrets(rival, problem, evaluations) for rival in (ours, other))
    pairs = [(np.median(a), np.median(b)), (np.mean(a), np.mean(b))]
    return [bool(x <= y if equal else x < y) for x, y in pairs]


def judge_functions(suite: Suite, ours: str) -> list[Verdict]:
    """Target 1."""
    first = "functions: median and mean below TPE's at 20 and 50, all four"
    second = "functions: at 50 median and mean no worse than GPSampler's on two of four"
    verdicts = []
    if all(suite.complete(r, "") for r in (ours, "tpe")):
        won = [
            w
            for p in suite.problems()
            for t in (20, 50)
            for w in _better(suite, ours, "tpe", p, t, equal=False)
        ]
        verdicts.append(Verdict(first, f"{sum(won)} of {len(won)} comparisons", all(won)))
    else:
        verdicts.append(Verdict(first, "not measured", None))
    if all(suite.complete(r, "") for r in (ours, "gp")):
        good = [p for p in suite.problems() if all(_better(suite, ours, "gp", p, 50, equal=True))]
        verdicts.append(Verdict(second, f"{len(good)}: {', '.join(good)}", len(good) >= 2))
    else:
        verdicts.append(Verdict(second, "not measured", None))
    return verdicts


def judge_gp(suite: Suite, ours: str) -> list[Verdict]:
    """Target 2."""
    asked = "gp, D=6: mean gap at 20 and 50 at or below 1.35 and 1.00"
    beside = "gp, D=6: mean gap at 20 and 50 at or below GP-LogEI's with the true kernel, same draws"
    if not all(suite.complete(rival, "D6") for rival in (ours, "gp", "gp-true")):
        # without the strongest rivals the best value found, from which gaps are counted, is too easy
        return [Verdict(asked, "not measured", None), Verdict(beside, "not measured", None)]
    gaps, true = (
        [float(suite.regrets(rival, "D6", t).mean()) for t in (20, 50)] for rival in (ours, "gp-true")
    )
    text = f"{gaps[0]:.2f} to {true[0]:.2f}, {gaps[1]:.2f} to {true[1]:.2f}"
    return [
        Verdict(asked, f"{gaps[0]:.2f} and {gaps[1]:.2f}", gaps[0] <= 1.35 and gaps[1] <= 1.0),
        Verdict(beside, text, gaps[0] <= true[0] and gaps[1] <= true[1]),
    ]


def judge_bbob(suite: Suite, ours: str) -> list[Verdict]:
    """Target 3: over all dimensions together, and how many of the single ones."""
    verdicts = []
    for name, share in (("10 D", 0.5), ("20 D", 1.0)):
        asked = f"bbob at {name}: average rank better than TPE's, GPSampler's and CMA-ES's"
        found = [ranks(suite, problem, share, ours) for problem in suite.problems()]
        if not all({ours, "tpe", "gp", "cma"} <= set(rank) for rank in found) or not found:
            verdicts.append(Verdict(asked, "not measured", None))
            continue
        mean = {r: float(np.mean([rank[r] for rank in found])) for r in (ours, "tpe", "gp", "cma")}
        ahead = [all(rank[ours] < rank[r] for r in ("tpe", "gp", "cma")) for rank in found]
        text = f"{mean[ours]:.2f} to {mean['tpe']:.2f}, {mean['gp']:.2f}, {mean['cma']:.2f}"
        text += f"; ahead in {sum(ahead)} of {len(ahead)} dimensions"
        verdicts.append(Verdict(asked, text, all(ahead)))
    return verdicts


def judge_tables(suite: Suite, ours: str) -> list[Verdict]:
    """Target 4."""
    asked = "tables: mean normalised regret below TPE's at 20 and 50"
    if not all(suite.complete(rival, "") for rival in (ours, "tpe")):
        return [Verdict(asked, "not measured", None)]
    pairs = [[float(suite.regrets(r, "", t).mean()) for r in (ours, "tpe")] for t in (20, 50)]
    text = ", ".join(f"{a:.3f} to {b:.3f}" for a, b in pairs)
    return [Verdict(asked, text, all(a < b for a, b in pairs))]


def judge_time(folder: Path, ours: str) -> list[Verdict]:
    """Target 5, from time.json."""
    asked = (
        "time: at most 1 ms in Optuna at 100 trials, D=10",
        "time: GPSampler / ours",
        "time: BoTorch / ours",
    )
    path = folder / "time.json"
    contents = read_json(path) if path.exists() else {"last_ms": {}}
    found = contents["last_ms"]
    hosted = next((r for r in found if r.startswith("rnn-") and (r == ours or ours[-8:] == r[-8:])), None)
    if hosted is None:
        return [Verdict(text, "not measured", None) for text in asked]
    verdicts = [Verdict(asked[0], f"{found[hosted]:.2f} ms", found[hosted] <= 1.0)]
    for text, rival, target in ((asked[1], "gp", 100), (asked[2], "botorch", 1000)):
        ratio = found[rival] / found[hosted] if rival in found else None
        measured = "not measured" if ratio is None else f"{ratio:,.0f}"
        verdicts.append(Verdict(f"{text} at least {target}", measured, ratio and ratio >= target))
    return verdicts


def _rows(suite: Suite, problem: str) -> list[tuple[str, str, int]]:
    total = len(suite.places(problem))
    have = {rival: sum(p in found for p in suite.places(problem)) for rival, found in suite.runs.items()}
    return [(rival, str(n) if n == total else f"{n} of {total}", n) for rival, n in sorted(have.items()) if n]


def regret_table(suite: Suite, problem: str, title: str) -> Table:
    """Median and mean at 20, 50, 100 evaluations."""
    table = Table(
        "rival", "runs", *(f"@{t} median (mean)" for t in CHECKPOINTS), title=title, box=box.MARKDOWN
    )
    for rival, runs, _ in _rows(suite, problem):
        columns = [suite.regrets(rival, problem, t) for t in CHECKPOINTS]
        table.add_row(rival, runs, *(f"{np.median(c):.3g} ({np.mean(c):.3g})" for c in columns))
    return table


def rank_table(suite: Suite, ours: str) -> Table:
    """Average ranks at 10 D and 20 D evaluations, a row a rival."""
    names = suite.problems()
    found = {(p, s): ranks(suite, p, s, ours) for s in (0.5, 1.0) for p in names}
    heads = [f"{p} @{int(20 * s)}D" for s in (0.5, 1.0) for p in names]
    table = Table("rival", *heads, title="bbob: average rank", box=box.MARKDOWN)
    for rival in sorted({r for rank in found.values() for r in rank}):
        cells = [found[p, s].get(rival) for s in (0.5, 1.0) for p in names]
        table.add_row(rival, *("" if cell is None else f"{cell:.2f}" for cell in cells))
    return table


def log_table(suite: Suite) -> Table:
    """Mean log10 regret at 10 D and 20 D evaluations, a row a rival, all runs that it has."""
    names = suite.problems()
    heads = [f"{p} @{k}D" for k in (10, 20) for p in names]
    table = Table("rival", *heads, title="bbob: mean log10 regret", box=box.MARKDOWN)
    for rival in sorted(suite.runs):
        cells = []
        for k in (10, 20):
            for p in names:
                values = suite.regrets(rival, p + "/", k * int(p[1:]))
                full = suite.complete(rival, p + "/")
                cells.append(f"{np.log10(np.maximum(values, FLOOR)).mean():.2f}" if full else "")
        table.add_row(rival, *cells)
    return table


def show(folders: Sequence[Path], ours: str = "") -> dict[str, Suite]:
    """Print all tables and verdicts; returns what was read."""
    console = Console(width=150)
    suites = {name: collect(folders, name) for name in SUITES}
    label = judged(suites.values(), ours)
    for problem in suites["functions"].problems():
        console.print(regret_table(suites["functions"], problem, f"functions: {problem}, simple regret"))
    for problem in suites["gp"].problems():
        console.print(regret_table(suites["gp"], problem, f"gp: {problem}, gap to the best value found"))
    if suites["bbob"].runs:
        console.print(rank_table(suites["bbob"], label), log_table(suites["bbob"]))
    if suites["tables"].runs:
        console.print(regret_table(suites["tables"], "", "tables: regret, 0 = best, 1 = median of the table"))
    verdicts = [
        *judge_functions(suites["functions"], label),
        *judge_gp(suites["gp"], label),
        *judge_bbob(suites["bbob"], label),
        *judge_tables(suites["tables"], label),
        *judge_time(folders[0], label),
    ]
    table = Table("asked", "measured", "met", title=f"asked of {label or 'ours'}", box=box.MARKDOWN)
    for verdict in verdicts:
        met = {True: "yes", False: "no", None: ""}[verdict.met]
        table.add_row(verdict.asked, verdict.measured, met)
    console.print(table)
    return suites
