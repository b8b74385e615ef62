"""The settings of one generalist, where its parts lie, and what each round of training is."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from factotum.core.checks import UserError
from factotum.core.files import read_json, write_json_atomic
from factotum.recipes import train
from factotum.recipes.collect import dataset_id
from factotum.recipes.generalist_budget import Budget, Setting, budget
from factotum.recipes.generalist_tasks import LEFT_OUT, WORD_LEVELS, Material, material
from factotum.recipes.policy_expert import policy_tasks
from factotum.recipes.train_start import OptimizerName
from factotum.training.checkpoint import checkpoint_folder, latest_checkpoint, plain_json, require_same
from factotum.training.config import TrainConfig
from factotum.worlds.suites import registry

Stage = Literal["collect", "train", "dagger", "evaluate", "report", "ship"]
STAGES: tuple[Stage, ...] = ("collect", "train", "dagger", "evaluate", "report", "ship")

Baseline = Literal["random", "expert", "retrieve"]

ROUND_RATE = 0.5
"""Highest learning rate of a further round over that of the first training."""

FREE = frozenset({"data", "rounds", "baselines", "episodes", "threads", "jobs", "ship_to", "run", "teachers"})
"""What may change when a run goes on: none of it changes weights that are there already."""


@dataclass(frozen=True)
class Plan:
    """All settings of a run; `factotum generalist --help` says what each is, `generalist_budget.Setting` the size's."""

    run: Path
    data: Path
    tasks: tuple[str, ...]
    setting: Setting
    scale: float
    rounds: int
    episodes: int
    baselines: tuple[Baseline, ...]
    steps: int
    round_steps: int
    tokens: Literal["fused", "scalar"]
    prompt_share: float
    adaptivity: float
    optimizer: OptimizerName
    longest: int
    teachers: tuple[str, ...]
    seed: int
    threads: int
    jobs: int
    ship_to: Path

    @property
    def left_out_data(self) -> Path:
        """Demonstrations that no training sees."""
        return self.data.with_name(f"{self.data.name}-left-out")

    @property
    def left_out(self) -> tuple[str, ...]:
        """Tasks to try that are not trained on; those of suites that are."""
        suites = {name.partition("/")[0] for name in self.tasks}
        return tuple(name for name in LEFT_OUT if name.partition("/")[0] in suites)

    @property
    def word_levels(self) -> tuple[str, ...]:
        """Levels to try in other words."""
        return tuple(name for name in WORD_LEVELS if name in self.tasks)

    @property
    def model(self) -> Path:
        """The trained weights in half precision, as they are evaluated and shipped."""
        return self.run / "model"

    @cached_property
    def size(self) -> train.Size:
        """Per-scalar tokens need a context for a whole timestep of them, and as many local positions."""
        if self.tokens == "fused":
            return replace(self.setting.size, tokens="fused")
        return replace(self.setting.size, tokens="scalar", context=512, observation_slots=512)

    @property
    def rows(self) -> int:
        """As many positions in an update, whatever the context."""
        context = self.setting.size.config().context
        return max(1, self.setting.rows * context // self.size.config().context)

    @cached_property
    def budget(self) -> Budget:
        """Of all rounds."""
        config, steps = self.size.config(), self.steps + self.rounds * self.round_steps
        weighted = [(registry.task(name), self.material(name).weight) for name in self.tasks]
        return budget(config, steps * self.rows * config.context, weighted)

    @cached_property
    def experts(self) -> dict[str, str]:
        """Folders of the policies that show some of the tasks."""
        return policy_tasks(self.teachers)

    def material(self, name: str) -> Material:
        """How much of a task there is."""
        return material(name, name in self.experts)

    def weights(self) -> tuple[tuple[str, float], ...]:
        """Of the mixture."""
        return tuple((name, self.material(name).weight) for name in self.tasks)

    def round_folder(self, number: int) -> Path:
        """Where a round of training lies; 0 is the first training, on demonstrations alone."""
        return self.run / f"round-{number}"

    def datasets(self, number: int) -> tuple[str, ...]:
        """What a round is trained on: each round has all that the one before had."""
        found = []
        for name in self.tasks:
            kinds = ["expert"] + ["words"] * bool(self.material(name).words)
            if self.material(name).round:
                kinds += [f"dagger-{earlier}" for earlier in range(1, number + 1)]
            found += [dataset_id(name, kind) for kind in kinds]
        return tuple(found)

    def checkpoint(self, number: int) -> Path:
        """The last checkpoint of a round.

        Raises:
            UserError: the round is not finished.
        """
        folder = checkpoint_folder(self.round_folder(number), self._steps(number))
        if not folder.is_dir():
            newest = latest_checkpoint(self.round_folder(number))
            got = "none" if newest is None else newest.name
            stage = "dagger" if number else "train"
            raise UserError(
                f"expected the finished training {folder}, got {got}; run the stage {stage} first"
            )
        return folder

    def last_checkpoint(self) -> Path:
        """Of the newest finished round.

        Raises:
            UserError: no training is finished.
        """
        finished = [number for number in range(self.rounds + 1) if self._is_finished(number)]
        return self.checkpoint(max(finished, default=0))

    def _is_finished(self, number: int) -> bool:
        return checkpoint_folder(self.round_folder(number), self._steps(number)).is_dir()

    def _steps(self, number: int) -> int:
        return self.round_steps if number else self.steps

    def training(self, number: int) -> train.Args:
        """`factotum train` of a round; further ones start from the weights of the one before."""
        steps, rate = self._steps(number), self.setting.learning_rate * (ROUND_RATE if number else 1.0)
        learned = self.optimizer != "adamw"
        return train.Args(
            run=self.round_folder(number),
            datasets=self.datasets(number),
            data=self.data,
            rows=self.rows,
            prompt_share=self.prompt_share,
            weights=self.weights(),
            adaptivity=self.adaptivity,
            target_spread=10.0,
            start=self.checkpoint(number - 1) if number else None,
            optimizer=self.optimizer,
            size=self.size,
            training=TrainConfig(
                steps=steps,
                learning_rate=1.0 if learned else rate,
                final_learning_rate_ratio=1.0 if learned else 0.02,
                warmup_steps=0 if learned else min(500, steps // 20),
                weight_decay=0.05,
                precision="bf16",
                log_every=max(1, min(200, steps // 10)),
                checkpoint_every=max(1, min(1000, steps // 2)),
                seed=self.seed + 1000 * number,
                threads=self.threads,
            ),
        )

    def remember(self) -> None:
        """Write the settings into the run, or hold them against those it was begun with.

        Raises:
            UserError: one is another now; the message names it.
        """
        path = self.run / "config.json"
        own = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}
        now: dict[str, Any] = plain_json(own)
        if path.is_file():
            require_same(read_json(path), now, ignored=FREE, where="settings")
        write_json_atomic(path, now)
