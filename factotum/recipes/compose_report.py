"""What a composition's report shows: its evaluation, and what it attends to in a window that it was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from factotum.core.seeding import numpy_generator
from factotum.gats.attention import attention_weights
from factotum.gats.feeds import InstructionFeed, PictureFeed, Windows
from factotum.gats.model import GATS
from factotum.gats.words import PackageWords, split
from factotum.recipes.compose_data import Material
from factotum.recipes.compose_file import Composition
from factotum.training.compose_report import Attention, write_compose_report

SHOWN = 4
"""Moments of a window that are shown."""


def report_composition(
    run: Path, file: Composition, material: Material, model: GATS, evaluation: Mapping[str, Any] | None
) -> Path:
    """Write RUN/report.html."""
    return write_compose_report(run, evaluation, attention_shown(file, material, model))


def attention_shown(file: Composition, material: Material, model: GATS) -> list[Attention]:
    """What the acting component reads at some steps of one window; nothing where nothing is joined by attention."""
    batches = material.batches(file)
    windows = batches.windows(numpy_generator(file.training.seed, "shown"))
    row = int(windows.lengths_B.argmax())
    one = Windows(
        windows.texts[row : row + 1],
        windows.lengths_B[row : row + 1],
        {name: column[row : row + 1] for name, column in windows.columns.items()},
    )
    batch = batches.batch(one).to(next(model.parameters()).device)
    layers = attention_weights(model, batch.inputs, batch.times)
    if not layers:
        return []
    weights = {
        name: torch.stack([layer[name][0] for layer in layers]).mean(0).cpu().numpy() for name in layers[0]
    }
    steps = int(one.lengths_B[0])
    chosen = sorted({round(step) for step in np.linspace(0, steps - 1, min(SHOWN, steps))})
    return [_at(step, material, one, weights) for step in chosen]


def _at(step: int, material: Material, window: Windows, weights: Mapping[str, np.ndarray]) -> Attention:
    element = (step + 1) * material.tokens.numbers - 1
    picture = heat = None
    words: list[str] = []
    share: list[float] = []
    for name, feed in material.feeds.items():
        mine = weights[name][element]
        if isinstance(feed, PictureFeed) and picture is None:
            frame = step // feed.every
            frames = -(-int(window.lengths_B.max()) // feed.every)
            patches = mine.reshape(frames, -1)[frame]
            side = round(len(patches) ** 0.5)
            if side * side == len(patches):
                heat = patches.reshape(side, side)
                picture = window.columns[feed.key][0, frame * feed.every, : feed.size, : feed.size]
        elif isinstance(feed, InstructionFeed) and not words:
            words, share = _pieces(feed, window.texts[0]), [float(x) for x in mine]
    return Attention(
        f"step {step}", picture, heat, words, share[: len(words)],
        {name: float(part[element].sum()) for name, part in weights.items()},
    )  # fmt: skip


def _pieces(feed: InstructionFeed, text: str) -> list[str]:
    if isinstance(feed.words, PackageWords):
        return feed.words.pieces(text)
    return split(text)
