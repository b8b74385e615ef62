"""The report of a vision encoder: how its loss fell, and what it paints in. Knows no model."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from factotum.training.report import write_report
from factotum.training.report_plots import STYLE
from factotum.training.search_report import plot


def write_pretrain_report(run: Path, frames: np.ndarray, seen: np.ndarray, painted: np.ndarray) -> Path:
    """Write `<run>/report.html`.

    Args:
        run: folder with metrics.jsonl.
        frames, seen, painted: pictures, what was seen of them, what was painted, `R H W C` from 0 to 1.
    """
    section = ("What it paints in", plot(painting_figure(frames, seen, painted)))
    return write_report(run, None, sections=[section])


def painting_figure(frames: np.ndarray, seen: np.ndarray, painted: np.ndarray) -> Figure:
    """One column a picture: as it is, as it was seen, with its hidden patches painted in.

    >>> pictures = np.zeros((2, 8, 8, 3))
    >>> len(painting_figure(pictures, pictures, pictures).axes)
    6
    """
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(1.5 * len(frames), 4.5), layout="constrained")
        panels = figure.subplots(3, len(frames), squeeze=False)
        for row, (title, pictures) in enumerate((("frame", frames), ("seen", seen), ("painted", painted))):
            for axes, picture in zip(panels[row], pictures, strict=True):
                axes.imshow(picture.mean(2) if picture.shape[2] not in (1, 3) else picture, cmap="gray")
                axes.set_xticks([])
                axes.set_yticks([])
            panels[row][0].set_ylabel(title)
        return figure
