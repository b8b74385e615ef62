"""What was asked of the four experiments beside what was measured: means and ranges over seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from factotum.core.files import read_json_lines

Line = dict[str, Any]
BASELINES = ("cross-attention", "late-fusion", "action-alone")


def read(results: Path, experiment: str) -> dict[str, list[Line]]:
    """Finished runs by arm."""
    found: dict[str, list[Line]] = {}
    for line in read_json_lines(results / f"{experiment}.jsonl"):
        found.setdefault(line["arm"], []).append(line)
    return found


def score(lines: Sequence[Line], label: str) -> tuple[float, float, float]:
    """Mean, least and greatest score over seeds."""
    values = [line["arms"][label]["success"] for line in lines]
    return sum(values) / len(values), min(values), max(values)


def said(triple: tuple[float, float, float]) -> str:
    """A mean with its range.

    >>> said((0.5, 0.4, 0.6))
    '50.0 % (40.0 to 60.0)'
    """
    mean, low, high = (100 * value for value in triple)
    return f"{mean:.1f} % ({low:.1f} to {high:.1f})"


def print_table(results: Path, experiments: Sequence[str] = ("language", "robot", "pong", "scenes")) -> None:
    """Print each experiment's arms, then what was asked of it."""
    console = Console(width=160)
    for experiment in experiments:
        arms = read(results, experiment)
        if not arms:
            continue
        labels = list(next(iter(arms.values()))[0]["arms"])
        table = Table(title=experiment, box=None, header_style="bold", title_justify="left")
        for name in ("arm", "seeds", "trained", "of all", *labels, "core-hours"):
            table.add_column(name, justify="left" if name == "arm" else "right")
        for arm, lines in arms.items():
            model = lines[0]["model"]
            cells = [said(score(lines, label)) if label in lines[0]["arms"] else "–" for label in labels]
            hours = sum(line["core_seconds"] for line in lines) / 3600 / len(lines)
            share = f"{model['share']:.1%}"
            table.add_row(arm, str(len(lines)), f"{model['trained']:,}", share, *cells, f"{hours:.2f}")
        console.print(table)
        for what, asked, measured in ASKED[experiment](arms):
            console.print(f"  {what}: asked {asked}, measured {measured}", highlight=False)


Asked = list[tuple[str, str, str]]


def _general(arms: dict[str, list[Line]], label: str) -> Asked:
    """Of every experiment: no baseline is better, and full fine-tuning little."""
    if "gats" not in arms:
        return []
    mine, found = score(arms["gats"], label)[0], []
    for arm in BASELINES:
        if arm in arms:
            found.append((f"above {arm}", ">= 0", f"{100 * (mine - score(arms[arm], label)[0]):+.1f} points"))
    if "full-fine-tuning" in arms:
        gap = 100 * (mine - score(arms["full-fine-tuning"], label)[0])
        found.append(("beside full fine-tuning", ">= -2", f"{gap:+.1f} points"))
    found.append(("share of parameters trained", "<= 10 %", f"{arms['gats'][0]['model']['share']:.1%}"))
    return found


def _language(arms: dict[str, list[Line]]) -> Asked:
    found = _general(arms, "plain")
    if "gats" in arms:
        held = score(arms["gats"], "held-out")[0]
        ratio = held / max(score(arms["gats"], "plain")[0], 1e-9)
        found.append(("held-out paraphrases over its own plain success", ">= 90 %", f"{ratio:.1%}"))
        if "scratch" in arms:
            gap = 100 * (held - score(arms["scratch"], "held-out")[0])
            found.append(("held-out paraphrases above words from scratch", ">= 15", f"{gap:+.1f} points"))
    return found


def _robot(arms: dict[str, list[Line]]) -> Asked:
    found = _general(arms, "plain")
    if "gats" in arms and "steered" in arms:
        gap = 100 * (score(arms["steered"], "plain")[0] - score(arms["gats"], "plain")[0])
        found.append(("cameras steered beside features alone", "measured", f"{gap:+.1f} points"))
    return found


def _pong(arms: dict[str, list[Line]]) -> Asked:
    found = _general(arms, "plain")
    for line in arms.get("gats", []):
        game = line["arms"]["plain"]["tasks"]["atari/Pong"]
        share = game["score"] / TEACHER
        found.append((f"score over the teacher's {TEACHER}, seed {line['seed']}", ">= 95 %", f"{share:.1%}"))
    return found


def _scenes(arms: dict[str, list[Line]]) -> Asked:
    found: Asked = []
    if "gats" not in arms:
        return found
    mine = arms["gats"]
    best = max(
        (label for label in mine[0]["arms"] if label.startswith("draw")), key=lambda w: score(mine, w)[0]
    )
    found.append(("exact captions", ">= 95 %", said(score(mine, "caption"))))
    found.append((f"attributes recognised, {best}", ">= 90 %", said(score(mine, best))))
    same = all(line["perplexity"]["same"] for line in mine)
    found.append(("text model's perplexity", "unchanged to the bit", "unchanged" if same else "CHANGED"))
    for arm, label in (
        ("cross-attention-caption", "caption"), ("cross-attention-draw", best), ("late-fusion", "caption"),
        ("late-fusion", best), ("full-fine-tuning", "caption"), ("full-fine-tuning", best),
    ):  # fmt: skip
        if arm in arms and label in arms[arm][0]["arms"]:
            gap = 100 * (score(mine, label)[0] - score(arms[arm], label)[0])
            asked = ">= -2" if arm == "full-fine-tuning" else ">= 0"
            found.append((f"{label} beside {arm}", asked, f"{gap:+.1f} points"))
    return found


TEACHER = 21.0
"""Mean score of the policy whose play is learnt, without random actions, 30 games, all of them won 21 to 0:
`factotum collect atari/Pong --expert checkpoints/atari/Pong-teacher --episodes 30 --keep 0`."""

ASKED: dict[str, Callable[[dict[str, list[Line]]], Asked]] = {
    "language": _language,
    "robot": _robot,
    "pong": _pong,
    "scenes": _scenes,
}
"""What is asked of each."""
