"""The best policy of a teacher's run so far, in a folder of its own: what an online student follows."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from factotum.core.files import read_json, replace_folder
from factotum.distill.store import load_policy, save_policy


def best_score(run: Path) -> float | None:
    """The mean score of the policy in `best/`, None while there is none."""
    path = run / "best" / "made_by.json"
    return read_json(path)["evaluation"] if path.is_file() else None


def set_aside(checkpoint: Path, run: Path, made_by: Mapping[str, Any]) -> None:
    """Make a checkpoint's policy the run's best one.

    Readers find a whole folder or, for the moment of a rename, none.
    """
    network = load_policy(checkpoint)
    # All that were the best once stay, small as they are: an online student may follow a run that is over.
    save_policy(network, run / "bests" / f"step-{made_by['step']:08d}", made_by)
    temporary = run / ".best.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    save_policy(network, temporary, made_by)
    replace_folder(temporary, run / "best")
