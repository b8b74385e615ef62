"""A whole generalist at tiny scale, made once a process for the tests of its parts."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pytest

from factotum.recipes import generalist, generalist_budget, generalist_tasks
from factotum.recipes.generalist_budget import Setting
from factotum.recipes.generalist_tasks import Material
from factotum.recipes.train import Size

TASKS = ("gym/FrozenLake", "scenes/color", "babyai/GoToLocal")
TINY = Setting(
    Size(
        context=64, layers=1, width=16, heads=2, head_size=8, feed_forward=32, text_size=300, bins=64,
        patch_channels=8, observation_slots=160, patch_slots=32, code=4,
    ),
    rows=2, steps=2000, round_steps=400, learning_rate=1e-3,
)  # fmt: skip
MATERIAL = {
    "gym/*": Material(8, 4, 0.5),
    "scenes/*": Material(8),
    "babyai/*": Material(6, 4, 1.0, 4),
}

_folder = tempfile.TemporaryDirectory()  # goes when the process ends


def patched(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny size under the name of 1m, and little material."""
    monkeypatch.setitem(generalist_budget.SETTINGS, "1m", TINY)
    monkeypatch.setattr(generalist_tasks, "MATERIAL", MATERIAL)
    monkeypatch.setattr(generalist_tasks, "FEW", 2)
    monkeypatch.setattr(generalist, "FEW", 2)


def arguments(place: Path, **changes: object) -> generalist.Args:
    """Everything below `place`, at a scale of a hundredth."""
    common = generalist.Args(
        run=place / "run", data=place / "data", ship_to=place / "shipped", size="1m", scale=0.01, tasks=TASKS,
        rounds=1, episodes=2, baselines=("random", "retrieve"), longest=30, threads=1, jobs=1,
    )  # fmt: skip
    return replace(common, **changes)  # type: ignore[arg-type]


@lru_cache(maxsize=1)
def whole() -> Path:
    """The folder of a finished one; not to be changed."""
    place = Path(_folder.name)
    with pytest.MonkeyPatch.context() as monkeypatch:
        patched(monkeypatch)
        generalist.main(arguments(place))
    return place
