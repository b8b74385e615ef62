"""What a composition file says: components, what joins them, data, training, evaluation; every field is checked."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from factotum.core.checks import UserError, unknown
from factotum.core.config import to_json_dict
from factotum.core.tables import read_table
from factotum.gats.config import GATSConfig, Graft, Positions, Update
from factotum.gats.parts import Kind, PartConfig
from factotum.gats.sampling import Guidance
from factotum.training.config import TrainConfig

Mode = Literal["gats", "cross-attention", "late-fusion", "action-alone", "full-fine-tuning"]
READS = {
    "sentence-encoder": "instruction",
    "vision-encoder": "picture:image",
    "state-encoder": "state:state",
    "decoder": "action",
}
"""What a component reads where the file does not say."""


@dataclass(frozen=True)
class JoinSection:
    """What joins the components; see `factotum.gats.GATSConfig`."""

    mode: Mode = "gats"
    layers: int = 4
    width: int = 64
    heads: int = 4
    feed_forward: float = 4.0
    positions: Positions = "index"
    update: Update = "residual"
    graft: Graft = "round"
    parameters: int = 0
    """trained parameters to come near to by changing the width; 0 leaves the width as it is"""

    def config(self) -> GATSConfig:
        """Sizes of the joining part."""
        names = ("layers", "width", "heads", "feed_forward", "positions", "update", "graft")
        return GATSConfig(**{name: getattr(self, name) for name in names})


@dataclass(frozen=True)
class ComponentSection:
    """One network."""

    kind: Kind
    source: str = "new"
    """"new", "package:NAME", or a folder that `factotum pretrain` wrote"""
    reads: str = ""
    """instruction, picture:KEY, state:KEY or action; by the kind where nothing is said"""
    window: int = 32
    frozen: bool | None = None
    """by default what is not new"""
    steered: bool | None = None
    """whether the others change it; by default what acts. Others can be: their streams then carry what was gathered"""
    every: int = 0
    """steps between pictures (0 or 1: at every step), or between repeats of the instruction (0: none)"""
    width: int = 128
    depth: int = 4
    heads: int = 4
    patch: int = 8
    image: int = 0
    """height and width of the picture that is seen; 0 for all of it"""

    def __post_init__(self) -> None:
        _require("window", self.window >= 0, "0 or more", self.window)
        _require("every", self.every >= 0, "0 or more", self.every)
        word, _, key = self.input.partition(":")
        fits = self.input in ("instruction", "action") or (word in ("picture", "state") and key)
        _require("reads", bool(fits), "instruction, picture:KEY, state:KEY or action", self.input)
        wanted = READS[self.kind].partition(":")[0]
        _require("reads", word == wanted, f"{wanted} for a {self.kind}", self.input)
        if self.source == "new":
            PartConfig(self.kind, width=self.width, depth=self.depth, heads=self.heads)

    @property
    def input(self) -> str:
        """What it reads."""
        return self.reads or READS[self.kind]

    @property
    def is_frozen(self) -> bool:
        """Whether it stays as it is."""
        return self.source != "new" if self.frozen is None else self.frozen

    @property
    def is_steered(self) -> bool:
        """Whether the others change it."""
        return self.input == "action" if self.steered is None else self.steered


@dataclass(frozen=True)
class DataSection:
    """What is learnt from: demonstrations, collected where they are missing."""

    tasks: tuple[str, ...]
    """names or patterns as in `factotum tasks`; all of one action space"""
    folder: str = "data"
    """of datasets"""
    name: str = "expert"
    """of the datasets; "expert" and "random" are collected where they are missing"""
    episodes: int = 1000
    """of each task"""
    expert: str = ""
    """with "expert": folder of a trained policy that plays in place of the tasks' own experts"""
    noise: float = 0.0
    """with "expert": share of steps that execute a random action while the expert's is learnt"""
    steps: int = 64
    """longest window, and what the acting component remembers"""
    bins: int = 64
    """of a continuous action"""
    paraphrase: bool = False
    """say missions in other words, of those kept for training"""

    def __post_init__(self) -> None:
        _require("tasks", bool(self.tasks), "at least one task", self.tasks)
        for name in ("episodes", "steps"):
            _require(name, getattr(self, name) >= 1, "1 or more", getattr(self, name))
        _require(
            "noise",
            0 <= self.noise < 1 and (not self.noise or self.name == "expert"),
            "0 to 1, with expert",
            self.noise,
        )
        _require(
            "expert", not self.expert or self.name == "expert", 'none where name is not "expert"', self.expert
        )
        _require("bins", self.bins >= 2, "2 or more", self.bins)


@dataclass(frozen=True)
class TrainingSection:
    """How long, how much, how fast."""

    steps: int = 10_000
    batch: int = 16
    rate: float = 1e-3
    warmup: int = 200
    final_rate: float = 0.05
    """last rate over highest"""
    weight_decay: float = 0.01
    seed: int = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    hidden: dict[str, float] = field(default_factory=dict)
    """for guidance: the share of rows that are trained without a component"""
    remember: float = 0.0
    """gigabytes for what frozen encoders gave, in bfloat16, so that a picture is run once; 0 runs it each time"""
    checkpoint_every: int = 1000
    log_every: int = 50
    threads: int = 0
    device: Literal["auto", "cpu"] = "auto"

    def __post_init__(self) -> None:
        _require("batch", self.batch >= 1, "1 or more", self.batch)
        _require("remember", self.remember >= 0, "0 or more", self.remember)
        self.config()

    def config(self, time_limit_s: float | None = None) -> TrainConfig:
        """What the training loop takes."""
        return TrainConfig(
            steps=self.steps, learning_rate=self.rate, warmup_steps=min(self.warmup, self.steps - 1),
            final_learning_rate_ratio=self.final_rate, weight_decay=self.weight_decay, seed=self.seed,
            precision=self.precision, checkpoint_every=self.checkpoint_every, log_every=self.log_every,
            threads=self.threads, device=self.device, time_limit_s=time_limit_s,
        )  # fmt: skip


@dataclass(frozen=True)
class EvaluationSection:
    """What is measured when training is over."""

    episodes: int = 100
    """of each task"""
    batch: int = 16
    """environments side by side"""
    splits: tuple[Literal["plain", "training", "held-out", "words", "order"], ...] = ("plain",)
    """in whose words missions are said (`factotum.worlds.paraphrase`)"""
    guidance: tuple[float, ...] = (0.0,)
    """weights to measure"""
    condition: str = "text"
    """component that guidance follows"""
    max_steps: int = 0
    """steps after which an episode is cut; 0 for the task's own bound"""
    repeat: int = 0
    """another number plays other episodes"""

    def __post_init__(self) -> None:
        for name in ("episodes", "batch"):
            _require(name, getattr(self, name) >= 1, "1 or more", getattr(self, name))
        _require("splits", bool(self.splits), "at least one", self.splits)
        _require("guidance", bool(self.guidance), "at least one weight", self.guidance)
        for weight in self.guidance:
            Guidance(self.condition, weight)


@dataclass(frozen=True)
class Composition:
    """A composition file."""

    components: dict[str, ComponentSection]
    data: DataSection
    join: JoinSection = field(default_factory=JoinSection)
    training: TrainingSection = field(default_factory=TrainingSection)
    evaluation: EvaluationSection = field(default_factory=EvaluationSection)

    def __post_init__(self) -> None:
        acting = [name for name, part in self.components.items() if part.input == "action"]
        _require("components", len(acting) == 1, "exactly one that reads action", acting or "none")
        _require("components", acting == list(self.components)[-1:], "the one that acts last", acting)
        try:
            self.join.config()
        except UserError as error:
            raise UserError(f"join.{error}") from error
        for name in self.training.hidden:
            if name not in self.components:
                raise unknown("component in training.hidden", name, self.components)
        if any(self.evaluation.guidance) and self.evaluation.condition not in self.components:
            raise unknown("component in evaluation.condition", self.evaluation.condition, self.components)

    @property
    def acts(self) -> str:
        """Name of the component that acts."""
        return list(self.components)[-1]

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values, without what may change between a run and its resumption."""
        values = to_json_dict(self)
        values.pop("evaluation")
        for name in ("checkpoint_every", "threads"):
            values["training"].pop(name)
        values["data"].pop("folder")
        return values


def read_composition(path: Path | str, changes: Mapping[str, Any] | None = None) -> Composition:
    """Read a composition file (TOML) of components that act.

    Args:
        path: the file.
        changes: values by dotted name that take the place of the file's, such as {"training.seed": 1}.

    Raises:
        UserError: no such file, no TOML, or a wrong field, named with what was expected and what came.
    """
    try:
        return read_table(Composition, read_values(path, changes))
    except UserError as error:
        raise error if str(error).startswith(str(path)) else UserError(f"{path}: {error}") from error


def read_values(path: Path | str, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What a file holds, with changes.

    Raises:
        UserError: no such file, no TOML, or a change inside of what is no table.
    """
    path = Path(path)
    try:
        values = tomllib.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path}: expected a composition file: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: expected TOML, got something that does not parse: {error}") from error
    for name, value in (changes or {}).items():
        *outer, last = name.split(".")
        table = values
        for part in outer:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise UserError(f"{path}: expected a table at {part!r} of {name!r}, got {table!r}")
        table[last] = value
    return values


def _require(name: str, holds: bool, expected: str, got: Any) -> None:
    if not holds:
        raise UserError(f"{name}: expected {expected}, got {got!r}")
