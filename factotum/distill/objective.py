"""What is it trained to do? To put out what its teacher did for the same observation (arXiv 1511.06295, section 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from factotum.core.checks import UserError, unknown
from factotum.losses.distillation import (
    action_mse,
    agreement,
    best_action_nll,
    gaussian_kl,
    policy_kl,
    q_value_mse,
    reduce,
)

LOSSES: Mapping[str, str] = {
    "kl": "KL of the policies, the paper's best",
    "nll": "negative log-likelihood of the teacher's best action",
    "mse": "squared distance of Q-values",
    "gaussian": "KL of Gaussian policies, for continuous actions",
    "action": "squared distance of continuous actions",
}


@dataclass(frozen=True)
class DistillationBatch:
    """Observations of one task and what the teacher put out for them.

    Args:
        observation: `B C H W` or `B F`, of any type.
        label: `B A`, as `Teacher.label` gives it.
        task: whose; may be left out for a student of one task.
    """

    observation: Tensor
    label: Tensor
    task: str | None = None

    def to(self, device: torch.device | str) -> DistillationBatch:
        """The batch on a device."""
        return replace(self, observation=self.observation.to(device), label=self.label.to(device))

    @property
    def tokens(self) -> int:
        """Its observations, for the rate."""
        return len(self.label)


@dataclass(frozen=True)
class DistillationObjective:
    """The loss of a student, as `training.train` takes it.

    Args:
        loss: one of `LOSSES`.
        temperature: of the teacher's policy: 0.01 sharpens Q-values (the paper's), 1 takes logits as they are.
        tempered: whether the student's outputs are divided as well; see `losses.distillation.policy_kl`.
        direction: of the KL, "forward" from the teacher.
        reduction: over the minibatch; the paper sums.

    Returns of a call: the loss, its weight (observations), metrics. `agreement` is the share of observations whose best
    action is the teacher's, `kl` the mean KL of policies in nats; for continuous actions `error`, the mean squared
    distance of actions, and `kl` where both are Gaussian.

    >>> DistillationObjective().outputs, DistillationObjective("mse").outputs
    ('logits', 'q')
    """

    loss: Literal["kl", "nll", "mse", "gaussian", "action"] = "kl"
    temperature: float = 0.01
    tempered: Literal["teacher", "both"] = "teacher"
    direction: Literal["forward", "reverse"] = "forward"
    reduction: Literal["mean", "sum"] = "mean"

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise unknown("loss", str(self.loss), LOSSES)
        for name, known in (
            ("tempered", ("teacher", "both")),
            ("direction", ("forward", "reverse")),
            ("reduction", ("mean", "sum")),
        ):
            if getattr(self, name) not in known:
                raise unknown(name, str(getattr(self, name)), known)
        if not self.temperature > 0:
            raise UserError(f"temperature: expected a number above 0, got {self.temperature}")
        if self.direction == "reverse" and self.loss != "kl":
            raise UserError(f"direction: expected forward for the loss {self.loss!r}, got reverse")

    @property
    def outputs(self) -> Literal["q", "logits", "gaussian", "continuous"]:
        """What a student trained so puts out: `PolicyConfig.outputs`. Where both sides are tempered, Q-values up to a
        constant of each observation."""
        if self.loss == "kl":
            return "logits" if self.tempered == "teacher" else "q"
        by_loss: dict[str, Literal["q", "logits", "gaussian", "continuous"]] = {
            "nll": "logits", "mse": "q", "gaussian": "gaussian", "action": "continuous",
        }  # fmt: skip
        return by_loss[self.loss]

    def __call__(
        self, model: nn.Module, batch: DistillationBatch
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Loss of one batch.

        Raises:
            UserError: outputs and labels differ in shape.
        """
        student_BA, teacher_BA = model(batch.observation, batch.task), batch.label
        if self.loss == "action" and teacher_BA.shape[1] == 2 * student_BA.shape[1]:
            teacher_BA = teacher_BA.chunk(2, 1)[0]  # the means of a Gaussian teacher
        if student_BA.shape != teacher_BA.shape:
            raise UserError(
                f"labels{f' of {batch.task}' if batch.task else ''}: expected shape {tuple(student_BA.shape)} as the "
                f"student's outputs, got {tuple(batch.label.shape)}"
            )
        loss_B = self.rows(student_BA, teacher_BA)
        metrics = self._metrics(student_BA.detach(), teacher_BA, loss_B.detach())
        if batch.task is not None and "agreement" in metrics:
            metrics[f"agreement/{batch.task}"] = metrics["agreement"]
        return reduce(loss_B, self.reduction), torch.tensor(float(len(loss_B))), metrics

    def rows(self, student_BA: Tensor, teacher_BA: Tensor) -> Tensor:
        """The loss of each observation, `B`."""
        if self.loss == "kl":
            return policy_kl(student_BA, teacher_BA, self.temperature, self.tempered, self.direction)
        if self.loss == "nll":
            return best_action_nll(student_BA, teacher_BA)
        if self.loss == "mse":
            return q_value_mse(student_BA, teacher_BA)
        if self.loss == "gaussian":
            return gaussian_kl(*student_BA.chunk(2, 1), *teacher_BA.chunk(2, 1))
        return action_mse(student_BA, teacher_BA)

    def _metrics(self, student_BA: Tensor, teacher_BA: Tensor, loss_B: Tensor) -> dict[str, Tensor]:
        if self.loss == "action":
            return {"error": loss_B.mean()}
        if self.loss == "gaussian":
            error_B = action_mse(student_BA.chunk(2, 1)[0], teacher_BA.chunk(2, 1)[0])
            return {"error": error_B.mean(), "kl": loss_B.mean()}
        kl_B = loss_B
        if self.loss != "kl" or self.direction != "forward":
            scale: Literal["teacher", "both"] = "both" if self.outputs == "q" else "teacher"
            kl_B = policy_kl(student_BA, teacher_BA, self.temperature, scale)
        return {"agreement": agreement(student_BA, teacher_BA).float().mean(), "kl": kl_B.mean()}
