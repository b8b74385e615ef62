"""Agents: the best action, a draw, a random one; the same after a resume."""

import json

import numpy as np
import pytest
import torch
from gymnasium import spaces

from factotum.core.checks import UserError
from factotum.core.step import Core
from factotum.distill.agent import PolicyAgent, TeacherAgent
from factotum.distill.choice import Chooser
from factotum.distill.config import mlp
from factotum.distill.model import PolicyNetwork
from factotum.distill.teacher import CheckedTeacher, as_teacher

BOX = spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([1.0, 0.5], np.float32))
MANY = 20_000


def network(outputs="q", actions=4):
    torch.manual_seed(0)
    return PolicyNetwork(mlp(3, (16,), actions, outputs=outputs))


def observations(count=64):
    return np.random.default_rng(0).normal(size=(count, 3)).astype(np.float32)


def test_agents_are_cores():
    model = network()
    for agent in (PolicyAgent(model), TeacherAgent(as_teacher(model))):
        assert isinstance(agent, Core)
        actions, state = agent.step((observations(5), [True] * 5), agent.initial_state(5))
        assert actions.shape == (5,)
        assert actions.dtype == np.int64
        assert state is None


def test_without_epsilon_the_best_action_is_taken_by_policy_and_teacher_alike():
    model, given = network(), observations()
    best = model(torch.from_numpy(given)).argmax(1).numpy()
    assert (PolicyAgent(model, epsilon=0.0).act(given) == best).all()
    assert (TeacherAgent(as_teacher(model), epsilon=0.0).act(given) == best).all()


def test_a_list_of_observations_will_do():
    agent = PolicyAgent(network(), epsilon=0.0)
    given = observations(4)
    actions, _ = agent.step((list(given), [False] * 4), None)
    assert (actions == agent.act(given)).all()


def test_a_share_epsilon_of_actions_is_uniform():
    given = np.tile([[0.0, 9.0, 0.0, 0.0]], (MANY, 1))
    actions = Chooser("q", epsilon=0.2, seed=(1,))(given)
    shares = np.bincount(actions, minlength=4) / MANY
    # five standard deviations of a share of 0.05
    assert shares == pytest.approx([0.05, 0.85, 0.05, 0.05], abs=5 * np.sqrt(0.05 * 0.95 / MANY) + 0.005)


def test_all_actions_are_random_at_epsilon_one():
    shares = np.bincount(Chooser("q", epsilon=1.0)(np.tile([[5.0, 0.0]], (MANY, 1)))) / MANY
    assert shares == pytest.approx([0.5, 0.5], abs=0.02)


@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_draws_follow_the_policy(kind):
    policy = np.array([0.1, 0.6, 0.3])
    actions = Chooser(kind, epsilon=0.0, sample=True)(np.tile(np.log(policy), (MANY, 1)))
    assert np.bincount(actions) / MANY == pytest.approx(policy, abs=0.02)


def test_gaussian_policies_take_the_mean_or_draw():
    outputs = np.tile([[0.5, -2.0, np.log(0.1), np.log(2.0)]], (MANY, 1))
    assert (Chooser("gaussian", epsilon=0.0)(outputs) == np.float32([0.5, -2.0])).all()
    drawn = Chooser("gaussian", epsilon=0.0, sample=True)(outputs)
    assert drawn.mean(0) == pytest.approx([0.5, -2.0], abs=0.1)
    assert drawn.std(0) == pytest.approx([0.1, 2.0], rel=0.05)


def test_continuous_actions_are_clipped_and_drawn_within_their_bounds():
    outputs = np.tile([[3.0, -1.0]], (MANY, 1))
    assert (Chooser("continuous", epsilon=0.0, action_space=BOX)(outputs) == np.float32([1.0, 0.0])).all()
    actions = Chooser("continuous", epsilon=0.5, action_space=BOX)(outputs)
    assert actions.dtype == np.float32
    drawn = actions[actions[:, 0] != 1.0]
    assert len(drawn) / MANY == pytest.approx(0.5, abs=0.02)
    assert drawn.mean(0) == pytest.approx([0.0, 0.25], abs=0.03)
    assert (drawn >= BOX.low).all()
    assert (drawn <= BOX.high).all()


def test_a_continuous_policy_acts():
    model = network("gaussian")
    given = observations()
    means = model(torch.from_numpy(given))[:, :2].detach().numpy()
    actions = PolicyAgent(model, epsilon=0.0, action_space=BOX).act(given)
    assert actions == pytest.approx(np.clip(means, BOX.low, BOX.high))


def test_the_same_seed_acts_the_same_and_a_saved_state_goes_on():
    model, given = network("logits"), observations()

    def agent(seed):
        return PolicyAgent(model, epsilon=0.3, seed=seed, sample=True)

    first, second, other = agent(0), agent(0), agent(1)
    assert (first.act(given) == second.act(given)).all()
    assert (first.act(given) != other.act(given)).any()
    third = agent(7)
    third.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert (third.act(given) == first.act(given)).all()


def test_a_task_has_its_own_head():
    torch.manual_seed(0)
    model = PolicyNetwork(mlp(3, (16,), {"a": 2, "b": 5}))
    given = observations()
    expected = model(torch.from_numpy(given), "b").argmax(1).numpy()
    assert (PolicyAgent(model, "b", epsilon=0.0).act(given) == expected).all()
    with pytest.raises(UserError, match="task: expected one of a, b"):
        PolicyAgent(model)


def test_labels_serve_for_acting():
    calls = []

    def function(observation_B):
        calls.append(len(observation_B))
        return observation_B

    agent = TeacherAgent(CheckedTeacher(function, "q", 3), epsilon=0.0)
    given = observations(6)
    label = agent.outputs(given)
    assert (agent.choose(label) == given.argmax(1)).all()
    assert calls == [6]


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"kind": "values"}, "unknown kind 'values'"),
        ({"epsilon": -0.1}, "epsilon: expected a share from 0 to 1, got -0.1"),
        ({"epsilon": float("nan")}, "epsilon: expected a share"),
        ({"sample": True}, "sample: expected outputs that are logits, probabilities, gaussian, got 'q'"),
        ({"kind": "continuous", "sample": True, "action_space": BOX}, "sample: expected outputs"),
        ({"kind": "gaussian"}, "epsilon: expected 0, or an action_space"),
    ],
)
def test_choices_that_do_not_fit_are_refused(choices, said):
    with pytest.raises(UserError, match=said):
        Chooser(**{"kind": "q", **choices})


def test_outputs_that_are_not_finite_are_refused():
    model = network()
    with torch.no_grad():
        model.heads[0][-1].bias[2] = float("nan")
    with pytest.raises(UserError, match="outputs of the policy for task: expected finite numbers, got nan"):
        PolicyAgent(model).act(observations())
