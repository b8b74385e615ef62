"""The one idea: a step function with carried state, alternating with a world.

Letters used in shape suffixes all over the library:
B batch, T time, D width, H heads, K head size, V vocabulary, A action, N parameters or rows, F features, S state.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import torch

from factotum.core.trees import Tree, tree_stack


@runtime_checkable
class Core(Protocol):
    """A step function with carried state: (o_t, s_t) -> (a_t, s_{t+1})."""

    def initial_state(self, *args: Any, **kwargs: Any) -> Any:
        """The state an episode starts from; prompts and instructions go in here."""

    def step(self, inputs: Any, state: Any) -> tuple[Any, Any]:
        """One step: outputs and the next state."""


@runtime_checkable
class World(Protocol):
    """What a core alternates with: an environment, a training problem, an unknown function."""

    def reset(self, generator: torch.Generator) -> tuple[Any, Any]:
        """First observation and first state, random only through `generator`."""

    def step(self, action: Any, state: Any) -> tuple[Any, Any]:
        """The observation that answers `action`, and the next state."""


def unroll(core: Core, inputs: Iterable[Any], state: Any) -> tuple[Tree, Any]:
    """Teacher-forced: feed `inputs` one by one, return outputs stacked over time and the last state.

    >>> class Sum:
    ...     def initial_state(self): return torch.zeros(())
    ...     def step(self, inputs, state): return state + inputs, state + inputs
    >>> outputs, state = unroll(Sum(), torch.tensor([1., 2., 3.]), Sum().initial_state())
    >>> outputs.tolist(), state.item()
    ([1.0, 3.0, 6.0], 6.0)
    """
    outputs = []
    for element in inputs:
        output, state = core.step(element, state)
        outputs.append(output)
    return tree_stack(outputs), state


def interact(
    core: Core, world: World, steps: int, *, generator: torch.Generator, core_state: Any
) -> tuple[Tree, Tree, Any]:
    """Closed loop for `steps` steps; differentiable when core and world both are.

    Returns the observations that the core saw, its outputs (both stacked over time), and its last state.

    >>> class Halve:
    ...     def initial_state(self): return None
    ...     def step(self, inputs, state): return inputs / 2, state
    >>> class Echo:
    ...     def reset(self, generator): return torch.tensor(8.), None
    ...     def step(self, action, state): return action, state
    >>> seen, done, _ = interact(Halve(), Echo(), 3, generator=torch.Generator(), core_state=None)
    >>> seen.tolist(), done.tolist()
    ([8.0, 4.0, 2.0], [4.0, 2.0, 1.0])
    """
    observation, world_state = world.reset(generator)
    observations, outputs = [], []
    for _ in range(steps):
        observations.append(observation)
        output, core_state = core.step(observation, core_state)
        outputs.append(output)
        observation, world_state = world.step(output, world_state)
    return tree_stack(observations), tree_stack(outputs), core_state
