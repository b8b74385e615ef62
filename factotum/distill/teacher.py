"""Teachers: anything that says what it would do, under one roof and checked at every call.

`as_teacher` takes a network or a folder of ours, an archive of Stable-Baselines3, a torch module, or a function.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from factotum.core.checks import UserError, require_finite, unknown
from factotum.distill.choice import CONTINUOUS, KINDS
from factotum.distill.model import PolicyNetwork
from factotum.distill.stable_baselines import read_stable_baselines
from factotum.distill.store import load_policy

Kind = Literal["q", "logits", "probabilities", "actions", "gaussian", "continuous"]

TEMPERATURE = {"q": 0.01, "logits": 1.0, "probabilities": 1.0, "actions": 0.01}
"""The temperature at which the softmax of a kind's labels is the policy to follow: Q-values are sharpened as in the
paper, one-hot actions are all but certain, logits and logarithms of probabilities are policies already."""

SMALLEST = 1e-8
"""What a probability counts at least, so that its logarithm is finite."""


@runtime_checkable
class Teacher(Protocol):
    """Says what it would do.

    Attributes:
        kind: what its labels mean, one of `choice.KINDS`.
        actions: how many numbers a label has, A.
    """

    kind: Kind
    actions: int

    def label(self, observation_B: np.ndarray) -> np.ndarray:
        """Labels of observations, `(B, A)` float32, finite.

        Q-values and logits as they are; the logarithms of probabilities; an action as one-hot row; for continuous
        actions means and logarithms of deviations, or the action itself.
        """
        ...


class CheckedTeacher:
    """A teacher from a function.

    Args:
        function: observations `(B, ...)` to an array or tensor of `B` rows.
        kind: what the function returns; "actions" may be `(B,)` integers.
        actions: A, the number of actions, or of a label's numbers where they are continuous.
        observation_shape: of one observation; None takes any.
        name: for errors.
        parameters: how many numbers it has learnt, None where that cannot be told.

    >>> teacher = CheckedTeacher(lambda x: [0, 1], "actions", 3)
    >>> teacher.label(np.zeros((2, 4))).tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    """

    def __init__(
        self,
        function: Callable[[np.ndarray], Any],
        kind: Kind,
        actions: int,
        *,
        observation_shape: tuple[int, ...] | None = None,
        name: str = "teacher",
        parameters: int | None = None,
    ) -> None:
        if kind not in KINDS:
            raise unknown("kind of teacher", str(kind), KINDS)
        if actions < 1 or (kind == "gaussian" and actions % 2):
            raise UserError(f"{name}: expected a number of actions that suits {kind!r}, got {actions}")
        self.function, self.kind, self.actions = function, kind, actions
        self.observation_shape, self.name, self.parameters = observation_shape, name, parameters

    def label(self, observation_B: np.ndarray) -> np.ndarray:
        """Checked labels.

        Raises:
            UserError: observations or answers of another shape, answers that are not finite or no policy.
        """
        observation_B = np.asarray(observation_B)
        if self.observation_shape is not None and observation_B.shape[1:] != self.observation_shape:
            raise UserError(
                f"{self.name}: expected observations of shape (B, {str(self.observation_shape)[1:]}, "
                f"got {observation_B.shape}"
            )
        given = self.function(observation_B)
        answer = (given.detach().cpu() if isinstance(given, Tensor) else np.asarray(given)).__array__()
        if self.kind == "actions" and answer.ndim == 1:
            answer = self._one_hot(answer)
        if answer.shape != (len(observation_B), self.actions):
            raise UserError(
                f"{self.name}: expected {self.kind} of shape {(len(observation_B), self.actions)}, got {answer.shape}"
            )
        with np.errstate(over="ignore"):  # what is too large for float32 is refused as infinite
            label_BA = answer.astype(np.float32)
        require_finite(f"{self.kind} of {self.name}", label_BA)
        return self._log_probabilities(label_BA) if self.kind == "probabilities" else label_BA

    def _one_hot(self, actions_B: np.ndarray) -> np.ndarray:
        wrong = (actions_B != np.floor(actions_B)) | (actions_B < 0) | (actions_B >= self.actions)
        if wrong.any():
            raise UserError(
                f"{self.name}: expected actions among 0 to {self.actions - 1}, got {actions_B[wrong][0]}"
            )
        return np.eye(self.actions, dtype=np.float32)[actions_B.astype(np.int64)]

    def _log_probabilities(self, policy_BA: np.ndarray) -> np.ndarray:
        sums_B = policy_BA.sum(1)
        wrong_B = (np.abs(sums_B - 1) > 1e-3) | (policy_BA.min(1) < 0)
        if wrong_B.any():
            raise UserError(
                f"{self.name}: expected probabilities from 0 on that sum to 1, got {policy_BA[wrong_B][0]}"
            )
        return np.log(np.maximum(policy_BA, SMALLEST))


def as_teacher(
    anything: Any,
    *,
    kind: Kind | None = None,
    actions: int | None = None,
    task: str | None = None,
    device: torch.device | str | None = None,
) -> Teacher:
    """A teacher from anything that says what it would do.

    Args:
        anything: a `Teacher`; a `PolicyNetwork`; a folder that `save_policy` wrote, or a run's folder with one in
            `policy`; an archive of Stable-Baselines3 (`.zip`); a torch module; a function of observations.
        kind: what a module or a function returns; the others know it. Where both do, they have to agree.
        actions: likewise.
        task: whose head of a network of several tasks.
        device: where networks are moved to; by default modules stay where they are, and files are run on the CPU.

    Raises:
        UserError: nothing of these, an unreadable file, kind or actions that are missing or differ.

    >>> as_teacher(lambda x: x, kind="q", actions=2).label(np.ones((1, 2))).tolist()
    [[1.0, 1.0]]
    """
    teacher = _teacher(anything, kind, actions, task, device)
    for name, wanted in (("kind", kind), ("actions", actions)):
        if wanted is not None and getattr(teacher, name) != wanted:
            raise UserError(f"{_name(anything)}: expected {name} {wanted}, got {getattr(teacher, name)}")
    return teacher


def _teacher(
    anything: Any, kind: Kind | None, actions: int | None, task: str | None, device: torch.device | str | None
) -> Teacher:
    if isinstance(anything, str | Path):
        return _from_path(Path(anything), task, device)
    if isinstance(anything, PolicyNetwork):
        return _from_policy(anything, task, device, _name(anything))
    if isinstance(anything, Teacher):
        return anything
    if not callable(anything):
        raise UserError(f"teacher: expected a network, a path or a function, got {type(anything).__name__}")
    if kind is None or actions is None:
        raise UserError(
            f"{_name(anything)}: expected kind ({', '.join(KINDS)}) and actions, which a function does not tell, "
            f"got {kind} and {actions}"
        )
    module = anything if isinstance(anything, nn.Module) else None
    function = anything if module is None else _on_arrays(module, device)
    return CheckedTeacher(function, kind, actions, name=_name(anything), parameters=_count(module))


def _from_path(path: Path, task: str | None, device: torch.device | str | None) -> Teacher:
    if path.is_dir():
        return _from_policy(load_policy(path), task, device, str(path))
    if path.suffix != ".zip":
        raise UserError(f"teacher: expected a folder or a .zip archive, got {path}")
    policy = read_stable_baselines(path)
    return CheckedTeacher(
        _on_arrays(policy.network, device),
        policy.kind,  # type: ignore[arg-type]
        policy.actions,
        observation_shape=policy.observation_shape,
        name=str(path),
        parameters=_count(policy.network),
    )


def _from_policy(
    network: PolicyNetwork, task: str | None, device: torch.device | str | None, name: str
) -> CheckedTeacher:
    chosen, config = network.tasks[network.head(task)], network.config
    function = _on_arrays(network.eval(), device, chosen)
    shape = (
        config.observation_shape if len(network.tasks) == 1 else None
    )  # several tasks may have fewer channels
    return CheckedTeacher(
        function,
        config.outputs,
        config.actions[chosen],
        observation_shape=shape,
        name=name,
        parameters=_count(network),
    )


def _on_arrays(
    module: nn.Module, device: torch.device | str | None, *more: Any
) -> Callable[[np.ndarray], Tensor]:
    if device is not None:
        module = module.to(device)

    @torch.no_grad()
    def run(observation_B: np.ndarray) -> Tensor:
        weight = next(module.parameters(), None)  # asked for at each call: a student may be moved
        given = torch.from_numpy(np.ascontiguousarray(observation_B))
        return module(given if weight is None else given.to(weight.device), *more).float().cpu()

    return run


def _count(module: nn.Module | None) -> int | None:
    return None if module is None else sum(parameter.numel() for parameter in module.parameters())


def _name(anything: Any) -> str:
    return (
        str(anything)
        if isinstance(anything, str | Path)
        else getattr(anything, "__name__", type(anything).__name__)
    )


def require_fits(
    teacher: Teacher, name: str, observation_shape: tuple[int, ...], actions: int, *, continuous: bool = False
) -> None:
    """Refuse a teacher that is not for a world, before anything is played.

    Args:
        teacher: which.
        name: of the world, for errors.
        observation_shape: of one observation there.
        actions: number of discrete actions, or of numbers of a continuous one.
        continuous: which of the two.

    Raises:
        UserError: other actions or observations.

    >>> require_fits(as_teacher(lambda x: x, kind="q", actions=2), "CartPole", (4,), 3)
    Traceback (most recent call last):
    factotum.core.checks.UserError: CartPole: expected a teacher with 3 discrete actions, got q with 2 actions
    """
    wanted = 2 * actions if teacher.kind == "gaussian" else actions
    if (teacher.kind in CONTINUOUS) != continuous or teacher.actions != wanted:
        raise UserError(
            f"{name}: expected a teacher with {actions} {'continuous' if continuous else 'discrete'} actions, "
            f"got {teacher.kind} with {teacher.actions} actions"
        )
    shape = getattr(teacher, "observation_shape", None)
    if shape is not None and shape != tuple(observation_shape):
        raise UserError(f"{name}: expected a teacher of observations {observation_shape}, got one of {shape}")
