"""The loss of a student: what comes out, what is counted, and that a student becomes its teacher."""

import math

import pytest
import torch
from safetensors.torch import load_model, save_model

from factotum.core.checks import UserError
from factotum.distill.config import mlp
from factotum.distill.model import PolicyNetwork
from factotum.distill.objective import LOSSES, DistillationBatch, DistillationObjective
from factotum.losses.distillation import gaussian_kl, policy_kl
from factotum.training.config import TrainConfig
from factotum.training.train import train

OBSERVATION = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
LABEL = torch.tensor([[0.05, 0.0], [0.0, 0.05], [0.0, 0.01]])


class Constant(torch.nn.Module):
    """Puts out its weights for every observation."""

    def __init__(self, outputs):
        super().__init__()
        self.outputs = torch.nn.Parameter(torch.tensor(outputs))

    def forward(self, observation, task=None):
        return self.outputs.expand(len(observation), -1)


def run(model, batch, **choices):
    loss, weight, metrics = DistillationObjective(**choices)(model, batch)
    return loss, float(weight), {name: float(value) for name, value in metrics.items()}


def test_the_default_is_the_papers_kl_by_hand():
    loss, weight, metrics = run(Constant([0.0, 0.0]), DistillationBatch(OBSERVATION, LABEL))
    assert weight == 3

    def divergence(gap):
        p = 1 / (1 + math.exp(-gap / 0.01))
        return p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))

    by_hand = (2 * divergence(0.05) + divergence(0.01)) / 3
    assert float(loss) == pytest.approx(by_hand, rel=1e-5)
    assert metrics == {"kl": pytest.approx(by_hand, rel=1e-5), "agreement": pytest.approx(1 / 3)}


@pytest.mark.parametrize("loss", ["kl", "nll", "mse"])
def test_a_sum_is_the_mean_times_the_batch_in_loss_and_gradient(loss):
    found = []
    for reduction in ("sum", "mean"):
        model = Constant([0.3, -0.1])
        value, weight, _ = run(model, DistillationBatch(OBSERVATION, LABEL), loss=loss, reduction=reduction)
        value.backward()
        found.append((float(value), model.outputs.grad))
        assert weight == 3
    assert found[0][0] == pytest.approx(3 * found[1][0])
    torch.testing.assert_close(found[0][1], 3 * found[1][1])


def test_each_loss_is_its_own_function():
    batch = DistillationBatch(OBSERVATION[:1], torch.tensor([[1.0, 3.0]]))
    values = {
        loss: float(run(Constant([0.0, 1.0]), batch, loss=loss)[0]) for loss in ("nll", "mse", "action")
    }
    assert values == {"nll": pytest.approx(math.log(1 + math.exp(-1))), "mse": 5.0, "action": 5.0}


def test_gaussian_outputs_are_means_then_deviations():
    label = torch.tensor([[1.0, 2.0, 0.5, 0.0]])
    loss, _, metrics = run(
        Constant([0.0, 2.0, 0.0, 1.0]), DistillationBatch(OBSERVATION[:1], label), loss="gaussian"
    )
    pairs = torch.tensor([[0.0, 2.0]]), torch.tensor([[0.0, 1.0]]), label[:, :2], label[:, 2:]
    assert float(loss) == pytest.approx(float(gaussian_kl(*pairs)))
    assert metrics == {"error": 1.0, "kl": pytest.approx(float(loss))}


def test_a_student_of_actions_takes_the_means_of_a_gaussian_teacher():
    label = torch.tensor([[1.0, 2.0, 9.0, 9.0]])
    loss, _, metrics = run(Constant([0.0, 0.0]), DistillationBatch(OBSERVATION[:1], label), loss="action")
    assert (float(loss), metrics) == (5.0, {"error": 5.0})


@pytest.mark.parametrize(
    ("choices", "outputs"),
    [
        ({}, "logits"),
        ({"tempered": "both"}, "q"),
        ({"loss": "nll"}, "logits"),
        ({"loss": "mse"}, "q"),
        ({"loss": "gaussian"}, "gaussian"),
        ({"loss": "action"}, "continuous"),
    ],
)
def test_the_choices_say_what_the_student_puts_out(choices, outputs):
    assert DistillationObjective(**choices).outputs == outputs


@pytest.mark.parametrize("choices", [{"loss": "mse"}, {"loss": "kl", "tempered": "both"}, {"loss": "nll"}])
def test_the_kl_that_is_reported_is_of_policies_on_one_scale(choices):
    student = torch.tensor([[0.01, 0.02]])
    _, _, metrics = run(
        Constant(student[0].tolist()), DistillationBatch(OBSERVATION[:1], LABEL[:1]), **choices
    )
    tempered = "teacher" if choices["loss"] == "nll" else "both"
    assert metrics["kl"] == pytest.approx(float(policy_kl(student, LABEL[:1], 0.01, tempered)), rel=1e-5)


def test_a_batch_goes_through_the_head_of_its_task_and_is_counted_under_it():
    network = PolicyNetwork(mlp(2, (8,), {"a": 2, "b": 3}))
    batch = DistillationBatch(OBSERVATION, torch.randn(3, 3), "b")
    loss, _, metrics = run(network, batch)
    loss.backward()
    assert network.heads[0][0].weight.grad is None
    assert network.heads[1][0].weight.grad is not None
    assert metrics["agreement/b"] == metrics["agreement"]


def test_a_batch_moves_and_counts_its_observations():
    batch = DistillationBatch(OBSERVATION, LABEL, "a").to("meta")
    assert (batch.observation.device.type, batch.label.device.type, batch.task) == ("meta", "meta", "a")
    assert batch.tokens == 3


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"loss": "l2"}, "unknown loss 'l2'"),
        ({"tempered": "student"}, "unknown tempered 'student'"),
        ({"direction": "back"}, "unknown direction 'back'"),
        ({"reduction": "none"}, "unknown reduction 'none'"),
        ({"temperature": 0.0}, "temperature: expected a number above 0, got 0.0"),
        ({"loss": "mse", "direction": "reverse"}, "direction: expected forward for the loss 'mse'"),
    ],
)
def test_choices_that_are_not_there_are_refused(choices, said):
    with pytest.raises(UserError, match=said):
        DistillationObjective(**choices)


@pytest.mark.parametrize("loss", LOSSES)
def test_labels_of_another_width_are_refused(loss):
    batch = DistillationBatch(OBSERVATION, torch.zeros(3, 1), "Pong")
    with pytest.raises(UserError, match=r"labels of Pong: expected shape \(3, 2\) .* got \(3, 1\)"):
        run(Constant([0.0, 0.0]), batch, loss=loss)


def q_values(observation):
    """A teacher whose best action is the corner the observation lies in."""
    corners = torch.tensor([[-1.0, -1.0, 1.0, 1.0], [-1.0, 1.0, -1.0, 1.0]])
    return 0.1 * observation @ corners + 3


def drawn(step, rank, world_size, micro):
    generator = torch.Generator().manual_seed(1000 * step + micro)
    observation = 2 * torch.rand(64, 2, generator=generator) - 1
    return DistillationBatch(observation, q_values(observation))


@pytest.mark.parametrize("choices", [{}, {"tempered": "both"}, {"loss": "nll"}, {"loss": "mse"}])
def test_a_student_becomes_its_teacher(choices, tmp_path):
    objective = DistillationObjective(**choices)
    result = train(
        make_model=lambda: PolicyNetwork(mlp(2, (32,), 4, outputs=objective.outputs)),
        batch_source=drawn,
        objective=objective,
        config=TrainConfig(
            steps=400, learning_rate=1e-2, warmup_steps=0, tensorboard=False, device="cpu", log_every=100
        ),
        run=tmp_path,
        save_model=lambda model, path: save_model(model, str(path / "model.safetensors")),
        load_model=lambda model, path: load_model(model, str(path / "model.safetensors")),
    )
    assert result.metrics["agreement"] > 0.95
    assert result.metrics["tokens"] == 400 * 64
