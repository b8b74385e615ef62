"""What training starts from beside the data: weights of a checkpoint, and which optimizer moves them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import nn

from factotum.core.checks import UserError
from factotum.core.config import from_json_dict, to_json_dict
from factotum.core.files import read_json, write_bytes_atomic
from factotum.gato.config import GatoConfig
from factotum.gato.model import Gato
from factotum.gato.statistics import Statistics
from factotum.training.checkpoint import require_same
from factotum.training.config import TrainConfig
from factotum.training.learner import MakeOptimizer
from factotum.training.records import checkpoint_hash
from factotum.training.schedule import decay_groups

OptimizerName = Literal["adamw", "hierarchical-rnn"]

LEAST_MULTIPLE = 1e-2
"""Of the learned optimizer's own step: smaller is a learning rate that was meant for AdamW."""


@dataclass(frozen=True)
class Start:
    """A checkpoint whose weights a new run starts from, with what they mean something to.

    Args:
        folder: of the checkpoint.
        statistics: of the bodies that it knows.
        hash: of its files.
    """

    folder: Path
    statistics: Statistics = field(repr=False)
    hash: str

    @classmethod
    def read(cls, folder: Path, config: GatoConfig) -> Start:
        """A checkpoint of the same configuration.

        Raises:
            UserError: no checkpoint, or one of another configuration; the message names the first difference.
        """
        if not (folder / "model.safetensors").is_file():
            raise UserError(f"start: expected a checkpoint's folder with model.safetensors, got {folder}")
        stored = read_json(folder / "config.json")
        found = to_json_dict(from_json_dict(GatoConfig, stored["config"]))
        try:
            require_same(found, to_json_dict(config), where="size")
        except UserError as error:
            reason = str(error).removeprefix("cannot resume: ")
            raise UserError(f"start: expected a checkpoint of the run's size: {reason}") from error
        statistics = Statistics(**read_json(folder / "statistics.json"))
        return cls(folder, statistics, checkpoint_hash(folder))

    def give_tokenizer(self, run: Path, needed: bool) -> None:
        """Put the checkpoint's tokenizer into a run that has none yet.

        Raises:
            UserError: the run has another one, or texts need one that the checkpoint does not have.
        """
        own, given = run / "tokenizer.json", self.folder / "tokenizer.json"
        if not given.is_file():
            if needed:
                raise UserError(
                    f"start: expected a tokenizer for the texts of the data, {given} is not there"
                )
            return
        if not own.exists():
            write_bytes_atomic(own, given.read_bytes())
        elif own.read_bytes() != given.read_bytes():
            raise UserError(f"start: expected the tokenizer of {given}, {own} is another one")

    def load_into(self, model: Gato) -> Gato:
        """The model with the checkpoint's weights."""
        model.load_weights(self.folder / "model.safetensors")
        return model


def learned_optimizer(model: nn.Module, config: TrainConfig) -> Any:
    """`HierarchicalRNN` over the groups that AdamW would have; the schedule multiplies its own step."""
    from factotum.optim import HierarchicalRNN

    groups = decay_groups(model, config.weight_decay)
    return HierarchicalRNN(groups, lr=config.learning_rate, seed=config.seed)


def choose_optimizer(name: OptimizerName, config: TrainConfig) -> MakeOptimizer | None:
    """What makes the optimizer; None for the training loop's own AdamW.

    Raises:
        UserError: a learning rate that is none for a learned optimizer.

    >>> choose_optimizer("hierarchical-rnn", TrainConfig(learning_rate=1e-4))
    Traceback (most recent call last):
    factotum.core.checks.UserError: learning_rate: expected a multiple of the learned step, such as 1, got 0.0001
    """
    if name == "adamw":
        return None
    if config.learning_rate < LEAST_MULTIPLE:
        raise UserError(
            f"learning_rate: expected a multiple of the learned step, such as 1, got {config.learning_rate:g}"
        )
    return learned_optimizer


def optimizer_identity(name: OptimizerName) -> dict[str, str]:
    """What a resumed run has to have the same of; nothing for AdamW, whose settings are the configuration's."""
    if name == "adamw":
        return {}
    from factotum.optim.store import load_core, weights_hash

    return {"optimizer": f"{name} {weights_hash(load_core(name))[:16]}"}
