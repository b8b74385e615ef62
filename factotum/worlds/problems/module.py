"""A user's own task as a problem: B copies of a module, each initialised anew, trained on batches of a source.

Local letters: B copies, E evaluation batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, replace_all_batch_norm_modules_, vmap

from factotum.core.checks import UserError
from factotum.core.trees import Tree, tree_items, tree_map
from factotum.worlds.problems.problem import Data, Parameters, Problem

Model = Callable[..., Any]
SEED = "seed"
"""The tensor that tells a minibatch from the evaluation data: dropout is on, and drawn from it."""


class Task(NamedTuple):
    """What a user's `build` returns.

    Args:
        module: freshly initialised; its parameters that require gradients are trained.
        batches: a source: from a generator to a batch, a tensor or a tuple, list or dictionary of tensors whose
            shapes are always the same.
        loss: from the module (a callable with its signature) and a batch to a scalar, not negative unless the
            problem says its minimum. None: the module itself returns its loss when called with the batch.
    """

    module: nn.Module
    batches: Callable[[torch.Generator], Tree]
    loss: Callable[[Model, Tree], Tensor] | None = None


def call_with(model: Model, batch: Tree) -> Tensor:
    """The loss of a module that computes its own: the parts of a batch are its arguments.

    >>> x, y = torch.ones(2)
    >>> call_with(torch.add, (x, y)), call_with(lambda left, right: left - right, {"left": x, "right": y})
    (tensor(2.), tensor(0.))
    """
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, tuple | list) else model(batch)


class ModuleProblem(Problem):
    r"""$f(\theta)$ = a module's mean loss over E fixed evaluation batches; gradients are of fresh batches.

    Copies start from initialisations of their own (`build` is called once for each, under a seed of the
    generator's) and have evaluation batches of their own. Dropout and other randomness in the module is on in
    gradients, off or always the same in losses.

    Args:
        build: returns a `Task`, or a tuple like one, with the same shapes each time. Keep what is costly, such as
            loading data, out of it.
        name: what the problem is called; by default `build`'s name.
        family: which part of a corpus it counts as.
        evaluation_batches: E.
        vectorise: all copies in one call (`torch.func.vmap`); False: one after the other, for modules that vmap
            cannot run.
        minimum: lowest value, where known.

    Raises:
        UserError: nothing to train, a loss that is not one finite number, batches that are not trees of tensors,
            or buffers that change when the module is run. Batch norm is not refused: it uses its batch's
            statistics, in gradients and in losses.

    >>> def build():
    ...     module = nn.Linear(3, 1)
    ...     batches = lambda generator: torch.randn(8, 3, generator=generator)
    ...     return module, batches, lambda model, x: (model(x) - x.sum(-1, keepdim=True)).square().mean()
    >>> generator = torch.Generator().manual_seed(0)
    >>> instances = ModuleProblem(build, "linear").draw(4, generator)
    >>> parameters = instances.initial(generator)
    >>> parameters[0].shape, instances.loss(parameters).shape
    (torch.Size([4, 1, 3]), torch.Size([4]))
    """

    def __init__(
        self,
        build: Callable[[], tuple],
        name: str | None = None,
        family: str = "module",
        evaluation_batches: int = 4,
        vectorise: bool = True,
        minimum: float | None = None,
    ) -> None:
        if evaluation_batches < 1:
            raise UserError(f"expected at least 1 evaluation batch, got {evaluation_batches}")
        self.build, self.vectorise, self.evaluation_batches = build, vectorise, evaluation_batches
        label = name or str(getattr(build, "__name__", "module"))
        with _seeded(0):
            task = self._built(label)
        self.module, self.batches, self.loss_of = task.module, task.batches, task.loss or call_with
        trained = {key: p for key, p in self.module.named_parameters() if p.requires_grad}
        self.names = tuple(trained)
        self.constants = {
            key: tensor.detach()
            for key, tensor in (*self.module.named_parameters(), *self.module.named_buffers())
            if key not in trained
        }
        self.example = self.batches(torch.Generator().manual_seed(0))
        leaves = _leaves(label, self.example)
        shapes = {key: (evaluation_batches, *leaf.shape) for key, leaf in leaves.items()}
        super().__init__(label, family, [p.shape for p in trained.values()], minimum, 0.0, shapes)
        if not trained:
            raise UserError(f"{label}: expected parameters that require gradients, got none")
        self._probe(leaves)

    def data(self, batch: int, generator: torch.Generator) -> Data:
        """E evaluation batches for each copy."""
        return self._batches(batch, self.evaluation_batches, generator)

    def start(self, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Parameters of modules built under seeds of their own."""
        seeds = torch.randint(2**62, (batch,), generator=generator, device=generator.device).tolist()
        copies = [self._fresh_parameters(seed) for seed in seeds]
        return tuple(torch.stack(parts).to(generator.device) for parts in zip(*copies, strict=True))

    def minibatch(self, data: Data, generator: torch.Generator) -> Data:
        """One batch for each copy, and a seed for the module's own randomness."""
        example = next(data[key] for key in self.data_shapes)
        seed = torch.randint(2**62, (), generator=generator, device=generator.device)
        return {SEED: seed, **self._batches(len(example), 1, generator)}

    def loss(self, parameters: Parameters, data: Data) -> Float[Tensor, " B"]:
        """The mean over the batches in the data."""
        training = SEED in data
        self.module.train(training)
        batches = {key: data[key].to(parameters[0].device) for key in self.data_shapes}
        count = next(iter(batches.values())).shape[1]
        with _seeded(int(data[SEED]) if training else 0):
            losses = [
                self._losses(parameters, [leaf[:, e] for leaf in batches.values()]) for e in range(count)
            ]
        return torch.stack(losses).mean(0)

    def _losses(self, parameters: Parameters, leaves: Sequence[Tensor]) -> Float[Tensor, " B"]:
        if self.vectorise:
            return vmap(self._loss_of_copy, randomness="different")(tuple(parameters), tuple(leaves))
        copies = zip(zip(*parameters, strict=True), zip(*leaves, strict=True), strict=True)
        return torch.stack([self._loss_of_copy(own, of_copy) for own, of_copy in copies])

    def _loss_of_copy(self, parameters: tuple[Tensor, ...], leaves: tuple[Tensor, ...]) -> Tensor:
        constants = {key: _like(tensor, parameters[0]) for key, tensor in self.constants.items()}
        return self._loss_with({**constants, **dict(zip(self.names, parameters, strict=True))}, leaves)

    def _loss_with(self, tensors: Data, leaves: tuple[Tensor, ...]) -> Tensor:
        remaining, like = iter(leaves), tensors[self.names[0]]
        batch = tree_map(lambda _: _like(next(remaining), like), self.example)
        return self.loss_of(
            lambda *given, **named: functional_call(self.module, tensors, given, named), batch
        )

    def _batches(self, copies: int, count: int, generator: torch.Generator) -> Data:
        drawn = [[_leaves(self.name, self.batches(generator)) for _ in range(count)] for _ in range(copies)]
        expected = {key: shape[1:] for key, shape in self.data_shapes.items()}
        for leaves in (leaves for row in drawn for leaves in row):
            got = {key: tuple(leaf.shape) for key, leaf in leaves.items()}
            if got != expected:
                raise UserError(f"{self.name}: expected batches of shapes {expected}, got {got}")
        return {
            key: torch.stack([torch.stack([leaves[key] for leaves in row]) for row in drawn]).to(
                generator.device
            )
            for key in expected
        }

    def _built(self, label: str) -> Task:
        task = self.build()
        if not isinstance(task, tuple) or len(task) not in (2, 3) or not isinstance(task[0], nn.Module):
            raise UserError(f"{label}: expected build to return (module, batches) or (module, batches, loss)")
        return Task(replace_all_batch_norm_modules_(task[0]), *task[1:])

    def _fresh_parameters(self, seed: int) -> list[Tensor]:
        with _seeded(seed):
            module = self._built(self.name).module
        found = {key: p.detach() for key, p in module.named_parameters() if p.requires_grad}
        if tuple(found) != self.names or [tuple(p.shape) for p in found.values()] != list(self.shapes):
            raise UserError(f"{self.name}: expected build to return the same module each time, got another")
        return list(found.values())

    def _probe(self, leaves: Data) -> None:
        """One loss in training: is it a number, does the module keep its buffers, and can vmap run it?"""
        trained = dict(self.module.named_parameters())
        parameters = [trained[key].detach() for key in self.names]
        constants = {key: tensor.clone() for key, tensor in self.constants.items()}
        tensors = {**constants, **dict(zip(self.names, parameters, strict=True))}
        first = tuple(leaves.values())
        self.module.train()
        with _seeded(0), torch.no_grad():
            loss = self._loss_with(tensors, first)
        # what a module writes to its buffers, in place or anew, functional_call puts into its argument
        changed = [key for key, tensor in self.constants.items() if not torch.equal(tensors[key], tensor)]
        if changed:
            raise UserError(
                f"{self.name}: expected buffers that do not change, but a run changes {changed[0]}"
            )
        if not isinstance(loss, Tensor) or loss.shape != () or not bool(loss.isfinite()):
            got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) and loss.shape else repr(loss)
            raise UserError(f"{self.name}: expected a loss that is one finite number, got {got}")
        self._probe_vmap([p[None] for p in parameters], [leaf[None] for leaf in first])

    def _probe_vmap(self, parameters: Parameters, leaves: Sequence[Tensor]) -> None:
        try:
            with _seeded(0), torch.no_grad():
                self._losses(parameters, leaves)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{self.name}: vmap cannot run it (vectorise=False does): {reason}") from error


def _like(tensor: Tensor, like: Tensor) -> Tensor:
    """On the parameters' device, and in their type if it is floating."""
    return tensor.to(like.device, like.dtype if tensor.is_floating_point() else None)


def _leaves(label: str, batch: Tree) -> Data:
    leaves = dict(tree_items(batch, "batch"))
    wrong = [type(leaf).__name__ for leaf in leaves.values() if not isinstance(leaf, Tensor)]
    if wrong or not leaves:
        raise UserError(
            f"{label}: expected batches made of tensors, got {wrong[0] if wrong else 'an empty one'}"
        )
    return leaves


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Torch's global randomness from a seed, and afterwards as it was."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield
