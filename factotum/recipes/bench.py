"""`factotum bench optimizer`: the learned optimizer beside tuned ones on a user's own model, as curves and a table."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from factotum.core.checks import UserError
from factotum.recipes.bench_report import write_bench_report
from factotum.recipes.bench_rivals import SWEPT, Rival, choose, learned
from factotum.recipes.bench_runs import Protocol, expected_runs, require_same_task, sweep
from factotum.recipes.bench_summary import standings, table_lines
from factotum.recipes.user_function import load_function
from factotum.training.provenance import record_command


@dataclass(frozen=True)
class Args:
    """Train your model by the learned optimizer and by rivals, each at its best learning rate.

    MODULE:FUNCTION takes no arguments and returns (model, batches, loss): a torch.nn.Module; a function of a
    torch.Generator that returns a batch, or an iterable of batches such as a DataLoader; and a function of model
    and batch that returns a scalar tensor (left out: the model returns its loss when called with a batch). It is
    called anew for every run, with torch, numpy and random seeded.
    Finished runs are kept: the same command again goes on, and with more seeds or rivals adds what is missing.
    """

    what: tyro.conf.Positional[Annotated[Literal["optimizer"], tyro.conf.arg(metavar="optimizer")]]
    """what is compared"""
    model: str
    """MODULE:FUNCTION, such as my.module:build"""
    out: Path | None = None
    """folder of runs and report; bench-MODULE-FUNCTION by default"""
    steps: int = 1000
    """training steps of each run"""
    seeds: int = 3
    """runs of each rival at its best rates: other starts, other batches"""
    rivals: tuple[str, ...] = SWEPT
    """any of adam, rmsprop, sgd (momentum .9), schedulefree (AdamW), muon (Adam for all but hidden matrices)"""
    rates: int = 10
    """learning rates that each rival is swept over; ours has none to tune"""
    finalists: int = 3
    """of them, how many are run with all seeds"""
    weights: tuple[str, ...] = ("hierarchical-rnn",)
    """of the learned optimizer: shipped names or folders"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """where to train"""


def main(args: Args) -> Path:
    """Make the missing runs, print the table, write the report.

    Raises:
        UserError: no such function, weights or rival, something else than a model, batches and a loss came back, or
            stored runs are of another model.
    """
    protocol = Protocol(args.steps, args.seeds, args.finalists, _device(args.device))
    if args.rates < 1:
        raise UserError(f"rates: expected at least 1, got {args.rates}")
    build = load_function("model", args.model)
    folder = args.out or Path("bench-" + re.sub(r"[^\w.]+", "-", args.model))
    task = require_same_task(folder / "runs.jsonl", build, protocol.device)
    rivals, left_out = choose(args.rivals, args.rates, task.model)
    ours = [learned(one) for one in args.weights]
    for line in left_out:
        print(line, file=sys.stderr)
    contestants: list[Rival] = [*ours, *rivals]
    if not contestants:
        raise UserError("rivals: expected at least one, or --weights, got neither")
    record_command(folder)
    _announce(contestants, protocol)
    sweep(folder / "runs.jsonl", build, contestants, protocol, f"bench {args.model}")
    found = standings(folder / "runs.jsonl", contestants, protocol)
    print("\n".join(table_lines(found, protocol)))
    path = write_bench_report(folder, found, protocol, title=args.model, left_out=left_out)
    print(f"report: {path}")
    return path


def _announce(contestants: list[Rival], protocol: Protocol) -> None:
    runs = sum(expected_runs(one, protocol) for one in contestants)
    names = ", ".join(one.label for one in contestants)
    print(f"{runs} runs of {protocol.steps} steps on {protocol.device}: {names}", file=sys.stderr)


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device: expected a GPU that torch can use, found none")
    return name
