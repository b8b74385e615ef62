"""`factotum meta-train sampler`: a learned optimizer from nothing, resumable, measured on held-out functions."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from factotum.core.checks import UserError
from factotum.core.config import to_json_dict
from factotum.core.files import append_json_line, read_json, read_json_lines, write_json_atomic
from factotum.recipes.meta_batches import HeldOut, MetaBatches, PriorName, Searches
from factotum.samplers import SamplerConfig, load_core, make_core, save_core
from factotum.samplers.improvement import ImprovementObjective
from factotum.samplers.objective import SamplerObjective
from factotum.training.checkpoint import latest_checkpoint
from factotum.training.config import TrainConfig
from factotum.training.distributed import make_accelerator
from factotum.training.provenance import read_commands, record_command
from factotum.training.search_report import write_search_report
from factotum.training.train import TrainResult, train


def default_training() -> TrainConfig:
    """The schedule of meta-training; Adam's moments are short, since losses change with the curriculum."""
    return TrainConfig(
        steps=10_000,
        learning_rate=1e-3,
        final_learning_rate_ratio=0.05,
        warmup_steps=200,
        initial_learning_rate=1e-6,
        betas=(0.9, 0.99),
        weight_decay=0.0,
        gradient_clip=1.0,
        checkpoint_every=500,
        log_every=20,
        tensorboard=False,
    )


@dataclass(frozen=True)
class Args:
    """Meta-train a sampler; run again, it goes on where it stopped. The weights end in RUN/core."""

    system: tyro.conf.Positional[
        Annotated[Literal["sampler", "optimizer"], tyro.conf.arg(metavar="{sampler,optimizer}")]
    ]
    """what is trained: a black-box optimizer, as shown here; or one that sees gradients, see
    `factotum meta-train optimizer --help`"""
    run: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """folder of the run; an existing one is resumed"""
    prior: PriorName = "broad"
    """functions: many kinds, or the paper's smooth Gaussian process (which loss ei needs)"""
    held_out: int = 128
    """functions of each held-out set, 0 to measure nothing"""
    model: SamplerConfig = field(default_factory=SamplerConfig)
    objective: SamplerObjective = field(default_factory=SamplerObjective)
    """of the cores that emit points: lstm, dnc, axial"""
    improvement: ImprovementObjective = field(default_factory=ImprovementObjective)
    """of the core that chooses among candidates: acquisition"""
    searches: Searches = field(default_factory=Searches)
    training: TrainConfig = field(default_factory=default_training)


def main(args: Args) -> TrainResult:
    """Train, measure at each checkpoint, end with the core's folder and a report.

    Raises:
        UserError: loss ei without the paper's prior, a negative `held_out`, or what `train` raises.
    """
    if args.system != "sampler":
        raise UserError(f"system: expected sampler, got {args.system}, which has a recipe of its own")
    if args.objective.loss == "ei" and args.prior != "paper":
        raise UserError(f"loss ei: expected prior paper, whose posterior is known exactly, got {args.prior}")
    if args.held_out < 0:
        raise UserError(f"held_out: expected 0 or more, got {args.held_out}")
    record_command(args.run)
    accelerator = make_accelerator(args.training.device)
    batches = MetaBatches(
        args.prior, args.model, args.searches, args.training.steps, args.training.seed, accelerator.device
    )
    held_out = HeldOut(batches, args.held_out) if args.held_out else None

    def measure(folder: Path, step: int) -> None:
        if held_out is not None:
            write_measured(args.run, held_out.measure(folder, step))

    newest = latest_checkpoint(args.run)
    if accelerator.is_main_process and newest is not None and held_out is not None:
        # the run may have been killed between a checkpoint and its measurement
        step = read_json(newest / "training_state.json")["step"]
        if not any(line["step"] == step and "held_out" in line for line in _metrics(args.run)):
            measure(newest, step)
    accelerator.wait_for_everyone()
    result = train(
        make_model=lambda: make_core(args.model),
        batch_source=batches,
        objective=args.improvement if args.model.core == "acquisition" else args.objective,
        config=args.training,
        run=args.run,
        save_model=save_core,  # type: ignore[arg-type]
        load_model=lambda model, folder: model.load_state_dict(load_core(folder).state_dict()),
        on_checkpoint=measure,
        settings=settings(args),
    )
    if accelerator.is_main_process:
        finish(args, result)
    return result


def settings(args: Args) -> dict[str, Any]:
    """What shapes the run beside the training's own configuration."""
    values = to_json_dict(args)
    shaping = ("system", "prior", "held_out", "model", "objective", "improvement", "searches")
    return {name: values[name] for name in shaping}


def write_measured(run: Path, measured: dict[str, Any]) -> None:
    """Numbers to the run's metrics, curves beside them."""
    write_json_atomic(run / "held_out.json", measured)
    line = {name: measured[name] for name in ("step", "held_out", "random")}
    append_json_line(run / "metrics.jsonl", line)


def finish(args: Args, result: TrainResult) -> None:
    """The core in a folder of its own with what made it, the picture and the report."""
    save_core(load_core(result.checkpoint), args.run / "core")
    measured = read_json(args.run / "held_out.json") if (args.run / "held_out.json").is_file() else None
    made_by = {
        "commands": read_commands(args.run),
        "seed": args.training.seed,
        "step": result.step,
        "settings": settings(args),
        "training": to_json_dict(args.training),
        "held_out": measured and {name: measured[name] for name in ("step", "held_out", "random")},
    }
    write_json_atomic(args.run / "core" / "made_by.json", made_by)
    path = write_search_report(args.run, measured, title=f"Sampler: {args.model.core}, {args.prior} prior")
    print(f"core: {args.run / 'core'}\nreport: {path}")


def _metrics(run: Path) -> list[dict[str, Any]]:
    return read_json_lines(run / "metrics.jsonl")
