"""A run's folder in one offline HTML file: tables, curves, pictures, and what produced them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from factotum.core.checks import UserError
from factotum.core.files import read_json, read_json_lines, write_text_atomic
from factotum.training import report_html as html
from factotum.training import report_plots as plots
from factotum.training.checkpoint import latest_checkpoint
from factotum.training.provenance import machine, read_commands, versions
from factotum.training.records import read_episodes
from factotum.training.rollouts import Rollout, read_rollouts
from factotum.training.summary import Summary, family_of


def write_report(
    run: Path | str,
    summary: Summary | None,
    *,
    out: Path | str | None = None,
    title: str | None = None,
    notes: Sequence[str] = (),
    pictures_per_family: int = 4,
    sections: Sequence[tuple[str, str]] = (),
) -> Path:
    """Write the report of a run; an older one is replaced whole.

    Args:
        run: folder with any of metrics.jsonl, config.json, commands.jsonl, evaluation/ and videos/.
        summary: of the recorded episodes, None where nothing was evaluated.
        out: file to write, `<run>/report.html` by default.
        title: heading, by default the run's name.
        notes: lines of text under the heading.
        pictures_per_family: rollouts shown of each family at most.
        sections: titles and HTML of what else was measured, shown first.

    Returns:
        The file.

    Raises:
        UserError: there is no such folder, or nothing in it to report.
    """
    run = Path(run)
    if not run.is_dir():
        raise UserError(f"expected the folder of a run, found none at {run}")
    metrics = read_json_lines(run / "metrics.jsonl")
    if summary is None and not metrics:
        raise UserError(f"nothing to report in {run}: neither recorded episodes nor metrics.jsonl")
    noted = "".join(f"<p>{html.escape(note)}</p>" for note in notes)
    sections = [
        *sections,
        ("Summary", noted if sections and summary is None else noted + _summary(summary)),
        ("Tasks", "" if summary is None else html.task_table(summary) + html.worst_list(summary)),
        ("Scores", _figure(None if summary is None else plots.score_bars(summary))),
        ("Learning curves", _figure(plots.learning_curves(metrics))),
        ("Rollouts", _rollouts(run / "videos", pictures_per_family)),
        ("How this was made", _provenance(run)),
    ]
    path = Path(out) if out is not None else run / "report.html"
    write_text_atomic(path, html.page(title or run.resolve().name, _subtitle(summary, metrics), sections))
    return path


def _subtitle(summary: Summary | None, metrics: list[dict[str, Any]]) -> str:
    parts = ["Factotum run report"]
    if summary is not None:
        families = len({row.family for row in summary.rows})
        parts.append(f"{len(summary.rows)} tasks of {families} famil{'y' if families == 1 else 'ies'}")
        parts.append(f"agent: {summary.agent}")
    if metrics:
        parts.append(f"{metrics[-1].get('step', len(metrics)):,} training steps")
    return " · ".join(parts)


def _summary(summary: Summary | None) -> str:
    if summary is None:
        return "<p>Not evaluated yet.</p>"
    return html.cards(summary) + html.aggregate_table(summary)


def _figure(svg: str | None) -> str:
    return "" if svg is None else f'<figure class="plot">{svg}</figure>'


def _rollouts(folder: Path, per_family: int) -> str:
    rollouts = read_rollouts(folder)
    text = ""
    for family in dict.fromkeys(family_of(rollout.task) for rollout in rollouts):
        mine = [rollout for rollout in rollouts if family_of(rollout.task) == family]
        # Tasks with pictures first: there may be more than are shown.
        mine.sort(key=lambda rollout: rollout.strip is None)
        text += f"<h3>{html.escape(family)}</h3>" + "".join(
            _one_rollout(folder, one) for one in mine[:per_family]
        )
        if len(mine) > per_family:
            text += f'<p class="note">{len(mine) - per_family} more in {html.escape(folder.name)}/</p>'
    return text


def _one_rollout(folder: Path, rollout: Rollout) -> str:
    data = [
        (folder / name).read_bytes() if name and (folder / name).is_file() else None
        for name in _files(rollout)
    ]
    return html.rollout_figure(rollout, *data)


def _files(rollout: Rollout) -> tuple[str | None, str | None]:
    return rollout.strip, rollout.film


def _provenance(run: Path) -> str:
    commands = read_commands(run)
    made: dict[str, Any] = commands[-1] if commands else {"versions": versions(), "machine": machine()}
    lines = "\n".join(f"{one['time']}  {one['command']}" for one in commands)
    text = f"<h3>Command lines</h3><pre>{html.escape(lines)}</pre>" if lines else ""
    packages = " · ".join(f"{package} {version}" for package, version in made["versions"].items())
    text += f"<h3>Versions</h3><p>{html.escape(packages)}</p>"
    text += f'<p class="note">{html.escape(made["machine"])}</p>' + _seeds(run)
    configuration = _configuration(run)
    return text + (html.folded("Configuration", configuration) if configuration else "")


def _configuration(run: Path) -> dict[str, Any] | None:
    """What was set: the run's config.json, else what its newest checkpoint was trained with."""
    if (run / "config.json").is_file():
        return read_json(run / "config.json")
    newest = latest_checkpoint(run)
    if newest is None:
        return None
    state = read_json(newest / "training_state.json")
    return {name: state[name] for name in ("config", "settings") if name in state}


def _seeds(run: Path) -> str:
    """Which seeds each agent played, by agent and checkpoint."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in read_episodes(run / "evaluation"):
        groups.setdefault((line["agent"], line["checkpoint"]), []).append(line)
    rows = [
        (
            agent,
            checkpoint or "–",
            len({line["task"] for line in lines}),
            len(lines),
            f"{min(line['seed'] for line in lines)} to {max(line['seed'] for line in lines)}",
        )
        for (agent, checkpoint), lines in groups.items()
    ]
    head = ("agent", "checkpoint", "tasks", "episodes", "seeds")
    return "<h3>Evaluation seeds</h3>" + html.plain_table(head, rows) if rows else ""
