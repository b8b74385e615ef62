"""`factotum compose FILE --out RUN`: networks joined by a file are trained, evaluated and reported; resumable."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch import nn

from factotum.core.checks import UserError
from factotum.core.files import write_json_atomic
from factotum.core.seeding import derive_seed
from factotum.gats.model import GATS
from factotum.gats.objective import Encode, GATSObjective, encode_present
from factotum.gats.picture_codes import PictureCodes
from factotum.gats.remember import Remember
from factotum.recipes.compose_data import Material, prepare, sizes_of
from factotum.recipes.compose_evaluate import evaluate_composition
from factotum.recipes.compose_file import Composition, read_composition, read_values
from factotum.recipes.compose_model import load_weights, make_composition, sizes_of_model
from factotum.recipes.compose_report import report_composition
from factotum.recipes.compose_scenes import compose_scenes, make_scenes
from factotum.recipes.scene_file import SceneComposition, read_scenes
from factotum.training.checkpoint import plain_json
from factotum.training.distributed import make_accelerator
from factotum.training.provenance import record_command
from factotum.training.records import checkpoint_hash
from factotum.training.train import TrainResult, train


@dataclass(frozen=True)
class Args:
    """Join networks by their activations as a file says, train what is to be trained, and measure it.

    Run again, it goes on where it stopped. The trained part ends in RUN/model, with hashes of the frozen networks.
    """

    file: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="FILE")]]
    """the composition, a TOML file; `docs/gats.md` has its fields"""
    out: Path
    """folder of the run; an existing one is resumed"""
    set: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FIELD=VALUE")] = ()
    """values in place of the file's, such as training.seed=1 join.mode=late-fusion"""
    evaluate: bool = True
    """play and report when training is over"""
    time_limit_s: float | None = None
    """seconds of training after which to write a checkpoint and stop"""


def main(args: Args) -> dict[str, Any] | None:
    """Train, evaluate, report; what was measured, or None where training is not over.

    Raises:
        UserError: a wrong field of the file, tasks or sources that cannot be used, changed settings.
    """
    values = read_values(args.file, changes_of(args.set))
    file = (
        read_scenes(args.file, values)
        if "scenes" in values
        else read_composition(args.file, changes_of(args.set))
    )
    if file.training.threads:
        torch.set_num_threads(file.training.threads)
    record_command(args.out)
    if isinstance(file, SceneComposition):
        return compose_scenes(file, args.out, args.evaluate, args.time_limit_s)
    material = prepare(file, args.out)
    result = train_composition(file, material, args.out, args.time_limit_s)
    write_json_atomic(args.out / "config.json", file.to_json())
    if not result.finished:
        print(f"stopped after {result.step} of {file.training.steps} updates; the same command goes on")
        return None
    model = load_composition(file, material, result.checkpoint)
    model.save_pretrained(args.out / "model")
    if not args.evaluate:
        return {"model": sizes_of_model(model)}
    model.to(make_accelerator(file.training.device).device)
    found = evaluate_composition(args.out, file, material, model, checkpoint_hash(args.out / "model"))
    for label, arm in found["arms"].items():
        low, high = arm["interval"]
        print(f"{label}: success {arm['success']:.1%} [{low:.1%}, {high:.1%}]")
    print(f"report: {report_composition(args.out, file, material, model, found)}")
    return found


def changes_of(given: Sequence[str]) -> dict[str, Any]:
    """Values by field from FIELD=VALUE words; a value is TOML, or text.

    Raises:
        UserError: a word without "=".

    >>> changes_of(["training.seed=1", "join.mode=gats", "evaluation.guidance=[0.0, 1.5]"])
    {'training.seed': 1, 'join.mode': 'gats', 'evaluation.guidance': [0.0, 1.5]}
    """
    changes: dict[str, Any] = {}
    for word in given:
        name, sign, text = word.partition("=")
        if not sign or not name:
            raise UserError(f"--set: expected FIELD=VALUE, got {word!r}")
        try:
            changes[name] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            changes[name] = text
    return changes


def train_composition(
    file: Composition, material: Material, run: Path, time_limit_s: float | None = None
) -> TrainResult:
    """Train what is to be trained, going on from the newest checkpoint."""
    kept = file.training.remember
    encode: Encode = Remember(kept) if kept else encode_present
    return train(
        make_model=partial(make_composition, file, partial(sizes_of, material=material)),
        batch_source=material.batches(file),
        objective=GATSObjective(hidden=file.training.hidden, encode=encode),
        config=file.training.config(time_limit_s),
        run=run,
        save_model=_save,
        load_model=load_weights,
        settings=plain_json({"composition": file.to_json()}),
    )


def _save(model: nn.Module, folder: Path) -> None:
    assert isinstance(model, GATS)
    model.save_pretrained(folder)


def load_composition(file: Composition, material: Material, folder: Path | str) -> GATS:
    """The model of a file with trained weights from a checkpoint or RUN/model.

    Raises:
        UserError: weights of another composition, or other frozen ones.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(file.training.seed, "model"))  # new frozen networks are drawn again
        model = make_composition(file, partial(sizes_of, material=material))
    load_weights(model, Path(folder))
    return model.eval()


def trained_size(args: Args) -> int:
    """How many parameters a composition trains, for others to be made as large."""
    values = read_values(args.file, changes_of(args.set))
    if "scenes" in values:
        file_ = read_scenes(args.file, values)
        return sizes_of_model(make_scenes(file_, PictureCodes.load_folder(file_.scenes.codes)))["trained"]
    file = read_composition(args.file, changes_of(args.set))
    material = prepare(file, args.out)
    with torch.random.fork_rng(devices=[]):
        return sizes_of_model(make_composition(file, partial(sizes_of, material=material)))["trained"]
