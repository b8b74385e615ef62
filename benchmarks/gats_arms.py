"""The arms of the four experiments: what each changes in its file, and what has to be trained before."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from factotum.recipes import pretrain, pretrain_scenes

FILES = Path(__file__).parents[1] / "examples" / "gats"
Fields = dict[str, Any]

JOINS: dict[str, Fields] = {
    "gats": {},
    "cross-attention": {"join.mode": "cross-attention"},
    "late-fusion": {"join.mode": "late-fusion"},
    "action-alone": {"join.mode": "action-alone"},
    "full-fine-tuning": {"join.mode": "full-fine-tuning"},
}
"""Ways of joining; cross-attention and late fusion get the width at which as many parameters are trained."""


@dataclass(frozen=True)
class Experiment:
    """One experiment.

    Args:
        name: of its file and its results.
        arms: fields of the file that each changes.
        sweep: the same, for windows and layers.
        before: what is trained first: name of the run, recipe, options.
        parts: for each component that comes from one of these runs, its name.
    """

    name: str
    arms: dict[str, Fields]
    sweep: dict[str, Fields] = field(default_factory=dict)
    before: tuple[tuple[str, Any, Fields], ...] = ()
    parts: tuple[tuple[str, str], ...] = ()

    @property
    def file(self) -> Path:
        """Its composition file."""
        return FILES / f"{self.name}.toml"

    def sources(self, runs: Path) -> list[str]:
        """Where its components come from, as fields."""
        return [f'{field}="{runs / run / "model"}"' for field, run in self.parts]


ROOMS = ("pixels/GoToLocal", "pixels/PickupLoc", "pixels/OpenDoor", "pixels/PutNextLocal")
SCRATCH = {
    "components.text.source": "new", "components.text.width": 128, "components.text.depth": 2,
    "components.text.heads": 4,
}  # fmt: skip
"""The instruction's words learnt from nothing, by a small encoder that is trained with the rest."""


def layers(*counts: int) -> dict[str, Fields]:
    """Arms of other numbers of GATS layers."""
    return {f"layers-{count}": {"join.layers": count} for count in counts}


LANGUAGE = Experiment(
    "language",
    arms={**JOINS, "scratch": SCRATCH},
    sweep={
        **layers(1, 2, 6),
        "frames-2": {"components.vision.window": 98},
        "patches-12": {"components.vision.window": 12},
        "words-4": {"components.text.window": 4},
        "own-1": {"components.action.window": 1},
    },
    before=(
        (
            "vision",
            pretrain,
            {"what": "vision", "tasks": ROOMS, "episodes": 2000, "image": 56, "steps": 3000, "batch": 64},
        ),
    ),
    parts=(("components.vision.source", "vision"),),
)

STEERED = {f"components.{name}.steered": True for name in ("corner", "hand")}
"""Frozen networks whose streams the others change too; otherwise they give features alone."""

ROBOT = Experiment(
    "robot",
    arms={**JOINS, "steered": STEERED},
    sweep={
        **layers(1, 2, 6),
        "frames-2": {"components.corner.window": 128, "components.hand.window": 128},
        "patches-16": {"components.corner.window": 16, "components.hand.window": 16},
        "own-1": {"components.action.window": 1},
    },
    before=(
        (
            "cameras",
            pretrain,
            {
                "what": "vision", "tasks": ("cameras",), "keys": ("corner", "hand"), "episodes": 20,
                "steps": 6000, "batch": 96, "width": 128,
            },
        ),
    ),
    parts=(("components.corner.source", "cameras"), ("components.hand.source", "cameras")),
)  # fmt: skip

GAMES = tuple(
    f"atari/{game}" for game in ("Breakout", "Freeway", "SpaceInvaders", "Tennis", "Boxing", "IceHockey")
)
PONG = Experiment(
    "pong",
    arms=JOINS,
    sweep={
        **layers(1, 2, 6),
        "frames-2": {"components.vision.window": 200},
        "patches-25": {"components.vision.window": 25},
        "own-1": {"components.action.window": 1},
    },
    before=(
        (
            "games",
            pretrain,
            {
                "what": "vision", "tasks": GAMES, "name": "random", "episodes": 8, "steps": 6000, "batch": 48,
                "width": 128,
            },
        ),
    ),
    parts=(("components.vision.source", "games"),),
)  # fmt: skip

SCENES = Experiment(
    "scenes",
    arms={
        **{arm: fields for arm, fields in JOINS.items() if arm != "cross-attention"},
        **{
            f"cross-attention-{way}": {"join.mode": "cross-attention", "scenes.directions": (way,)}
            for way in ("caption", "draw")
        },
    },
    sweep={
        **layers(1, 2, 4),
        "window-16": {"scenes.picture_window": 16},
        "words-4": {"scenes.text_window": 4},
    },
    before=(
        ("codes", pretrain_scenes, {"what": "codes", "width": 64, "steps": 6000}),
        ("text", pretrain_scenes, {"what": "text", "steps": 4000, "batch": 64}),
        ("judge", pretrain_scenes, {"what": "judge", "width": 48, "steps": 6000}),
        ("pictures", pretrain_scenes, {"what": "pictures", "width": 192, "steps": 12_000}),
    ),
    parts=tuple((f"scenes.{name}", name) for name in ("codes", "text", "pictures", "judge")),
)
"""Cross-attention goes one way: a model for each direction, each with as many trained parameters as GATS for both."""

EXPERIMENTS = {one.name: one for one in (LANGUAGE, ROBOT, PONG, SCENES)}
