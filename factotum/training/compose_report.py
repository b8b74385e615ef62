"""The report of a composition: success by split, what it attends to, how it learnt. Knows no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from factotum.core.files import read_json, write_text_atomic
from factotum.training import report_html as html
from factotum.training.report import write_report
from factotum.training.report_plots import COLOURS, INK, SOFT, STYLE
from factotum.training.search_report import plot

SHOWN = "shown.html"
"""In a run: what its networks showed when they were at hand, a section of its report."""


@dataclass(frozen=True)
class Attention:
    """What one element attends to, in one picture and one sentence.

    Args:
        title: which element.
        picture: `H W 3` bytes, or None.
        heat: weights of the picture's patches, `h w`.
        words: pieces of the sentence.
        weights: of each.
        shares: of all attention, by component.
    """

    title: str
    picture: np.ndarray | None
    heat: np.ndarray | None
    words: Sequence[str]
    weights: Sequence[float]
    shares: Mapping[str, float]


def is_composition(run: Path) -> bool:
    """Whether a folder is that of a composition that was evaluated."""
    path = run / "evaluation.json"
    return path.is_file() and "mode" in read_json(path)


def write_compose_report(
    run: Path,
    evaluation: Mapping[str, Any] | None,
    attention: Sequence[Attention] = (),
    *,
    title: str | None = None,
    out: Path | None = None,
) -> Path:
    """Write `out`, by default `<run>/report.html`.

    Args:
        run: folder with metrics.jsonl and videos/.
        evaluation: what evaluation.json holds, or None.
        attention: what is shown of it; where none is given, what the report before this one showed.
    """
    if attention:
        note = (
            "Mean over heads and GATS layers. Pictures: weights of the patches, brightest where most is read; "
            "bars: weights of the pieces of the instruction."
        )
        shown = plot(attention_figure(attention)) + f'<p class="note">{note}</p>'
        write_text_atomic(run / SHOWN, shown)
    return _write(run, evaluation, "What it attends to", title, out)


def write_scenes_report(
    run: Path,
    evaluation: Mapping[str, Any],
    shown: Sequence[tuple[np.ndarray, str, np.ndarray | None, str]] = (),
    *,
    title: str | None = None,
    out: Path | None = None,
) -> Path:
    """Write the report of a composition of text and pictures.

    Args:
        run: folder with metrics.jsonl.
        evaluation: what evaluation.json holds.
        shown: picture, its caption, what was drawn of the caption, what was said of the picture; where none is given,
            what the report before this one showed.
    """
    if shown:
        write_text_atomic(run / SHOWN, plot(scenes_figure(shown)))
    return _write(run, evaluation, "Captions and drawings", title, out)


def rewrite_report(run: Path, *, title: str | None = None, out: Path | None = None) -> Path:
    """The report of an evaluated composition once more, without its networks: what they showed was kept."""
    evaluation = read_json(run / "evaluation.json")
    write = write_scenes_report if "perplexity" in evaluation else write_compose_report
    return write(run, evaluation, title=title, out=out)


def _write(
    run: Path, evaluation: Mapping[str, Any] | None, heading: str, title: str | None, out: Path | None
) -> Path:
    sections = []
    if evaluation is not None:
        what = _perplexity(evaluation) if "perplexity" in evaluation else plot(bars(evaluation))
        sections.append(("What it can do", _cards(evaluation) + _table(evaluation) + what))
    if (run / SHOWN).is_file():
        sections.append((heading, (run / SHOWN).read_text()))
    return write_report(run, None, out=out, title=title, sections=sections)


def _perplexity(evaluation: Mapping[str, Any]) -> str:
    found = evaluation["perplexity"]
    kept = "the same to the bit" if found["same"] else "CHANGED"
    note = f"The text model's perplexity on plain sentences: {found['before']:.4f} before, {kept} after."
    return f"<p>{html.escape(note)}</p>"


def scenes_figure(shown: Sequence[tuple[np.ndarray, str, np.ndarray | None, str]]) -> Figure:
    """One column a scene: above the picture and what was said of it, below the caption and what was drawn of it.

    >>> len(scenes_figure([(np.zeros((4, 4, 3), np.uint8), "a", None, "b")]).axes)
    2
    """
    with matplotlib.rc_context(
        {**STYLE, "axes.grid": False, "axes.titlesize": 6, "axes.titleweight": "normal"}
    ):
        figure = Figure(figsize=(1.9 * len(shown), 4.2), layout="constrained")
        panels = figure.subplots(2, len(shown), squeeze=False)
        for (above, below), (picture, caption, drawn, said) in zip(panels.T, shown, strict=True):
            for axes, title, image in ((above, f"said: {said}", picture), (below, f"of: {caption}", drawn)):
                axes.set_title(title, loc="center", wrap=True)
                axes.axis("off")
                if image is not None:
                    axes.imshow(image)
        return figure


def _cards(evaluation: Mapping[str, Any]) -> str:
    model = evaluation["model"]
    first = next(iter(evaluation["arms"].values()))
    shown = [
        (f"{first['success']:.1%}", f"{_measure(evaluation)}, {first['split']}"),
        (f"{model['trained']:,}", "numbers trained"),
        (f"{model['share']:.1%}", f"of {model['parameters']:,}"),
        (evaluation["mode"], "what joins the components"),
    ]
    items = "".join(f'<div class="card"><b>{b}</b><span>{html.escape(s)}</span></div>' for b, s in shown)
    return f'<div class="cards">{items}</div>'


def _measure(evaluation: Mapping[str, Any]) -> str:
    return evaluation.get("measure", "success")


def _table(evaluation: Mapping[str, Any]) -> str:
    arms = evaluation["arms"]
    names = list(next(iter(arms.values()))["tasks"])
    rows = []
    for label, arm in arms.items():
        low, high = arm["interval"]
        cells = [f"{arm['tasks'][name]['success']:.1%}" for name in names]
        rows.append((label, f"{arm['success']:.1%} [{low:.1%}, {high:.1%}]", *cells))
    head = ("", f"{_measure(evaluation)} (mean over tasks) [95 %]", *names)
    note = f"{next(iter(arms.values()))['episodes']} episodes of each task, from starts that no training had."
    return html.plain_table(head, rows) + f'<p class="note">{note}</p>'


def bars(evaluation: Mapping[str, Any]) -> Figure:
    """Success of each task, one bar a split.

    >>> arm = {"split": "plain", "success": 0.5, "interval": (0.4, 0.6), "tasks": {"a": {"success": 0.5}}}
    >>> len(bars({"arms": {"plain": arm}}).axes)
    1
    """
    arms = evaluation["arms"]
    names = list(next(iter(arms.values()))["tasks"])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 2.9), layout="constrained")
        axes = figure.add_subplot()
        width = 0.8 / len(arms)
        for index, (label, arm) in enumerate(arms.items()):
            places = np.arange(len(names)) + (index - (len(arms) - 1) / 2) * width
            values = [arm["tasks"][name]["success"] for name in names]
            axes.bar(places, values, 0.9 * width, color=COLOURS[index % len(COLOURS)], label=label)
        axes.set_xticks(
            range(len(names)), [name.rpartition("/")[2] for name in names], color=INK, rotation=20
        )
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.legend(loc="lower right")
        return figure


def attention_figure(shown: Sequence[Attention]) -> Figure:
    """Pictures with what is read of them, and the words' weights below.

    >>> seen = Attention("step 0", np.zeros((8, 8, 3), np.uint8), np.ones((2, 2)) / 4, ["go"], [1.0], {"text": 0.2})
    >>> len(attention_figure([seen]).axes)
    2
    """
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(2.4 * len(shown), 4.4), layout="constrained")
        panels = figure.subplots(2, len(shown), squeeze=False, height_ratios=[3, 2])
        for (above, below), one in zip(panels.T, shown, strict=True):
            _draw_picture(above, one)
            places = range(len(one.words))
            below.barh(places, one.weights, color=COLOURS[0])
            below.set_yticks(places, one.words, fontsize=7)
            below.invert_yaxis()
            below.tick_params(length=0)
        return figure


def _draw_picture(axes: Any, one: Attention) -> None:
    shares = ", ".join(f"{name} {share:.0%}" for name, share in one.shares.items())
    axes.set_title(one.title)
    axes.set_xlabel(shares, fontsize=7, color=SOFT)
    axes.set_xticks([])
    axes.set_yticks([])
    if one.picture is None or one.heat is None:
        axes.axis("off")
        return
    height, width = one.picture.shape[:2]
    axes.imshow(one.picture.repeat(3, 2) if one.picture.shape[2] == 1 else one.picture[..., :3])
    heat = one.heat / max(float(one.heat.max()), 1e-9)
    axes.imshow(
        heat, extent=(-0.5, width - 0.5, height - 0.5, -0.5), cmap="magma", alpha=0.55, vmin=0.0, vmax=1.0
    )
