"""`factotum meta-train optimizer`: a hierarchical RNN from nothing, resumable, measured on held-out problems."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from factotum.core.checks import UserError
from factotum.core.config import to_json_dict
from factotum.core.files import append_json_line, read_json, read_json_lines, write_json_atomic
from factotum.core.seeding import derive_seed
from factotum.optim import HierarchicalRNNConfig, HierarchicalRNNCore, load_core, save_core, shipped_config
from factotum.optim.training_core import TrainingCore
from factotum.recipes.meta_held_out import HeldOut, few_of_each
from factotum.recipes.meta_objective import UnrollObjective
from factotum.recipes.meta_problems import Dealing, deal
from factotum.recipes.meta_tasks import SetName, chosen_problems
from factotum.recipes.meta_unroll import ProblemGroup
from factotum.training.checkpoint import latest_checkpoint
from factotum.training.distributed import make_accelerator
from factotum.training.meta import meta_train
from factotum.training.meta_config import MetaConfig
from factotum.training.optimizer_report import write_optimizer_report
from factotum.training.provenance import read_commands, record_command
from factotum.training.train import TrainResult


@dataclass(frozen=True)
class Args:
    """Meta-train an optimizer; run again, it goes on where it stopped. The weights end in RUN/core."""

    system: tyro.conf.Positional[Annotated[Literal["optimizer"], tyro.conf.arg(metavar="optimizer")]]
    """what is trained: an optimizer that sees gradients"""
    run: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """folder of the run; an existing one is resumed"""
    problems: SetName = "all"
    """what is trained on: every problem, the released code's 101, the paper's (no networks), or none"""
    names: tuple[str, ...] = ()
    """problems added, by name"""
    tasks: tuple[str, ...] = ()
    """your own, added: module:function that returns (module, batches) or (module, batches, loss)"""
    held_out: int = 4
    """held-out copies of each kind of problem, 0 to measure nothing"""
    held_out_kinds: int = 3
    """kinds of each family that are measured"""
    held_out_steps: int = 200
    """steps that held-out problems are optimized for"""
    model: HierarchicalRNNConfig = field(default_factory=shipped_config)
    objective: UnrollObjective = field(default_factory=UnrollObjective)
    dealing: Dealing = field(default_factory=Dealing)
    training: MetaConfig = field(default_factory=MetaConfig)


def main(args: Args) -> TrainResult:
    """Train, measure at each checkpoint, end with the core's folder and a report.

    Raises:
        UserError: negative `held_out`, no `held_out_steps`, no problems, or what `meta_train` raises.
    """
    for name, least in (("held_out", 0), ("held_out_kinds", 1), ("held_out_steps", 1)):
        if getattr(args, name) < least:
            raise UserError(f"{name}: expected {least} or more, got {getattr(args, name)}")
    problems = chosen_problems(args.problems, args.names, args.tasks)
    record_command(args.run)
    device = make_accelerator(args.training.device).device
    small = [problem for problem in problems if not args.dealing.is_large(problem)] or problems
    kinds = few_of_each(small, args.held_out_kinds)
    held_out = HeldOut(kinds, args.held_out, args.held_out_steps, args.run, device)

    def measure(folder: Path, step: int) -> None:
        if args.held_out:
            write_measured(args.run, held_out.measure(folder, step, make_core(args)))

    newest = latest_checkpoint(args.run)
    if newest is not None:
        # the run may have been killed between a checkpoint and its measurement
        step = read_json(newest / "training_state.json")["step"]
        lines = read_json_lines(args.run / "metrics.jsonl")
        if not any(line["step"] == step and "held_out" in line for line in lines):
            measure(newest, step)

    def make_worlds(device: torch.device) -> list[ProblemGroup]:
        groups = deal(problems, args.dealing, args.training.seed)
        return [ProblemGroup(blocks, args.objective, device, weight) for blocks, weight in groups]

    result = meta_train(
        make_model=lambda: make_core(args),
        make_worlds=make_worlds,
        config=args.training,
        run=args.run,
        save_model=save_core,  # type: ignore[arg-type]
        load_model=lambda model, folder: model.load_state_dict(load_core(folder).state_dict()),
        on_checkpoint=measure,
        unit="scalars",
        settings=settings(args),
    )
    finish(args, result)
    return result


def make_core(args: Args) -> HierarchicalRNNCore:
    """The untrained core of a run's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(args.training.seed, "core"))
        return TrainingCore(args.model)


def settings(args: Args) -> dict[str, Any]:
    """What shapes the run beside the training's own configuration."""
    values = to_json_dict(args)
    shaping = ("system", "problems", "names", "tasks", "held_out", "held_out_kinds", "held_out_steps")
    return {name: values[name] for name in (*shaping, "model", "objective", "dealing")}


def write_measured(run: Path, measured: dict[str, Any]) -> None:
    """Numbers to the run's metrics, curves beside them."""
    write_json_atomic(run / "held_out.json", measured)
    append_json_line(run / "metrics.jsonl", {name: measured[name] for name in ("step", "held_out", "final")})


def finish(args: Args, result: TrainResult) -> None:
    """The core in a folder of its own with what made it, the picture and the report."""
    measured = read_json(args.run / "held_out.json") if (args.run / "held_out.json").is_file() else None
    made_by = {
        "commands": read_commands(args.run),
        "seed": args.training.seed,
        "step": result.step,
        "settings": settings(args),
        "training": to_json_dict(args.training),
        "held_out": measured and {name: measured[name] for name in ("step", "held_out", "final", "rates")},
    }
    save_core(load_core(result.checkpoint), args.run / "core", made_by)
    path = write_optimizer_report(args.run, measured, title=f"Optimizer: trained on {args.problems} problems")
    print(f"core: {args.run / 'core'}\nreport: {path}")
