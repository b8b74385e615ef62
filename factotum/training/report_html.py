"""The report's HTML: pieces of text in, one page out. Nothing in it links to anything outside."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from factotum.training.report_style import STYLE
from factotum.training.rollouts import Rollout
from factotum.training.summary import MEASURED, Aggregate, Score, Summary, TaskRow, readable


def page(title: str, subtitle: str, sections: Iterable[tuple[str, str]]) -> str:
    """A whole HTML document of titled sections; those without content are left out.

    >>> "<h2>Scores</h2>" in page("run", "", [("Scores", "<p>1</p>"), ("Curves", "")])
    True
    """
    body = "\n".join(f"<section><h2>{escape(name)}</h2>\n{html}</section>" for name, html in sections if html)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>\n'
        f'<body><header><h1>{escape(title)}</h1><p class="soft">{escape(subtitle)}</p></header>\n'
        f"{body}\n</body></html>\n"
    )


def interval(triple: tuple[float, float, float], percent: bool = False) -> str:
    """A number with its interval.

    >>> interval((0.5, 0.4, 0.6))
    '0.50 <span class="soft">[0.40, 0.60]</span>'
    """
    value, low, high = (f"{part:.0%}".replace("%", " %") if percent else readable(part) for part in triple)
    return f'{value} <span class="soft">[{low}, {high}]</span>'


def cards(summary: Summary) -> str:
    """The headline numbers of the main agent."""
    main = next((one for one in summary.aggregates if one.label == summary.agent), None)
    if main is None:
        return "<p>No task here can be normalised: raw scores only.</p>"
    shown = [
        (
            readable(main.mean[0]),
            f"mean expert-normalised score over {main.tasks} task{'s' * (main.tasks != 1)}",
        ),
        (readable(main.interquartile_mean[0]), "interquartile mean over tasks × episodes"),
        (readable(main.median[0]), "median task"),
        (f"{round(main.half[0] * main.tasks)} of {main.tasks}", "tasks at or above half of the expert"),
    ]
    items = "".join(
        f'<div class="card"><b>{big}</b><span>{escape(small)}</span></div>' for big, small in shown
    )
    return f'<div class="cards">{items}</div>'


def aggregate_table(summary: Summary) -> str:
    """Mean, median, interquartile mean and share at half of the expert, one line an agent."""
    names = ("agent", "tasks", "mean", "median", "IQM", "≥ half of expert")
    head = "<tr>" + "".join(f"<th>{name}</th>" for name in names) + "</tr>"
    body = "".join(_aggregate_row(one, one.label == summary.agent) for one in summary.aggregates)
    jat = ""
    if summary.jat is not None:
        mine, theirs, count = summary.jat
        jat = (
            f'<p class="note">On the {count} task{"s" * (count != 1)} that JAT was published with: '
            f"{escape(summary.agent)} {readable(mine)}, JAT {readable(theirs)} (means; JAT's by its own "
            "references and episodes, Meta-World by return instead of success: indicative).</p>"
        )
    return f'<div class="wide"><table>{head}{body}</table></div>{jat}' if body else ""


def _aggregate_row(one: Aggregate, main: bool) -> str:
    cells = [
        interval(one.mean),
        interval(one.median),
        interval(one.interquartile_mean),
        interval(one.half, True),
    ]
    inner = "".join(f"<td>{cell}</td>" for cell in cells)
    return f"<tr{' class=main' * main}><td>{escape(one.label)}</td><td>{one.tasks}</td>{inner}</tr>"


def task_table(summary: Summary) -> str:
    """Raw scores of everyone, normalised score with interval and JAT's, one line a task, by family."""
    columns = _columns(summary)
    jat = any(row.jat is not None for row in summary.rows)
    head = "".join(f"<th>{escape(label)}</th>" for label in columns)
    head = (
        f"<tr><th>task</th>{head}<th style='text-align:left'>{escape(summary.agent)}, normalised [95 %]</th>"
    )
    head += ("<th>JAT</th>" if jat else "") + "<th>episodes</th></tr>"
    body = ""
    for family in dict.fromkeys(row.family for row in summary.rows):
        rows = [row for row in summary.rows if row.family == family]
        body += _family_row(family, rows, summary.agent, len(columns), jat)
        body += "".join(_task_row(row, columns, summary.agent, jat) for row in rows)
    return f'<div class="wide"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>' + _footnotes(
        summary
    )


def _columns(summary: Summary) -> list[str]:
    others = [label for label in summary.labels if label not in ("random", "expert", summary.agent)]
    return ["random", "expert", *others] + [summary.agent] * (summary.agent not in ("random", "expert"))


def _family_row(family: str, rows: Sequence[TaskRow], agent: str, columns: int, jat: bool) -> str:
    values = [s.normalised for row in rows if (s := row.scores.get(agent)) and s.normalised is not None]
    mean = f"mean {readable(sum(values) / len(values))}" if values else ""
    rest = "<td></td>" * (1 + jat)
    name = f"<td colspan={columns + 1}>{escape(family)}</td>"
    return f"<tr class=family>{name}<td class=bar>{mean}</td>{rest}</tr>"


def _task_row(row: TaskRow, columns: list[str], agent: str, jat: bool) -> str:
    cells = "".join(f"<td>{_raw(row, label)}</td>" for label in columns)
    cells += _bar(row, row.scores.get(agent))
    cells += f"<td>{readable(row.jat)}</td>" * jat
    score = row.scores.get(agent)
    return f"<tr><td>{escape(row.task)}</td>{cells}<td>{score.episodes if score else '–'}</td></tr>"


def _raw(row: TaskRow, label: str) -> str:
    stored = {"random": row.random, "expert": row.expert}.get(label)
    if stored is not None:
        star = "*" if stored.source.startswith(MEASURED) else ""
        return f'<span title="{escape(stored.source, quote=True)}">{readable(stored.score)}{star}</span>'
    score = row.scores.get(label)
    return "–" if score is None else readable(score.raw)


def _bar(row: TaskRow, score: Score | None) -> str:
    if row.refused is not None:
        return f'<td class="words">not normalised: {escape(row.refused)}</td>'
    if score is None or score.normalised is None or score.low is None or score.high is None:
        return "<td class=bar>–</td>"
    width = 100 * min(1.0, max(0.0, score.normalised))
    low = " class=low" * (score.normalised < 0.5)
    track = f'<span class=track><i{low} style="width:{width:.0f}%"></i></span>'
    return f"<td class=bar>{track}{interval((score.normalised, score.low, score.high))}</td>"


def _footnotes(summary: Summary) -> str:
    used = {one.source for row in summary.rows for one in (row.random, row.expert) if one is not None}
    stored = sorted(source for source in used if not source.startswith(MEASURED))
    notes = ["Normalised = (score − random) / (expert − random)"]
    if stored:
        notes.append("References: " + "; ".join(stored[:6]) + "; …" * (len(stored) > 6))
    if len(stored) < len(used):
        notes.append("* no stored reference: measured in this run")
    gave_up = [
        (row.task, score.failed)
        for row in summary.rows
        if (score := row.scores.get("expert")) and score.failed
    ]
    if gave_up:
        listed = ", ".join(f"{task} {count}" for task, count in gave_up)
        notes.append(f"Episodes the expert gave up on, not counted: {listed}")
    return f'<p class="note">{escape(". ".join(notes))}.</p>'


def worst_list(summary: Summary) -> str:
    """The ten lowest tasks."""
    if len(summary.worst) < 2:
        return ""
    items = ", ".join(f"{escape(task)} {readable(score)}" for task, score in summary.worst)
    title = f"Lowest {len(summary.worst)}" if len(summary.worst) < 10 else "Worst ten"
    return f"<p><b>{title}:</b> {items}</p>"


def rollout_figure(rollout: Rollout, strip: bytes | None, film: bytes | None) -> str:
    """One episode: its instruction, its pictures, how it ended."""
    pictures = _image(film, "gif", "animation", "film")
    pictures += _image(strip, "png", f"frames of {rollout.task}", "strip")
    told = f"“{escape(rollout.instruction)}”" if rollout.instruction else ""
    answer = f" → <b>“{escape(rollout.answer)}”</b>" if rollout.answer is not None else ""
    ended = (
        f"{escape(rollout.agent)}, seed {rollout.seed}, {rollout.length} step{'s' * (rollout.length != 1)}"
    )
    problem = f" · {escape(rollout.problem)}" if rollout.problem else ""
    caption = (
        f"<b>{escape(rollout.task)}</b> {told}{answer}<br>{ended}, score {readable(rollout.score)}{problem}"
    )
    return f'<figure><div class="pictures">{pictures}</div><figcaption>{caption}</figcaption></figure>'


def _image(data: bytes | None, kind: str, words: str, role: str) -> str:
    if data is None:
        return ""
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return f'<img class="{role}" alt="{escape(words, quote=True)}" src="{source}">'


def plain_table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table of texts."""
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f'<div class="wide"><table><tr>{top}</tr>{body}</table></div>'


def folded(title: str, value: Mapping[str, Any] | str) -> str:
    """Long text or JSON that opens on a click."""
    text = value if isinstance(value, str) else json.dumps(value, indent=1, ensure_ascii=False)
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"
