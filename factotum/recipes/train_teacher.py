"""`factotum train-teacher NAME`: a Q-network that plays one game, from nothing, resumable; then it can be distilled."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro

from factotum.core.checks import UserError
from factotum.core.config import to_json_dict
from factotum.core.files import read_json, write_json_atomic
from factotum.distill.agent import PolicyAgent
from factotum.distill.model import PolicyNetwork
from factotum.distill.store import load_policy, save_policy
from factotum.recipes.distill_rollouts import Film
from factotum.recipes.play_vector import RandomPlayer, play_episodes
from factotum.recipes.teacher_choice import Algorithm, Changes, configure, make_learner, teacher_network
from factotum.recipes.teacher_loop import LoopConfig, LoopResult, train_teacher
from factotum.recipes.teacher_pictures import save_game
from factotum.training.distributed import make_accelerator
from factotum.training.progress import Progress
from factotum.training.provenance import read_commands, record_command
from factotum.training.teacher_report import teacher_evaluation, write_teacher_report
from factotum.worlds.vector import VectorWorld, make_vector, vector_name

STEPS = {"minatar": 2_000_000, "atari": 10_000_000, "gym": 500_000}
"""Environment steps by family, where nothing is said."""

TOGETHER = 32
"""Games played at once when a policy is evaluated."""

TRAINING_BLOCK, FINAL_BLOCK = 0, 1
"""Blocks of evaluation seeds: those that choose the best policy, and those it is measured on."""


@dataclass(frozen=True)
class Args:
    """Train a teacher; run again, it goes on where it stopped. The policy ends in RUN/policy."""

    name: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="NAME")]]
    """the game: minatar/breakout, atari/Pong (or atari-pong), gym/CartPole-v1"""
    out: Path | None = None
    """folder of the run, runs/NAME by default; an existing one is resumed"""
    algorithm: Algorithm = "pqn"
    """pqn: many environments, no replay, the faster one; dqn: the paper's teachers"""
    network: str = "teacher"
    """size: teacher, net1, net2, net3, or mlp-64 and the like for vectors"""
    steps: int | None = None
    """environment steps; 2,000,000 for MinAtar, 10,000,000 for Atari, 500,000 for others"""
    seed: int = 0
    """of weights, exploration and episodes"""
    lost_lives_end: bool = True
    """in training a lost life ends an episode, as in DQN's; scores are of whole games always"""
    keep: Literal["best", "last"] = "best"
    """which policy ends in RUN/policy: the one that scored highest while training, or the last"""
    evaluate_every: int | None = None
    """steps between evaluations; a tenth of all by default"""
    checkpoint_every: int | None = None
    """steps between checkpoints, at most what a kill loses; a fortieth of all by default"""
    episodes: int = 32
    """games of an evaluation while training"""
    final_episodes: int = 100
    """games, from starts never used before, that the finished policy is measured on"""
    epsilon: float = 0.05
    """share of drawn actions in evaluations; 0.05 is the paper's"""
    time_limit_s: float | None = None
    """seconds after which to write a checkpoint and stop"""
    threads: int = 0
    """CPU threads of torch and of Atari, 0 for their own choice"""
    device: Literal["auto", "cpu"] = "auto"
    """"cpu" keeps off an accelerator that is there"""
    settings: Changes = field(default_factory=Changes)


def main(args: Args) -> LoopResult:
    """Train, evaluate, end with the policy's folder and a report.

    Raises:
        UserError: an unknown game, settings that make no sense, or what `train_teacher` raises.
    """
    name = vector_name(args.name)
    if args.episodes < 1 or args.final_episodes < 1:
        raise UserError(f"episodes: expected 1 or more, got {min(args.episodes, args.final_episodes)}")
    run = args.out or Path("runs") / name.replace("/", "-").lower()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = make_accelerator(args.device).device
    steps = args.steps or STEPS[name.partition("/")[0]]
    shape = make_vector(name, 1).observation_space.shape
    config = configure(args.algorithm, shape, args.settings)
    world = make_vector(name, config.environments, threads=args.threads)
    network = teacher_network(args.algorithm, args.network, world, args.seed, device)
    learner = make_learner(config, network, world, steps=steps, seed=args.seed, replay=run / "replay")
    loop = LoopConfig(
        steps=steps,
        checkpoint_every=args.checkpoint_every or max(1, steps // 40),
        evaluate_every=args.evaluate_every or max(1, steps // 10),
        log_every=max(1, steps // 200),
        time_limit_s=args.time_limit_s,
        lost_lives_end=args.lost_lives_end,
        seed=args.seed,
    )
    settings = {
        "name": name,
        "algorithm": args.algorithm,
        "network": to_json_dict(network.config),
        "learning": to_json_dict(config),
        "evaluation": {"episodes": args.episodes, "epsilon": args.epsilon},
    }
    record_command(run)
    judge = make_vector(name, min(TOGETHER, max(args.episodes, args.final_episodes)), threads=args.threads)

    def evaluate(network: PolicyNetwork) -> np.ndarray:
        agent = PolicyAgent(network, epsilon=args.epsilon, seed=args.seed)
        return play_episodes(judge, agent, args.episodes, TRAINING_BLOCK)

    result = train_teacher(world, learner, loop, run, evaluate=evaluate, settings=settings)
    world.close()
    finish(args, run, result, judge, settings)
    judge.close()
    return result


def finish(args: Args, run: Path, result: LoopResult, judge: VectorWorld, settings: dict[str, Any]) -> None:
    """The policy in a folder of its own with what made it; where training is over, its score; the report."""
    best = args.keep == "best"
    network = load_policy(run / "best" if best else result.checkpoint)
    step = read_json(run / "best" / "made_by.json")["step"] if best else result.step
    evaluation = measure(args, run, network, step, judge) if result.finished else None
    made_by = {
        "system": f"teacher ({args.algorithm.upper()})",
        "environment steps": step,
        "seed": args.seed,
        "minutes of training": round(result.seconds / 60, 1),
        **({"score": round(evaluation["policy"]["mean"], 3)} if evaluation else {}),
        "evaluation": evaluation,
        "settings": settings,
        "commands": read_commands(run),
    }
    save_policy(network, run / "policy", made_by)
    path = write_teacher_report(run, evaluation, title=f"Teacher: {settings['name']}")
    print(f"policy: {run / 'policy'}\nreport: {path}")


def measure(args: Args, run: Path, network: PolicyNetwork, step: int, judge: VectorWorld) -> dict[str, Any]:
    """Scores of the policy of a step and of random play on the same fresh starts, with pictures of the first game.

    What was measured before, in the same way, is read from `evaluation.json`.
    """
    how = {
        "kind": "teacher",
        "name": judge.name,
        "step": step,
        "epsilon": args.epsilon,
        "episodes": args.final_episodes,
    }
    known = teacher_evaluation(run)
    if known is not None and all(known.get(name) == value for name, value in how.items()):
        return known
    agent = PolicyAgent(network, epsilon=args.epsilon, seed=args.seed)
    chance, film = RandomPlayer(judge, args.seed), Film()
    with Progress(2 * args.final_episodes, f"evaluate {judge.name}", "games") as bar:
        scores = play_episodes(judge, agent, args.final_episodes, FINAL_BLOCK, watch=film, bar=bar)
        drawn = play_episodes(judge, chance, args.final_episodes, FINAL_BLOCK, bar=bar)
    evaluation = {**how, "policy": _described(scores), "random": _described(drawn)}
    save_game(run / "videos", judge.name, film, float(scores[0]))
    write_json_atomic(run / "evaluation.json", evaluation)
    return evaluation


def _described(scores: np.ndarray) -> dict[str, Any]:
    return {
        "mean": float(scores.mean()),
        "standard_error": float(scores.std() / np.sqrt(len(scores))),
        "lowest": float(scores.min()),
        "highest": float(scores.max()),
        "scores": scores.tolist(),
    }
