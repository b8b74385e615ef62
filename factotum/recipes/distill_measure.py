"""What a student is worth, in few numbers: ratios to its teachers with intervals, agreement, size and latency."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from factotum.core.files import read_json, write_json_atomic
from factotum.distill.agent import PolicyAgent
from factotum.distill.expert import WorldExpert
from factotum.distill.model import PolicyNetwork
from factotum.recipes.distill_evaluate import Evaluation, evaluate_lesson
from factotum.recipes.distill_tasks import Lesson
from factotum.training import paired
from factotum.training.paired import Paired
from factotum.training.progress import Progress
from factotum.worlds.suites.jat import jat_entry
from factotum.worlds.vector import make_vector

PROTOCOL = (
    "Student, teacher and random play begin each game from the same start (no-op starts on Atari, not the paper's "
    "human starts); whole games, at most 27,000 steps, rewards as the game pays them."
)


def evaluate_student(
    run: Path, lessons: Sequence[Lesson], network: PolicyNetwork, how: Evaluation, version: str
) -> dict[str, Any]:
    """Play, measure and write `evaluation.json`; what was measured of this very student is read from there.

    Args:
        run: the student's folder.
        lessons: its tasks and teachers.
        network: the student.
        how: protocol.
        version: of the student's weights.
    """
    path = run / "evaluation.json"
    teachers = [[lesson.task, lesson.source, lesson.version] for lesson in lessons]
    of = {
        "student": version,
        "teachers": teachers,
        "episodes": how.episodes,
        "epsilon": how.epsilon,
        "seed": how.seed,
        **({"sample": True} if how.sample else {}),
    }
    if path.is_file():
        found = read_json(path)
        if found.get("of") == of:
            return found
    games = []
    with Progress(3 * how.episodes * len(lessons), "evaluate", "games") as bar:
        for lesson in lessons:
            games.append(evaluate_lesson(lesson, network, how, run / "videos", bar))
    taken = measure_latency(lessons, network)
    for game in games:
        game["teacher_latency_ms"] = taken.get(game["task"])
    evaluation = {
        "kind": "distillation",
        "of": of,
        "protocol": PROTOCOL,
        "student": {
            "parameters": network.parameter_count,
            "bytes": stored_bytes(network),
            "latency_ms": taken["student"],
            "device": str(network.device),
        },
        "games": games,
        **summarise(games),
    }
    write_json_atomic(path, evaluation)
    return evaluation


def paired_of(results: Sequence[Mapping[str, Any]]) -> list[Paired]:
    """What `training.paired` compares, of one student and its teachers."""
    return [
        Paired(
            one["task"],
            np.array(one["student_scores"])[None, None],
            np.array(one["teacher_scores"])[None],
            random=float(np.mean(one["random_scores"])),
        )
        for one in results
    ]


def human_normalised(result: Mapping[str, Any]) -> tuple[float, float] | None:
    """Student and teacher between random play and a human, by the table of 57 Atari games; None without an entry.

    Both references come from that table (the random one too), since starts differ between tables.
    """
    entry = jat_entry(result["task"])
    if entry is None or entry.get("human") is None:
        return None
    game = Paired(
        result["task"],
        np.array(result["student_scores"])[None, None],
        np.array(result["teacher_scores"])[None],
        entry["random"],
        entry["human"],
    )
    return paired.human_normalised(game)


def summarise(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Ratios of each task and over tasks, with intervals over paired episodes; JSON values, NaN as None."""
    games = paired_of(results)
    found: dict[str, Any] = {"tasks": {}}
    for game, result in zip(games, results, strict=True):
        human = human_normalised(result)
        found["tasks"][game.game] = {
            "student": float(game.student_KJN.mean()),
            "teacher": float(game.teacher_KN.mean()),
            "random": game.random,
            "ratio": _with_interval([game], lambda g: paired.score_ratio(g[0])),
            "random_normalised_ratio": _with_interval([game], lambda g: paired.random_normalised_ratio(g[0])),
            "human_normalised": None if human is None else [_plain(value) for value in human],
        }
    found["geometric_mean_ratio"] = _with_interval(games, paired.geometric_mean_ratio)
    found["geometric_mean_normalised"] = _with_interval(games, paired.geometric_mean_normalised)
    return found


def _with_interval(games: Sequence[Paired], statistic: paired.Statistic) -> list[float | None]:
    low, high = paired.seed_bootstrap(games, statistic, over=("episodes",), repetitions=1000)
    return [_plain(value) for value in (statistic(games), low, high)]


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def latency(calls: Mapping[str, Callable[[], Any]], repeats: int = 200) -> dict[str, float]:
    """Milliseconds of one call each, medians of calls by turns.

    >>> sorted(latency({"a": lambda: 1, "b": lambda: 2}, repeats=3))
    ['a', 'b']
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for index in range(repeats + repeats // 10):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if index >= repeats // 10:
                taken[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in taken.items()}


def measure_latency(lessons: Sequence[Lesson], network: PolicyNetwork) -> dict[str, float]:
    """Milliseconds for one observation in eager torch, of the student and of each teacher, by turns; one CPU thread.

    Experts of worlds plan as their world goes on, and have none.
    """
    calls: dict[str, Callable[[], Any]] = {}
    for lesson in lessons:
        world = make_vector(lesson.task, 1)
        seen = world.reset(0)
        world.close()
        student = PolicyAgent(network, lesson.task, epsilon=0.0)
        calls.setdefault("student", lambda student=student, seen=seen: student.outputs(seen))
        if not isinstance(lesson.teacher, WorldExpert):
            calls[lesson.task] = lambda teacher=lesson.teacher, seen=seen: teacher.label(seen)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return latency(calls)
    finally:
        torch.set_num_threads(threads)


def stored_bytes(module: nn.Module) -> int:
    """Bytes of a module's weights in single precision."""
    return 4 * sum(value.numel() for value in module.state_dict().values())
