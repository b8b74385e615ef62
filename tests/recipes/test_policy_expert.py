"""Trained policies play and label in the suites' tasks: what they would do, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from factotum.core.checks import UserError
from factotum.data.store import Dataset
from factotum.data.validate import validate
from factotum.distill.agent import PolicyAgent
from factotum.distill.config import PolicyConfig, mlp
from factotum.distill.model import PolicyNetwork
from factotum.distill.store import load_policy, save_policy
from factotum.recipes import collect
from factotum.recipes.compose_data import demonstrations
from factotum.recipes.compose_file import DataSection
from factotum.recipes.policy_expert import policy_tasks, with_policy
from factotum.worlds.policy_views import policy_view
from factotum.worlds.suites import registry

pytest.importorskip("minatar")

GAME = "minatar/breakout"


@pytest.fixture
def policy(tmp_path):
    torch.manual_seed(0)
    config = PolicyConfig((4, 10, 10), {GAME: 3}, scale=1.0, hidden=(16,))
    save_policy(PolicyNetwork(config), tmp_path / "policy")
    return str(tmp_path / "policy")


def play(tmp_path, **options):
    options = {"tasks": (GAME,), "episodes": 4, "data": tmp_path / "data", "jobs": 1, "keep": 0.0, **options}
    *_, identity = collect.main(collect.Args(**options))
    return Dataset(tmp_path / "data" / identity)


def best(policy, episode):
    """What the policy does in a game that is played again."""
    task = registry.task(GAME)
    env, agent = task.make(), PolicyAgent(load_policy(policy), GAME, epsilon=0.0)
    observation, _ = env.reset(seed=int(episode.seed))
    view = policy_view(task, env)
    for action in episode.actions:
        yield int(agent.act(view(observation, None)[None])[0])
        observation, *_ = env.step(action)


def test_a_policy_plays_a_game_that_has_no_expert(tmp_path, policy):
    with pytest.raises(UserError, match="no expert there"):
        play(tmp_path)
    dataset = play(tmp_path, expert=policy)
    assert dataset.id == f"{GAME}/expert-v0"
    assert validate(dataset.path) == []
    assert dataset.own_metadata["settings"]["expert"].startswith("policy policy sha256:")
    for episode in dataset:
        assert list(best(policy, episode)) == episode.actions.tolist()


def test_it_labels_what_random_actions_disturb(tmp_path, policy):
    dataset = play(tmp_path, expert=policy, noise=0.5)
    again = play(tmp_path, expert=policy, noise=0.5)
    assert [e.actions.tolist() for e in dataset] == [e.actions.tolist() for e in again]
    assert dataset.own_metadata["labeller"] == "expert"


def test_another_policy_needs_another_name(tmp_path, policy):
    play(tmp_path, expert=policy)
    save_policy(PolicyNetwork(load_policy(policy).config), policy)
    with pytest.raises(UserError, match="choose another --name"):
        play(tmp_path, expert=policy, episodes=5)


def test_a_composition_learns_from_a_policy(tmp_path, policy):
    data = DataSection((GAME,), folder=str(tmp_path / "data"), episodes=3, expert=policy, noise=0.1)
    dataset = demonstrations(registry.task(GAME), data)
    assert dataset.id == f"{GAME}/policy-noise-10-v0"
    assert len(dataset) == 3
    with pytest.raises(UserError, match="expert: expected none where name is not"):
        DataSection((GAME,), name="mine", expert=policy)


def test_policies_are_found_by_their_tasks(tmp_path, policy):
    save_policy(PolicyNetwork(mlp(4, (8,), 2)), tmp_path / "other")
    found = policy_tasks([policy, tmp_path / "other"])
    assert found[GAME] == policy
    assert str(tmp_path / "other") in found.values()
    with pytest.raises(UserError, match=f"teachers: expected one policy for {GAME}"):
        policy_tasks([policy, policy])


def test_a_policy_that_was_written_anew_counts(policy):
    assert set(policy_tasks([policy])) == {GAME}
    save_policy(PolicyNetwork(mlp(4, (8,), {"gym/CartPole": 2})), policy)
    assert set(policy_tasks([policy])) == {"gym/CartPole"}


def test_wrong_policies_are_refused(tmp_path, policy):
    with pytest.raises(
        UserError, match="expert: expected a policy for minatar/seaquest, got one for minatar/breakout"
    ):
        with_policy(registry.task("minatar/seaquest"), policy)
    with pytest.raises(UserError, match="expected a folder with a policy, found none"):
        play(tmp_path, expert=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="--expert: works where an expert acts or labels, got --actor random"):
        play(tmp_path, expert=policy, actor="random")
    config = PolicyConfig((4, 10, 10), {GAME: 2}, scale=1.0, hidden=(16,))
    save_policy(PolicyNetwork(config), tmp_path / "two")
    with pytest.raises(UserError, match=r"observations \(4, 10, 10\) and 3 outputs .* got one for .* and 2"):
        with_policy(registry.task(GAME), tmp_path / "two")


@pytest.mark.parametrize(("outputs", "count"), [("continuous", 4), ("gaussian", 8)])
def test_continuous_actions_stay_within_their_bounds(outputs, count, tmp_path):
    task = registry.task("metaworld/reach")
    config = PolicyConfig((39,), {"metaworld/reach": count}, scale=1.0, hidden=(8,), outputs=outputs)
    network = PolicyNetwork(config)
    for parameter in network.parameters():
        torch.nn.init.constant_(parameter, 3.0)
    save_policy(network, tmp_path / "arm")
    expert = with_policy(task, tmp_path / "arm").make_expert
    assert expert is not None
    action = expert(None)({"instruction": "", "state": np.ones(39)}, None)
    assert task.action_space.contains(action)
