"""Students that go on by reinforcement learning, in a world whose best actions are known."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from factotum.core.checks import UserError
from factotum.distill import PolicyNetwork
from factotum.distill.config import mlp
from factotum.distill.fine_tune import FineTuneConfig, FineTuner
from factotum.distill.objective import DistillationObjective

CONTEXTS, ROWS = 4, 8
WRONG = 0
"""The context in which the teacher errs."""


class Bandit:
    """Pays 1 for the action that the observation shows; every second step ends an episode."""

    def __init__(self, seed=0):
        self.generator, self.over = np.random.default_rng(seed), np.zeros(ROWS, bool)
        self._show()

    def _show(self):
        self.context = self.generator.integers(CONTEXTS, size=ROWS)
        self.observation = np.eye(CONTEXTS, dtype=np.float32)[self.context]

    def step(self, action):
        begun = self.over
        reward = np.where(begun, 0.0, action == self.context).astype(np.float32)
        self.over = ~begun & (self.generator.random(ROWS) < 0.5)
        self._show()
        return SimpleNamespace(
            observation=self.observation,
            reward=reward,
            terminated=self.over,
            truncated=self.over & False,
            begun=begun,
        )


def teacher(observation):
    """Q-values of someone who is sure, and in one context wrong."""
    best = observation.argmax(1)
    return np.eye(CONTEXTS, dtype=np.float32)[np.where(best == WRONG, 1, best)]


def network(outputs, seed=0):
    torch.manual_seed(seed)
    return PolicyNetwork(mlp(CONTEXTS, (16,), CONTEXTS, outputs=outputs))


def tuner(outputs="logits", steps=4000, student=None, **changes):
    settings = {"learning_rate": 2e-2, "discount": 0.0, "rollout": 16, "epsilon": 0.3}
    objective = DistillationObjective("mse" if outputs == "q" else "kl", 0.1 if outputs == "logits" else 0.01)
    config = FineTuneConfig(**{**settings, **changes})
    student = student or network(outputs)
    return FineTuner(student, teacher, objective, config, environments=ROWS, steps=steps)


def play(learner, steps, world=None):
    world, metrics = world or Bandit(), []
    while learner.steps < steps:
        seen = learner.observe(world.step(learner.act(world.observation)))
        metrics += [{name: float(value) for name, value in seen.items()}] if seen else []
    return metrics


def chosen(learner):
    with torch.no_grad():
        return learner.network(torch.eye(CONTEXTS)).argmax(1).tolist()


@pytest.mark.parametrize("outputs", ["logits", "q"])
def test_student_outgrows_a_teacher_that_errs(outputs):
    learner = tuner(outputs)
    play(learner, 4000)
    assert chosen(learner) == [0, 1, 2, 3]


@pytest.mark.parametrize("outputs", ["logits", "q"])
def test_a_teacher_that_is_not_let_go_is_followed(outputs):
    learner = tuner(outputs, distill_weight=100.0, anneal_share=1.0)
    play(learner, 3000)
    assert chosen(learner) == [1, 1, 2, 3]


def test_the_teachers_weight_falls_along_a_line_to_nothing():
    metrics = play(tuner(steps=1280, distill_weight=2.0, anneal_share=0.5), 1280)
    weights = [line["distill_weight"] for line in metrics]
    assert weights == pytest.approx([max(0.0, 2 * (1 - 128 * k / 640)) for k in range(1, 11)])


def test_critic_learns_alone_at_first():
    learner = tuner(steps=1280, warm_up_share=0.5)
    before = [p.clone() for p in learner.network.parameters()]
    metrics = play(learner, 640)
    assert all(torch.equal(a, b) for a, b in zip(before, learner.network.parameters(), strict=True))
    assert metrics[-1]["value_loss"] < metrics[0]["value_loss"]
    play(learner, 1280)
    assert not all(torch.equal(a, b) for a, b in zip(before, learner.network.parameters(), strict=True))


@pytest.mark.parametrize("outputs", ["logits", "q"])
def test_values_do_not_cross_the_end_of_an_episode(outputs):
    learner = tuner(outputs, discount=0.9, lam=0.5, rollout=4)
    learner.value_TB[:] = torch.arange(4.0)[:, None]
    learner.reward_TB[:] = 1.0
    learner.terminated_TB[1, 0] = learner.last_TB[1, 0] = True
    learner.last_TB[1, 1] = True  # a time limit: the value of the last observation counts
    returns = learner.returns(torch.full((ROWS,), 4.0))
    assert returns[3].tolist() == pytest.approx([1 + 0.9 * 4] * ROWS)
    assert returns[2, 0].item() == pytest.approx(1 + 0.9 * (0.5 * 3 + 0.5 * 4.6))
    assert returns[1, :2].tolist() == pytest.approx([1.0, 1 + 0.9 * 2])
    assert returns[0, 0].item() == pytest.approx(1 + 0.9 * (0.5 * 1 + 0.5 * 1.0))


@pytest.mark.parametrize("outputs", ["logits", "q"])
def test_goes_on_from_a_checkpoint_bit_equal(outputs):
    whole = tuner(outputs, discount=0.9)
    play(whole, 1280)
    world = Bandit(1)
    saved = {name: value.clone() for name, value in whole.tensors().items()}
    other = tuner(outputs, student=network(outputs, seed=5), discount=0.9)
    other.network.load_state_dict(whole.network.state_dict())
    other.load(saved, whole.state())
    play(whole, 2560, world)
    play(other, 2560, Bandit(1))
    for a, b in zip(whole.network.parameters(), other.network.parameters(), strict=True):
        assert torch.equal(a, b)


def test_students_that_cannot_go_on_are_refused():
    config, objective = FineTuneConfig(), DistillationObjective()
    for student, loss in (
        (network("q"), objective),
        (network("continuous"), DistillationObjective("action")),
        (PolicyNetwork(mlp(4, (8,), {"a": 2, "b": 2}, outputs="logits")), objective),
    ):
        with pytest.raises(UserError, match="fine-tuning: expected a student of one task"):
            FineTuner(student, teacher, loss, config, environments=1, steps=10)
