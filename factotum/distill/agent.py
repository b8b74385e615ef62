"""Who calls it? A batch of environments: observations in, actions out; nothing is carried from step to step.

`PolicyAgent` and `TeacherAgent` fulfil `factotum.core.step.Core`: `initial_state(batch_size)`,
`step((observations, first), state)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from factotum.core.checks import require_finite
from factotum.distill.choice import Chooser
from factotum.distill.model import PolicyNetwork
from factotum.distill.teacher import Teacher


class _Agent:
    """What both agents have: numbers for observations, and a chooser among them."""

    choose: Chooser

    def outputs(self, observation_B: np.ndarray) -> np.ndarray:
        """Numbers for each action, `B A`."""
        raise NotImplementedError

    def initial_state(self, batch_size: int) -> None:
        """Nothing is carried."""
        return None

    def step(
        self, inputs: tuple[np.ndarray | Sequence[Any], Sequence[bool] | np.ndarray], state: None
    ) -> tuple[np.ndarray, None]:
        """Actions for B observations: `(B,)` int64, or `(B, A)` float32 where they are continuous.

        Raises:
            UserError: observations of another shape, or outputs that are not finite.
        """
        return self.act(np.asarray(inputs[0])), state

    def act(self, observation_B: np.ndarray) -> np.ndarray:
        """Actions for B observations."""
        return self.choose(self.outputs(observation_B))

    def state_dict(self) -> dict[str, Any]:
        """The state of its random numbers, as JSON values."""
        return self.choose.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Draw on from that state."""
        self.choose.load_state_dict(state)


class PolicyAgent(_Agent):
    """Acts in many environments of one task at once.

    Args:
        network: a policy; its outputs say how an action is taken: the largest of "q" and "logits", the mean of
            "gaussian", "continuous" as it is.
        task: whose head acts; may be left out where there is one.
        epsilon: share of steps with a uniformly random action; the paper's is 0.05 for teachers and students alike.
        seed: of random actions.
        sample: draw from the policy in place of its likeliest action; "q" and "continuous" have none to draw from.
        action_space: bounds of continuous actions, into which they are clipped; needed there if epsilon is above 0.

    Raises:
        UserError: an unknown task, epsilon outside [0, 1], or a choice that these outputs do not have.

    >>> from factotum.distill.config import mlp
    >>> agent = PolicyAgent(PolicyNetwork(mlp(4, (8,), 2)))
    >>> actions, state = agent.step((np.zeros((3, 4), np.float32), [True] * 3), agent.initial_state(3))
    >>> actions.shape, state
    ((3,), None)
    """

    def __init__(
        self,
        network: PolicyNetwork,
        task: str | None = None,
        epsilon: float = 0.05,
        seed: int = 0,
        sample: bool = False,
        *,
        action_space: spaces.Box | None = None,
    ) -> None:
        self.network, self.task = network.eval(), network.tasks[network.head(task)]
        self.choose = Chooser(network.config.outputs, epsilon, (seed, "act", self.task), sample, action_space)

    def outputs(self, observation_B: np.ndarray) -> np.ndarray:
        """The network's outputs, `B A` float32.

        Raises:
            UserError: observations of another shape, or outputs that are not finite.
        """
        with torch.no_grad():
            given = torch.from_numpy(np.ascontiguousarray(observation_B)).to(self.network.device)
            numbers = self.network(given, self.task).float().cpu().numpy()
        require_finite(f"outputs of the policy for {self.task}", numbers)
        return numbers


class TeacherAgent(_Agent):
    """A teacher that acts; the options are those of `PolicyAgent`.

    `outputs` are the teacher's labels and `choose` takes them, so that one pass serves acting and labelling:
    `label_BA = agent.outputs(observation_B); actions = agent.choose(label_BA)`.

    >>> from factotum.distill.teacher import as_teacher
    >>> agent = TeacherAgent(as_teacher(lambda x: (x[:, 0] > 0).astype(int), kind="actions", actions=2), epsilon=0.0)
    >>> agent.act(np.array([[-1.0], [1.0]], np.float32)).tolist()
    [0, 1]
    """

    def __init__(
        self,
        teacher: Teacher,
        epsilon: float = 0.05,
        seed: int = 0,
        sample: bool = False,
        *,
        action_space: spaces.Box | None = None,
    ) -> None:
        self.teacher = teacher
        self.choose = Chooser(teacher.kind, epsilon, (seed, "teacher acts"), sample, action_space)

    def outputs(self, observation_B: np.ndarray) -> np.ndarray:
        """The teacher's labels, `B A` float32."""
        return self.teacher.label(observation_B)
