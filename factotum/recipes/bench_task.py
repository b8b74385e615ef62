"""What is measured on? A model, its batches and its loss, made anew for every run by a user's function.

    def build():
        model = torch.nn.Linear(2, 1)

        def batches(generator):
            return torch.randn(32, 2, generator=generator)

        def loss(model, batch):
            return (model(batch) - batch.sum(dim=1, keepdim=True)).square().mean()

        return model, batches, loss

The same function can be given to `factotum meta-train optimizer --tasks`. What it does not know: optimizers.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from factotum.core.checks import UserError
from factotum.worlds.problems.module import call_with

Build = Callable[[], Any]
Batches = Callable[[torch.Generator], Any] | Iterable[Any]


@dataclass(frozen=True)
class Task:
    """One training problem, ready to run.

    Args:
        model: its parameters are what is trained.
        batches: a function of a generator that returns a batch, or an iterator of batches; or an iterable (a list,
            a DataLoader). What ends is begun again.
        loss: of the model and a batch; a scalar.
        seed: of the batches.
        device: where model and batches go.
    """

    model: nn.Module
    batches: Batches
    loss: Callable[[nn.Module, Any], Tensor]
    seed: int = 0
    device: str = "cpu"

    def stream(self) -> Iterator[Any]:
        """Batches without end.

        Raises:
            UserError: there are none, or an iterator came to its end that cannot be begun again.

        >>> from itertools import islice
        >>> list(islice(Task(nn.Linear(1, 1), [1, 2], lambda model, batch: model(batch)).stream(), 3))
        [1, 2, 1]
        """
        generator = torch.Generator().manual_seed(self.seed)
        given = 0
        while True:
            before = given
            for batch in self._passed(generator):
                given += 1
                yield moved(batch, self.device)
            if given == before:
                raise UserError(
                    "batches: expected a list, a DataLoader or a function of a generator, got one that gave "
                    + (f"{given} batches and then no more" if given else "no batch")
                )

    def _passed(self, generator: torch.Generator) -> Iterable[Any]:
        if not callable(self.batches):
            return self.batches
        given = self.batches(generator)
        is_batch = isinstance(given, Tensor | tuple | list | dict) or not isinstance(given, Iterable)
        return [given] if is_batch else given

    def value(self, batch: Any) -> Float[Tensor, ""]:
        """The loss on a batch.

        Raises:
            UserError: it is no scalar.
        """
        loss = self.loss(self.model, batch)
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.is_floating_point():
            got = (
                f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            )
            raise UserError(f"loss(model, batch): expected a scalar tensor, got {got}")
        return loss.reshape(())


def moved(batch: Any, device: str) -> Any:
    """A batch with its tensors, and those of its tuples, lists and dictionaries, on a device.

    >>> moved((torch.zeros(1), [2, {"x": torch.ones(1)}]), "cpu")
    (tensor([0.]), [2, {'x': tensor([1.])}])
    """
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, dict):
        return {name: moved(value, device) for name, value in batch.items()}
    if isinstance(batch, tuple | list):
        parts = [moved(value, device) for value in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch


def seed_everything(seed: int) -> None:
    """Seed the global generators of torch, numpy and Python: a user's code draws from them."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def make_task(build: Build, seed: int, device: str = "cpu") -> Task:
    """Call `build` with every global generator seeded, and check what it returns.

    Raises:
        UserError: it needs arguments, or returns anything but a model with trainable parameters, batches, and a
            loss (none: the model returns its loss when it is called with a batch).
    """
    seed_everything(seed)
    try:
        built = build()
    except TypeError as error:
        if _is_call_itself(error):
            raise UserError(f"build: expected a function without arguments: {error}") from error
        raise
    if not isinstance(built, tuple | list) or len(built) not in (2, 3):
        size = f" of {len(built)}" if isinstance(built, tuple | list) else ""
        raise UserError(
            f"build: expected a tuple (model, batches, loss) or (model, batches), got {type(built).__name__}{size}"
        )
    model, batches, loss = built if len(built) == 3 and built[2] is not None else (*built[:2], call_with)
    if not isinstance(model, nn.Module):
        raise UserError(f"build: expected a torch.nn.Module first, got {type(model).__name__}")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError("build: expected a model with trainable parameters, got none")
    if not callable(batches) and not isinstance(batches, Iterable):
        raise UserError(
            f"build: expected batches second, a function of a generator or an iterable, got {type(batches).__name__}"
        )
    if not callable(loss):
        raise UserError(f"build: expected loss(model, batch) third, got {type(loss).__name__}")
    return Task(model.to(device), batches, loss, seed, device)


def _is_call_itself(error: TypeError) -> bool:
    """Whether the call failed before any line of the function ran."""
    trace = error.__traceback__
    return trace is not None and trace.tb_next is None


def first_loss(task: Task) -> float:
    """The loss on the first batch before any step: tells whether stored runs belong to this model.

    Raises:
        UserError: no batch, no scalar, one that does not depend on the parameters, or one that is not finite.
    """
    loss = task.value(next(task.stream()))
    if not loss.requires_grad:
        raise UserError(
            "loss(model, batch): expected a value that depends on the parameters, got one without a graph"
        )
    if not bool(loss.isfinite()):
        raise UserError(f"loss(model, batch): expected a finite value before training, got {loss.item()}")
    return loss.item()
