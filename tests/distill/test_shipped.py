"""The policies in checkpoints/minatar and atari: all load, and choose actions in the games that their names say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from factotum.core.files import read_json
from factotum.distill import PolicyAgent, load_policy
from factotum.worlds.vector import make_vector

CHECKPOINTS = Path(__file__).parents[2] / "checkpoints"
FOLDERS = sorted(folder for suite in ("minatar", "atari") for folder in (CHECKPOINTS / suite).iterdir())
PACKAGES = {"minatar": "minatar", "atari": "ale_py"}


def test_every_game_has_a_teacher_and_two_students():
    names = {folder.name for folder in FOLDERS if folder.parent.name == "minatar"}
    games = ("asterix", "breakout", "freeway", "seaquest", "space_invaders")
    assert {f"{game}-{what}" for game in games for what in ("teacher", "kl-100", "kl-4")} <= names


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_it_chooses_between_actions(folder):
    pytest.importorskip(PACKAGES[folder.parent.name])
    network, made_by = load_policy(folder), read_json(folder / "made_by.json")
    (task,) = network.tasks
    assert task == f"{folder.parent.name}/{folder.name.partition('-')[0]}"
    assert "command" in made_by
    world = make_vector(task, 8)
    agent = PolicyAgent(network, task, epsilon=0.0)
    observation, chosen = world.reset(0), []
    for _ in range(30):
        action = agent.outputs(observation).argmax(1)
        chosen.append(action)
        observation = world.step(np.asarray(action)).observation
    world.close()
    assert len(np.unique(chosen)) > 1
