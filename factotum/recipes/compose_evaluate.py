"""A trained composition in its environments: every episode is kept, in the words of each split, at each guidance."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from factotum.core.files import write_json_atomic
from factotum.gats.model import GATS
from factotum.recipes.compose_data import Material
from factotum.recipes.compose_file import Composition
from factotum.recipes.compose_model import make_agent, sizes_of_model
from factotum.training.evaluate import EpisodeResult, evaluate, evaluation_seeds
from factotum.training.progress import Progress
from factotum.training.records import play_missing
from factotum.training.rollouts import Recorder
from factotum.training.statistics import mean, stratified_bootstrap
from factotum.worlds.paraphrase import Paraphrased
from factotum.worlds.suites.task import Task


def evaluate_composition(
    run: Path, file: Composition, material: Material, model: GATS, version: str
) -> dict[str, Any]:
    """Play what is not on record; scores by split and guidance, also written to RUN/evaluation.json.

    Args:
        run: the run's folder.
        file: the composition.
        material: its tasks and feeds.
        model: trained.
        version: of the weights; episodes of others are played anew.
    """
    wanted = file.evaluation
    seeds = evaluation_seeds(wanted.episodes, wanted.repeat)
    arms = [(split, weight) for split in wanted.splits for weight in wanted.guidance]
    found: dict[str, Any] = {"model": sizes_of_model(model), "mode": file.join.mode, "arms": {}}
    with Progress(len(arms) * len(material.tasks) * len(seeds), "evaluate", "episodes") as bar:
        for split, weight in arms:
            label = split + (f" w={weight:g}" if weight else "")
            scores = {}
            for task in material.tasks:
                agent = make_agent(model, file, material.tokens, material.feeds, weight)
                recorder = Recorder(seeds[0]) if (split, weight) == arms[-1] else None
                make = task.make if split == "plain" else _said_in(task, split)
                play = partial(
                    evaluate, make, agent, max_steps=wanted.max_steps or task.max_steps, batch_size=wanted.batch,
                    measure=task.measure, name=task.name, watch=recorder,
                )  # fmt: skip
                before = bar.done
                results = play_missing(
                    run / "evaluation", task=task.name, agent=label, checkpoint=version, seeds=seeds, play=play,
                    on_episode=lambda result, name=task.name: bar.advance(1, note=name),  # type: ignore[misc]
                )  # fmt: skip
                bar.advance(len(seeds) - (bar.done - before), note=task.name)
                if recorder is not None and recorder.frames:
                    recorder.save(run / "videos", task.name, label, results[0])
                scores[task.name] = results
            found["arms"][label] = _arm(split, weight, material.tasks, scores)
    write_json_atomic(run / "evaluation.json", found)
    return found


def _said_in(task: Task, split: Any) -> Any:
    return lambda: Paraphrased(task.make(), split)


def succeeded(task: Task, result: EpisodeResult) -> bool:
    """Whether an episode counts as a success: as the environment says, or by a reward where it says nothing."""
    return result.success if task.measure == "success" else result.success or result.total_reward > 0


def _arm(
    split: str, weight: float, tasks: list[Task], scores: dict[str, list[EpisodeResult]]
) -> dict[str, Any]:
    success = [np.array([succeeded(task, r) for r in scores[task.name]], float) for task in tasks]
    return {
        "split": split,
        "guidance": weight,
        "success": float(mean(success)),
        "interval": stratified_bootstrap(success, mean),
        "episodes": len(success[0]),
        "tasks": {
            task.name: {
                "success": float(won.mean()),
                "score": float(np.mean([r.score for r in scores[task.name]])),
                "length": float(np.mean([r.length for r in scores[task.name]])),
            }
            for task, won in zip(tasks, success, strict=True)
        },
    }
