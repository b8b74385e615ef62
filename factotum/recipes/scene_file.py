"""What a composition file says whose components read and draw scenes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from factotum.core.checks import UserError
from factotum.core.config import to_json_dict
from factotum.core.tables import read_table
from factotum.recipes.compose_file import JoinSection, TrainingSection
from factotum.recipes.scene_data import Direction


@dataclass(frozen=True)
class ScenesSection:
    """The networks, each RUN/model of `factotum pretrain codes|text|pictures|judge`, and how many scenes."""

    codes: str
    text: str
    pictures: str
    judge: str
    folder: str = "data"
    """where scenes are kept as codes"""
    count: int = 20_000
    """scenes of training"""
    directions: tuple[Direction, ...] = ("caption", "draw")
    """what is learnt; what writes in none of them is not steered"""
    text_window: int = 24
    picture_window: int = 65

    def __post_init__(self) -> None:
        if not self.directions or len(set(self.directions)) < len(self.directions):
            raise UserError(f"directions: expected caption, draw or both, got {self.directions}")
        if self.count < 1:
            raise UserError(f"count: expected 1 or more, got {self.count}")

    @property
    def steered(self) -> set[str]:
        """Components that write."""
        return {{"caption": "text", "draw": "pictures"}[direction] for direction in self.directions}


@dataclass(frozen=True)
class SceneEvaluation:
    """What is measured when training is over."""

    episodes: int = 500
    """scenes that no training had"""
    batch: int = 50
    """scenes side by side"""
    guidance: tuple[float, ...] = (0.0, 1.0)
    """weights of guidance by the text, when drawing"""
    temperature: float = 0.0
    """of drawn codes; 0 takes the likeliest"""
    top_k: int = 0
    """only so many likeliest codes can be drawn; 0 allows all"""


@dataclass(frozen=True)
class SceneComposition:
    """A composition file with a table [scenes]."""

    scenes: ScenesSection
    join: JoinSection = field(default_factory=JoinSection)
    training: TrainingSection = field(default_factory=TrainingSection)
    evaluation: SceneEvaluation = field(default_factory=SceneEvaluation)

    def __post_init__(self) -> None:
        if self.training.remember:
            raise UserError(
                f"training.remember: expected 0, decoders are not kept, got {self.training.remember}"
            )
        for name in self.training.hidden:
            if name not in ("text", "pictures"):
                raise UserError(f"training.hidden: expected text or pictures, got {name!r}")

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values, without what may change between a run and its resumption."""
        values = to_json_dict(self)
        values.pop("evaluation")
        for name in ("checkpoint_every", "threads"):
            values["training"].pop(name)
        values["scenes"].pop("folder")
        return values


def read_scenes(path: Path | str, values: dict[str, Any]) -> SceneComposition:
    """The composition of a file's values.

    Raises:
        UserError: a wrong field, named with what was expected and what came.
    """
    try:
        return read_table(SceneComposition, values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
