"""`factotum evaluate`: play many seeds of many tasks, record every score, print and store the summary."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import tyro

from factotum.core.checks import UserError
from factotum.core.files import read_json, write_json_atomic
from factotum.recipes.agents import AgentSpec, find_agent, find_checkpoint, require_installed, run_of
from factotum.recipes.tables import print_summary
from factotum.training.evaluate import EpisodeResult, evaluation_seeds
from factotum.training.progress import Progress
from factotum.training.provenance import record_command
from factotum.training.records import play_missing, read_episodes
from factotum.training.rollouts import Recorder, read_rollout
from factotum.training.summary import BASELINES, Summary, Yardstick, summarise
from factotum.worlds.paraphrase import Paraphrased, Split
from factotum.worlds.suites import registry
from factotum.worlds.suites.jat import jat_score
from factotum.worlds.suites.task import Task

TASKS = "training_tasks.json"
"""Names the tasks of weights that are shipped without their training state."""


@dataclass(frozen=True)
class Args:
    """Play a checkpoint or a baseline; seeds already on record are not played again."""

    agent: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="AGENT")]]
    """a run (its newest checkpoint), a checkpoint folder, or: random, expert, retrieve"""
    tasks: tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="TASK")]] = ()
    """suites, globs or names: babyai, metaworld/*, gym/Taxi; by default what the checkpoint was trained on"""
    suite: tuple[str, ...] = ()
    """whole suites, the same as naming them as tasks"""
    episodes: int = 50
    """episodes a task"""
    batch: int = 16
    """environments side by side"""
    seed: int = 0
    """which block of evaluation seeds (0 starts at 1000000000, each next one a million later)"""
    data: Path = Path("data")
    """folder with the demonstrations, for retrieve, prompts and random answers"""
    datasets: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATTERN")] = ("*",)
    """which of them retrieve and prompts take, such as '*/expert-v0'"""
    words: Split = "plain"
    """words in which BabyAI's missions of one clause are said: held-out ones are in no training data"""
    prompt_episodes: int = 0
    """demonstrations to draw prompts from; 0 for no prompt"""
    temperature: float = 0.0
    """0 takes the likeliest action, above it samples"""
    capacity: int = 50_000
    """steps of demonstrations that retrieve searches at most"""
    out: Path | None = None
    """run folder for evaluation/ and videos/; by default the checkpoint's run, or runs/NAME"""
    label: str | None = None
    """name in tables; by default the agent's"""
    pictures: bool = True
    """keep pictures of one episode a task for the report"""
    threads: int = 0
    """torch's CPU threads, 0 for torch's own choice"""


def main(args: Args) -> Summary:
    """Play what is missing, then sum up all that the run has on record."""
    if args.threads:
        torch.set_num_threads(args.threads)
    seeds = evaluation_seeds(args.episodes, args.seed)
    tasks = [registry.task(name) for name in task_names(args)]
    require_installed([task.name for task in tasks])
    agent = find_agent(
        args.agent,
        data=args.data,
        seed=args.seed,
        prompt_episodes=args.prompt_episodes,
        temperature=args.temperature,
        capacity=args.capacity,
        label=args.label or default_label(args),
        datasets=args.datasets,
    )
    playable = [task for task in tasks if agent.can_play(task)]
    if not playable:
        raise UserError(f"none of these tasks has an expert: {', '.join(task.name for task in tasks)}")
    if len(playable) < len(tasks):
        print("no expert, left out: " + ", ".join(task.name for task in tasks if task not in playable))
    run = run_folder(args)
    record_command(run)
    with Progress(len(playable) * args.episodes, f"evaluate {agent.label}", "episodes") as bar:
        for task in playable:
            results = evaluate_task(run, task, agent, seeds, args.batch, args.pictures, bar, words=args.words)
            bar.advance(args.episodes - len(results), note=task.name)
    summary = summarise_run(run, agent.label)
    write_json_atomic(run / "evaluation" / "summary.json", summary.to_json())
    print_summary(summary)
    print(f"every episode is in {run / 'evaluation'}; report: factotum report {run}")
    return summary


def default_label(args: Args) -> str | None:
    """Other words make another row of the table; None where the agent's own name says all."""
    if args.words == "plain":
        return None
    name = args.agent if args.agent in BASELINES else "gato"
    return f"{name}{'+prompt' * bool(args.prompt_episodes)}, words: {args.words}"


def evaluate_task(
    run: Path,
    task: Task,
    agent: AgentSpec,
    seeds: list[int],
    batch: int,
    pictures: bool,
    bar: Progress,
    words: Split = "plain",
) -> list[EpisodeResult]:
    """Play the seeds of one task that are not on record; the results that are new."""
    # About 128 pictures of the longest episode: drawing can cost more than playing.
    recorder = Recorder(seeds[0], every=max(1, task.max_steps // 128)) if pictures else None
    new: list[EpisodeResult] = []

    def count(result: EpisodeResult) -> None:
        new.append(result)
        bar.advance(1, note=task.name)

    key = {"task": task.name, "agent": agent.label, "checkpoint": agent.version(task)}
    make = task.make if words == "plain" else lambda: Paraphrased(task.make(), words)
    play = partial(agent.play, task, batch_size=batch, watch=recorder, make=make)
    play_missing(run / "evaluation", **key, seeds=seeds, play=play, on_episode=count)
    first = next((result for result in new if result.seed == seeds[0]), None)
    if recorder is not None and first is not None and _worth_showing(run / "videos", task.name, agent.label):
        recorder.save(run / "videos", task.name, agent.label, first)
    return new


def _worth_showing(folder: Path, task: str, label: str) -> bool:
    """Pictures of a baseline must not replace those of the agent that the run is about."""
    shown = read_rollout(folder, task)
    ranks = {name: rank for rank, name in enumerate(BASELINES)}
    return shown is None or ranks.get(label, len(ranks)) >= ranks.get(shown.agent, len(ranks))


def task_names(args: Args) -> list[str]:
    """What is to be played: the patterns given, or what the checkpoint was trained on.

    Raises:
        UserError: a pattern matches nothing, or none is given and the checkpoint does not say.
    """
    patterns = [*args.tasks, *args.suite]
    if patterns:
        return registry.expand(patterns)
    if args.agent in BASELINES:
        raise UserError(
            f"tasks: expected at least one for {args.agent}, such as babyai or gym/Taxi, got none"
        )
    return trained_tasks(find_checkpoint(args.agent))


def trained_tasks(checkpoint: Path) -> list[str]:
    """The tasks that a checkpoint was trained on, from its training state, or as they were shipped with it.

    Raises:
        UserError: the checkpoint holds neither.
    """
    if (checkpoint / TASKS).is_file():
        return list(read_json(checkpoint / TASKS))
    path = checkpoint / "training_state.json"
    if not path.is_file():
        raise UserError(f"tasks: expected at least one, {checkpoint} does not say what it was trained on")
    return sorted(read_json(path)["settings"]["data"])


def run_folder(args: Args) -> Path:
    """Where records go."""
    if args.out is not None:
        return args.out
    return Path("runs") / args.agent if args.agent in BASELINES else run_of(find_checkpoint(args.agent))


def summarise_run(run: Path, label: str | None = None) -> Summary:
    """All recorded episodes of a run, by stored references where random and expert were not played.

    Args:
        run: the run's folder.
        label: the agent that the summary is about; a baseline only if nothing else is on record.
    """
    lines = read_episodes(run / "evaluation")
    labels = {line["agent"] for line in lines}
    about = label if label in labels and (label not in BASELINES or labels <= set(BASELINES)) else None
    names = {line["task"] for line in lines}
    return summarise(lines, {name: references(name) for name in names}, agent=about, jat_score=jat_score)


def references(name: str) -> dict[str, Yardstick]:
    """The stored random and expert scores of a task; none for a task that is not registered here.

    >>> references("no/such")
    {}
    """
    try:
        task = registry.task(name)
    except UserError:
        return {}
    pairs = (("random", task.random), ("expert", task.expert))
    return {kind: Yardstick(one.score, one.source) for kind, one in pairs if one is not None}
