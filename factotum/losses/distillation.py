"""How far a student is from its teacher: on Q-values, logits, Gaussians or plain actions (arXiv 1511.06295, section 3).

Local letters: B batch, A actions (or numbers of a continuous action). Each loss has a value for each row; `reduce` sums
or averages them. All are to be minimised; gradients flow into the student, and into the teacher where it asks for them.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from factotum.core.checks import UserError


def best_action_nll(
    student_BA: Float[Tensor, "B A"], teacher_BA: Float[Tensor, "B A"]
) -> Float[Tensor, " B"]:
    r"""$L_{NLL} = -\log \mathrm{softmax}(q^S)_{a}$ with $a = \arg\max q^T$: cloning of the teacher's behaviour.

    Args:
        student_BA: logits.
        teacher_BA: Q-values, logits or a one-hot action; of equal best ones the first counts.

    >>> import torch
    >>> best_action_nll(torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 2.0]])).item() == torch.tensor(2.0).log().item()
    True

    Rusu et al., 2015 (arXiv 1511.06295), section 3.
    """
    return F.cross_entropy(student_BA, teacher_BA.argmax(1), reduction="none")


def q_value_mse(student_BA: Float[Tensor, "B A"], teacher_BA: Float[Tensor, "B A"]) -> Float[Tensor, " B"]:
    r"""$L_{MSE} = \|q^T - q^S\|_2^2$: summed over all actions, not averaged.

    >>> import torch
    >>> q_value_mse(torch.tensor([[1.0, 5.0]]), torch.tensor([[3.0, 2.0]])).tolist()
    [13.0]

    Rusu et al., 2015 (arXiv 1511.06295), section 3.
    """
    return (student_BA - teacher_BA).square().sum(1)


def policy_kl(
    student_BA: Float[Tensor, "B A"],
    teacher_BA: Float[Tensor, "B A"],
    temperature: float = 0.01,
    tempered: str = "teacher",
    direction: str = "forward",
) -> Float[Tensor, " B"]:
    r"""$L_{KL} = \sum_a p_a \log (p_a / q_a)$ with $p = \mathrm{softmax}(q^T / \tau)$, $q = \mathrm{softmax}(q^S)$.

    The gradient for the student's outputs is $q - p$: $\tau$ sharpens the teacher and leaves the size of steps alone.

    Args:
        student_BA: logits; Q-values up to a constant where both are tempered.
        teacher_BA: Q-values or logits.
        temperature: $\tau$; 0.01 sharpens Q-values, 1 takes logits as they are.
        tempered: "teacher", or "both": the student's outputs are divided as well, which makes its gradient $1 / \tau$
            times as large and is another experiment: the student's outputs then have the scale of the teacher's.
        direction: "forward" is KL(teacher || student), "reverse" KL(student || teacher).

    Returns:
        Sums over actions (torch's `kl_div` with its mean would divide by their number too).

    >>> import torch
    >>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.05, 0.0]])
    >>> [round(policy_kl(student, teacher, tau).item(), 4) for tau in (0.01, 1.0)]
    [0.653, 0.0003]

    Rusu et al., 2015 (arXiv 1511.06295), section 3.

    Differs from the paper: "both" and "reverse" are not in it.
    """
    if not temperature > 0:
        raise UserError(f"temperature: expected a number above 0, got {temperature}")
    if tempered not in ("teacher", "both"):
        raise UserError(f"tempered: expected teacher or both, got {tempered!r}")
    log_teacher_BA = (teacher_BA / temperature).log_softmax(1)
    log_student_BA = (student_BA / temperature if tempered == "both" else student_BA).log_softmax(1)
    if direction == "forward":
        return (log_teacher_BA.exp() * (log_teacher_BA - log_student_BA)).sum(1)
    if direction == "reverse":
        return (log_student_BA.exp() * (log_student_BA - log_teacher_BA)).sum(1)
    raise UserError(f"direction: expected forward or reverse, got {direction!r}")


def gaussian_kl(
    student_mean_BA: Float[Tensor, "B A"],
    student_log_std_BA: Float[Tensor, "B A"],
    teacher_mean_BA: Float[Tensor, "B A"],
    teacher_log_std_BA: Float[Tensor, "B A"],
) -> Float[Tensor, " B"]:
    r"""KL(teacher || student) of diagonal Gaussians:
    $\sum_a \log \sigma^S / \sigma^T + ((\sigma^T)^2 + (\mu^T - \mu^S)^2) / 2 (\sigma^S)^2 - 1/2$.

    >>> import torch
    >>> zero, one = torch.zeros(1, 1), torch.ones(1, 1)
    >>> gaussian_kl(zero, zero, one, zero).tolist()
    [0.5]

    Ours; the paper has discrete actions alone.
    """
    ratio_BA = teacher_log_std_BA - student_log_std_BA
    distance_BA = (teacher_mean_BA - student_mean_BA) * (-student_log_std_BA).exp()
    return (-ratio_BA + 0.5 * ((2 * ratio_BA).exp() + distance_BA.square() - 1)).sum(1)


def action_mse(student_BA: Float[Tensor, "B A"], action_BA: Float[Tensor, "B A"]) -> Float[Tensor, " B"]:
    r"""$\|a^T - a^S\|_2^2$ of continuous actions, summed over their numbers.

    >>> import torch
    >>> action_mse(torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 2.0]])).tolist()
    [1.0]

    Ours; the paper has discrete actions alone.
    """
    return (student_BA - action_BA).square().sum(1)


def reduce(loss_B: Float[Tensor, " B"], how: str) -> Float[Tensor, ""]:
    """One number of a minibatch. The paper sums, so its learning rates are for gradients B times those of a mean.

    >>> import torch
    >>> losses = torch.tensor([1.0, 3.0])
    >>> reduce(losses, "sum").item(), reduce(losses, "mean").item()
    (4.0, 2.0)
    """
    if how == "sum":
        return loss_B.sum()
    if how == "mean":
        return loss_B.mean()
    raise UserError(f"reduction: expected sum or mean, got {how!r}")


def agreement(student_BA: Float[Tensor, "B A"], teacher_BA: Float[Tensor, "B A"]) -> Bool[Tensor, " B"]:
    """Whether the student's best action is one of the teacher's best.

    >>> import torch
    >>> student = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    >>> agreement(student, torch.tensor([[2.0, 1.0], [2.0, 1.0], [2.0, 2.0]])).tolist()
    [True, False, True]
    """
    chosen_B1 = student_BA.argmax(1, keepdim=True)
    return teacher_BA.gather(1, chosen_B1)[:, 0] == teacher_BA.amax(1)
