"""Text and pictures joined: one set of GATS parameters captions scenes and draws them; decoders stay as they are."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from factotum.core.checks import UserError
from factotum.core.files import write_json_atomic
from factotum.core.seeding import derive_seed
from factotum.gats.baselines import at_parameters, fine_tuned, make_joined
from factotum.gats.component import Component
from factotum.gats.model import GATS
from factotum.gats.objective import GATSObjective
from factotum.gats.parts import load_part
from factotum.gats.picture_codes import PictureCodes
from factotum.recipes.compose_model import KINDS, load_weights, sizes_of_model
from factotum.recipes.scene_data import SceneBatches, scene_shard, vocabulary
from factotum.recipes.scene_evaluate import evaluate_scenes, shown_scenes
from factotum.recipes.scene_file import SceneComposition
from factotum.recipes.scene_judge import Judge
from factotum.training.checkpoint import plain_json
from factotum.training.compose_report import write_scenes_report
from factotum.training.train import train


def compose_scenes(
    file: SceneComposition, run: Path, evaluate: bool = True, time_limit_s: float | None = None
) -> dict[str, Any] | None:
    """Train, evaluate, report; what was measured, or None where training is not over.

    Raises:
        UserError: networks that are missing or do not fit one another.
    """
    codes, judge = PictureCodes.load_folder(file.scenes.codes), Judge.load_folder(file.scenes.judge)
    shard = scene_shard(Path(file.scenes.folder), codes, file.scenes.count)
    make = partial(make_scenes, file, codes)
    result = train(
        make_model=make,
        batch_source=SceneBatches(
            shard, codes.config.vocabulary, file.training.batch, file.training.seed, file.scenes.directions
        ),
        objective=GATSObjective(hidden=file.training.hidden),
        config=file.training.config(time_limit_s),
        run=run,
        save_model=_save,
        load_model=load_weights,
        settings=plain_json({"composition": file.to_json()}),
    )
    write_json_atomic(run / "config.json", file.to_json())
    if not result.finished:
        print(f"stopped after {result.step} of {file.training.steps} updates; the same command goes on")
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(file.training.seed, "model"))
        model = make()
    load_weights(model, result.checkpoint)
    model.eval().save_pretrained(run / "model")
    found: dict[str, Any] = {"model": sizes_of_model(model), "mode": file.join.mode}
    if not evaluate:
        return found
    found |= evaluate_scenes(file, model, codes, judge, load_part(file.scenes.text)[0])
    write_json_atomic(run / "evaluation.json", found)
    for label, arm in found["arms"].items():
        low, high = arm["interval"]
        print(f"{label}: {arm['success']:.1%} [{low:.1%}, {high:.1%}]")
    print(f"report: {write_scenes_report(run, found, shown_scenes(file, model, codes))}")
    return found


def make_scenes(file: SceneComposition, codes: PictureCodes) -> GATS:
    """Both decoders and what joins them; draws from torch's generator.

    Raises:
        UserError: decoders of other vocabularies than words and codes have.
    """
    sizes = {"pictures": codes.config.vocabulary + 1, "text": vocabulary()}
    windows = {"pictures": file.scenes.picture_window, "text": file.scenes.text_window}
    sources = {"pictures": file.scenes.pictures, "text": file.scenes.text}
    components = {}
    for name, source in sources.items():
        module, config = load_part(source)
        if (config.kind, config.vocabulary) != ("decoder", sizes[name]):
            raise UserError(
                f"scenes.{name}: expected a decoder of {sizes[name]} ids, got a {config.kind} of {config.vocabulary}"
            )
        steered = name in file.scenes.steered
        components[name] = Component(module, windows[name], steered=steered, source=source)
    kind, config_ = KINDS[file.join.mode], file.join.config()
    if file.join.parameters:
        config_ = at_parameters(kind, components, config_, file.join.parameters)
    if file.join.mode == "full-fine-tuning":
        components = fine_tuned(components)
    return make_joined(kind, components, config_)


def _save(model: nn.Module, folder: Path) -> None:
    assert isinstance(model, GATS)
    model.save_pretrained(folder)
