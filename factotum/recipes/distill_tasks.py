"""Who teaches what: a teacher beside the world it is for, both checked before anything is played."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from gymnasium import spaces

from factotum.core.checks import UserError
from factotum.distill.choice import CONTINUOUS
from factotum.distill.config import SINGLE, PolicyConfig, preset
from factotum.distill.expert import WorldExpert
from factotum.distill.objective import DistillationObjective
from factotum.distill.store import find_policy, load_policy
from factotum.distill.teacher import TEMPERATURE, Kind, Teacher, as_teacher, require_fits
from factotum.recipes.user_function import load_function
from factotum.worlds.vector import VectorWorld, make_vector, vector_name

Device = torch.device | str

EXPERT = "expert"
"""Names the expert of a world's own task as teacher: BabyAI's bot, Meta-World's scripted policies."""


@dataclass(frozen=True)
class Lesson:
    """One task of a student.

    Args:
        task: the world's name, which is that of the student's head too.
        teacher: who labels.
        source: what the user named.
        version: changes with the teacher's weights; "" where that cannot be told.
        parameters: how many the teacher has, None where that cannot be told.
    """

    task: str
    teacher: Teacher
    source: str
    version: str = ""
    parameters: int | None = None


def find_lessons(
    sources: Sequence[str], worlds: Sequence[str], kind: Kind | None, device: Device = "cpu"
) -> list[Lesson]:
    """A lesson for each teacher.

    Args:
        sources: folders of policies or of runs that end with one, Stable-Baselines3 archives, MODULE:FUNCTION, or
            "expert" for the one that a world has.
        worlds: one for each teacher; may be left out where all teachers are folders, which know theirs.
        kind: what functions return.
        device: where teachers that are networks run.

    Raises:
        UserError: a teacher that is not there, is not for its world, or has none; two for one world.
    """
    if not sources:
        raise UserError("teachers: expected at least one, got none")
    if worlds and len(worlds) != len(sources):
        raise UserError(f"worlds: expected one for each of {len(sources)} teachers, got {len(worlds)}")
    names = [vector_name(world) for world in worlds] or [_own_world(source) for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"teachers: expected one for each world, got {names.count(name)} for {name}")
    return [_lesson(source, name, kind, device) for source, name in zip(sources, names, strict=True)]


def _own_world(source: str) -> str:
    """The world that a policy in a folder was trained on."""
    folder = find_policy(source)
    if folder is None:
        raise UserError(f"worlds: expected the name of the world that {source} is for, got none")
    tasks = load_policy(folder).tasks
    if tasks == (SINGLE,):
        raise UserError(
            f"worlds: expected the name of the world that {source} is for, which it does not know"
        )
    if len(tasks) != 1:
        raise UserError(f"worlds: expected one of {', '.join(tasks)}, all of which {source} plays, got none")
    return vector_name(tasks[0])


def _lesson(source: str, name: str, kind: Kind | None, device: Device) -> Lesson:
    world = make_vector(name, 1)
    count, continuous = actions_of(world)
    folder = find_policy(source)
    if folder is not None:
        network = load_policy(folder)
        task = name if name in network.tasks else None
        teacher = as_teacher(network, task=task, device=device)
    elif source == EXPERT:
        teacher = WorldExpert(world)
    else:
        teacher = _other(source, count, kind, device)
    require_fits(teacher, name, world.observation_space.shape, count, continuous=continuous)
    world.close()
    return Lesson(name, teacher, source, version_of(source), getattr(teacher, "parameters", None))


def _other(source: str, count: int, kind: Kind | None, device: Device) -> Teacher:
    """A file's teacher, or a function's."""
    if Path(source).exists() or ":" not in source:
        return as_teacher(source, device=device)
    if kind is None:
        raise UserError(f"kind: expected what {source} returns, got none; one of {', '.join(TEMPERATURE)}")
    numbers = 2 * count if kind == "gaussian" else count
    return as_teacher(load_function("teachers", source), kind=kind, actions=numbers)


def version_of(source: Path | str) -> str:
    """A short hash of a teacher's weights, "" for a function."""
    folder = find_policy(source)
    file = Path(source) if folder is None else folder / "model.safetensors"
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12] if file.is_file() else ""


def actions_of(world: VectorWorld) -> tuple[int, bool]:
    """The number of actions (of numbers of a continuous one), and whether they are continuous.

    Raises:
        UserError: continuous actions that are no vector.
    """
    space = world.action_space
    if isinstance(space, spaces.Discrete):
        return int(space.n), False
    if len(space.shape) != 1:
        raise UserError(f"{world.name}: expected actions that are numbered or a vector, got {space}")
    return space.shape[0], True


def make_objective(lessons: Sequence[Lesson], options: dict[str, Any]) -> DistillationObjective:
    """The loss that suits the teachers' kinds.

    Args:
        lessons: whose teachers.
        options: of `DistillationObjective`; what is None is chosen: KL at the temperature of the teachers' kind, the
            like of it for continuous actions.

    Raises:
        UserError: teachers of different temperatures and none given, or a loss that is not for their actions.
    """
    kinds = {lesson.teacher.kind for lesson in lessons}
    continuous = {kind in CONTINUOUS for kind in kinds}
    if len(continuous) > 1:
        raise UserError(
            f"teachers: expected all with discrete or all with continuous actions, got {sorted(kinds)}"
        )
    chosen = {name: value for name, value in options.items() if value is not None}
    if True in continuous:
        chosen.setdefault("loss", "gaussian" if kinds == {"gaussian"} else "action")
    elif "temperature" not in chosen:
        found = {TEMPERATURE[kind] for kind in kinds}
        if len(found) > 1:
            raise UserError(f"temperature: expected one for teachers of kinds {sorted(kinds)}, got none")
        chosen["temperature"] = found.pop()
    objective = DistillationObjective(**chosen)
    if (objective.outputs in CONTINUOUS) != (True in continuous):
        wanted = "gaussian or action" if True in continuous else "kl, nll or mse"
        raise UserError(
            f"loss: expected {wanted} for teachers of kind {', '.join(sorted(kinds))}, got {objective.loss}"
        )
    if objective.loss == "mse" and not kinds <= {"q"}:
        raise UserError(
            f"loss: expected kl or nll for teachers without Q-values ({', '.join(sorted(kinds))}), got mse"
        )
    return objective


def student_config(
    name: str, lessons: Sequence[Lesson], objective: DistillationObjective, standardise: bool = False
) -> PolicyConfig:
    """The student's sizes: a preset for the largest of the tasks' observations, a head for each task.

    Raises:
        UserError: observations that one network cannot take.
    """
    shapes, actions = [], {}
    for lesson in lessons:
        world = make_vector(lesson.task, 1)
        shapes.append(tuple(cast(tuple[int, ...], world.observation_space.shape)))
        actions[lesson.task] = actions_of(world)[0] * (2 if objective.outputs == "gaussian" else 1)
        integers = world.observation_space.dtype.kind != "f"  # type: ignore[union-attr]
        byte = integers and world.observation_space.high.max() > 1
        world.close()
    widest = max(shapes)
    if any(len(shape) != len(widest) or shape[1:] != widest[1:] for shape in shapes):
        raise UserError(f"teachers: expected tasks whose observations differ in channels alone, got {shapes}")
    config = preset(name, widest, actions, objective.outputs)
    return replace(config, scale=1 / 255 if byte else 1.0, standardise=standardise)
