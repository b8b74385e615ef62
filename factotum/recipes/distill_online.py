"""Teachers that still learn: the student follows the best of their checkpoints so far (the paper's section 3.3).

A run of `factotum train-teacher` sets its best policy aside in `best/`. "live" takes what lies there when an hour
begins, which depends on how fast both processes are; the policy taken is kept with the student's run, so that a
resumed hour has the same teacher. "replayed" follows a run that is over as if both had learnt side by side, the teacher
an hour ahead: in the middle of its hours the student has the best of the teacher's first half, from `bests/`. That is
a function of the two runs alone.

Labels are always the present teacher's: what older ones had put out for the states in the replay is asked anew.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from factotum.core.checks import UserError
from factotum.core.files import read_json, replace_folder, write_json_atomic
from factotum.distill.store import load_policy, save_policy
from factotum.distill.teacher import as_teacher
from factotum.recipes.distill_schedule import best_by
from factotum.recipes.distill_tasks import Device, Lesson, version_of
from factotum.training.metrics import read_metrics
from factotum.worlds.vector import vector_name

Pace = Literal["live", "replayed"]


@dataclass(frozen=True)
class Learning:
    """A teacher's run.

    Args:
        run: its folder.
        pace: how it is followed.
        patience_s: seconds to wait for its first evaluated checkpoint.
    """

    run: Path
    pace: Pace = "live"
    patience_s: float = 3600.0

    def best(self, share: float) -> tuple[Path, dict[str, Any]]:
        """The folder of the best policy so far, and what is known of it.

        Args:
            share: of the student's hours that are over, for "replayed".

        Raises:
            UserError: there is no such run, none comes within patience, or one that counts was not kept.
        """
        return self._replayed(share) if self.pace == "replayed" else self._live()

    def _live(self) -> tuple[Path, dict[str, Any]]:
        folder, waited = self.run / "best", 0.0
        if not self.run.is_dir():
            raise UserError(f"online: expected the folder of a teacher's run, found none at {self.run}")
        while not (folder / "model.safetensors").is_file() or not (folder / "made_by.json").is_file():
            if waited >= self.patience_s:
                raise UserError(
                    f"online: expected a policy in {folder} within {self.patience_s:g} s, found none"
                )
            time.sleep(min(1.0, self.patience_s))
            waited += min(1.0, self.patience_s)
        return folder, read_json(folder / "made_by.json")

    def _replayed(self, share: float) -> tuple[Path, dict[str, Any]]:
        scores = [
            (line["step"], line["evaluation"]) for line in read_metrics(self.run) if "evaluation" in line
        ]
        if not scores:
            raise UserError(f"online: expected a teacher's run with evaluations, found none in {self.run}")
        # Before the first evaluation there is nothing better than it.
        step = best_by(share, scores) or min(scores)[0]
        folder = self.run / "bests" / f"step-{step:08d}"
        if not (folder / "model.safetensors").is_file():
            raise UserError(f"online: expected the best policy of step {step} in {folder}, found none")
        return folder, {"step": step, "evaluation": dict(scores)[step]}


def online_lessons(
    runs: Sequence[Path], pace: Pace, kept: Path, device: Device, share: float = 0.0
) -> list[Lesson]:
    """A lesson for each learning teacher, as it is at a share of the student's hours.

    Args:
        runs: of the teachers.
        pace: how they are followed.
        kept: folder of this student's run for the policies that were taken; what it holds for an hour is taken again.
        device: where teachers run.
        share: of the student's hours that are over.
    """
    lessons = []
    for index, run in enumerate(runs):
        place = kept / f"{index}-{share:.6f}"
        if not (place / "taken.json").is_file():
            folder, known = Learning(run, pace).best(share)
            _keep(folder, known, place)
        network = load_policy(place)
        if len(network.tasks) != 1:
            raise UserError(f"online: expected a teacher of one task in {run}, got {len(network.tasks)}")
        name = vector_name(network.tasks[0])
        lessons.append(
            Lesson(
                name, as_teacher(network, device=device), str(run), version_of(place), network.parameter_count
            )
        )
    for old in kept.glob("*-*"):
        if not old.name.endswith(f"-{share:.6f}"):
            shutil.rmtree(old, ignore_errors=True)
    return lessons


def _keep(folder: Path, known: dict[str, Any], place: Path) -> None:
    """Copy a policy, whole or not at all; one that is replaced while it is read is read again."""
    temporary = place.with_name(f".{place.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    for attempt in range(10):
        try:
            network = load_policy(folder)
            break
        except UserError:
            if attempt == 9:
                raise
            time.sleep(0.2)
    save_policy(network, temporary, known)
    write_json_atomic(temporary / "taken.json", known)
    place.parent.mkdir(parents=True, exist_ok=True)
    replace_folder(temporary, place)
