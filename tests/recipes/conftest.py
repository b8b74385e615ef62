"""Registers the toy suite as an installed package would."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from factotum.worlds.suites import registry

ENTRY_POINTS = "[factotum.suites]\ntoy = tests.recipes.toy_suite:suite\n"


@pytest.fixture
def toy_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that makes the toy suite known to any process that has it in PYTHONPATH."""
    folder = tmp_path / "site"
    info = folder / "toy_suite-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-suite\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    root = Path(__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{root}")
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    forget = registry._all_suites.cache_clear
    forget()
    yield folder
    forget()
