"""A study as one offline HTML file: the best trial, Optuna's plots, every trial, how it was made."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from factotum.core.files import write_text_atomic
from factotum.samplers.study import pictures
from factotum.training.provenance import machine, versions
from factotum.training.report_html import folded, page, plain_table
from factotum.training.summary import readable

SHOWN = 500
"""Rows of the table of trials at most."""


def write_tune_report(study: Any, path: Path, command: str) -> Path:
    """Write the report of a study with at least one complete trial; an older one is replaced whole.

    Args:
        study: Optuna's.
        path: file to write.
        command: line that made it.

    Returns:
        The file.
    """
    drawn = [(title, _figure(title, png)) for title, png in pictures(study)]
    made = " · ".join(f"{name} {one}" for name, one in versions().items())
    sections = [
        ("Best trial", _best(study)),
        *drawn,
        ("Trials", _trials(study)),
        ("Failed trials", _failed(study)),
        (
            "How this was made",
            f"<pre>{escape(command)}</pre>" + folded("Search space", dict(study.user_attrs.get("space", {})))
            + f'<p class="note">{escape(made)}<br>{escape(machine())}</p>',
        ),
    ]  # fmt: skip
    counts = _counts(study)
    subtitle = " · ".join(["Factotum tune", f"{study.direction.name.lower()}", counts])
    write_text_atomic(path, page(study.study_name, subtitle, sections))
    return path


def _counts(study: Any) -> str:
    states = [trial.state.name.lower() for trial in study.trials]
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))


def number(value: Any) -> str:
    """A value or parameter as text.

    >>> number(0.1234567), number(3), number(None)
    ('0.123457', '3', '–')
    """
    if value is None:
        return "–"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _best(study: Any) -> str:
    best = study.best_trial
    card = f'<div class="card"><b>{number(best.value)}</b><span>value of trial {best.number}</span></div>'
    return f'<div class="cards">{card}</div>' + plain_table(
        ("parameter", "value"), [(name, number(one)) for name, one in best.params.items()]
    )


def _figure(title: str, png: bytes) -> str:
    data = base64.b64encode(png).decode()
    image = (
        f'<img alt="{escape(title, quote=True)}" style="max-width:100%" src="data:image/png;base64,{data}">'
    )
    return f'<figure class="plot">{image}</figure>'


def _trials(study: Any) -> str:
    names = sorted({name for trial in study.trials for name in trial.params})
    sign = -1 if study.direction.name == "MAXIMIZE" else 1
    ordered = sorted(study.trials, key=lambda one: (one.value is None, (one.value or 0.0) * sign, one.number))
    rows = [_row(one, names) for one in ordered[:SHOWN]]
    note = f'<p class="note">the best {SHOWN} of {len(ordered)}</p>' if len(ordered) > SHOWN else ""
    return plain_table(("trial", "state", "value", *names, "seconds"), rows) + note


def _row(trial: Any, names: Sequence[str]) -> list[str]:
    params = [number(trial.params.get(name)) for name in names]
    return [str(trial.number), trial.state.name.lower(), number(trial.value), *params, _time(trial)]


def _time(trial: Any) -> str:
    return "–" if trial.duration is None else readable(trial.duration.total_seconds())


def _failed(study: Any) -> str:
    failed = [one for one in study.trials if one.state.name == "FAIL"]
    if not failed:
        return ""
    lines = "\n".join(
        f"{one.number}: {one.user_attrs.get('error', 'no number, or its worker died')}" for one in failed
    )
    return f"<pre>{escape(lines)}</pre>"
