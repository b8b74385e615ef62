"""Observations as arrays: every plane means what its place says, and all missions can be told."""

from types import SimpleNamespace

import numpy as np
import pytest
from gymnasium import spaces

from factotum.core.checks import UserError
from factotum.worlds.suites import babyai
from factotum.worlds.suites.common import state_space, with_instruction
from factotum.worlds.vector_arrays import (
    HEADING,
    LAST_ACTION,
    MISSION,
    PLANES,
    SEVERAL,
    SIDES,
    WORDS,
    Planes,
    array_space,
)


def observation(mission="go to the red ball", direction=0):
    return {"grid": np.zeros((7, 7, 3), np.uint8), "direction": direction, "instruction": mission}


def test_every_plane_says_one_thing():
    seen = observation(direction=2)
    seen["grid"][5, 1] = (4, 2, 1)  # a closed blue door, five to the right, one down
    eyes = Planes()
    eyes(seen, None)
    made = eyes(seen, 5)
    assert (made.shape, made.dtype) == ((PLANES, 7, 7), bool)
    assert made[:, 1, 5].nonzero()[0].tolist()[:3] == [4, 11 + 2, 17 + 1]
    assert made[4].sum() == made[13].sum() == made[18].sum() == 1
    for begin, count in ((0, 11), (11, 6), (17, 3)):
        assert (made[begin : begin + count].sum(0) == 1).all()
    assert made[HEADING:LAST_ACTION, 0, 0].tolist() == [False, False, True, False]
    assert made[LAST_ACTION:MISSION, 0, 0].nonzero()[0].tolist() == [5]
    assert (made[HEADING:] == made[HEADING:, :1, :1]).all()
    assert not eyes(seen, None)[LAST_ACTION:MISSION].any()


@pytest.mark.parametrize("level", ["PickupLoc", "GoToLocal", "UnlockPickup", "Unlock", "Pickup"])
def test_cells_lie_on_the_sides_of_where_the_episode_began(level):
    pytest.importorskip("minigrid")
    env, eyes, rng = babyai.make(level), Planes(), np.random.default_rng(0)
    moved = 0
    for episode in range(6):
        seen, _ = env.reset(seed=episode)
        start, ahead, right = env.unwrapped.agent_pos, env.unwrapped.dir_vec, env.unwrapped.right_vec
        action = None
        for _ in range(60):
            found, world = eyes(seen, action)[SIDES:HEADING], env.unwrapped
            moved += tuple(world.agent_pos) != tuple(start)
            for row, column in np.ndindex(7, 7):
                place = world.agent_pos + (6 - row) * world.dir_vec + (column - 3) * world.right_vec - start
                expected = [place @ ahead > 0, place @ right > 0, place @ ahead < 0, place @ right < 0]
                assert found[:, row, column].tolist() == expected
            action = int(rng.choice(6, p=(0.1, 0.15, 0.45, 0.1, 0.05, 0.15)))
            seen, _, over, *_ = env.step(action)
            if over:
                break
    assert moved > 50


def test_missions_are_sets_of_words():
    said = Planes()(observation("go to the red ball"), None)[MISSION:, 0, 0]
    assert {WORDS[index] for index in said.nonzero()[0]} == {"go", "to", "the", "red", "ball"}
    with pytest.raises(UserError, match="expected words of BabyAI, got 'sphere' in 'go to the sphere'"):
        Planes()(observation("go to the sphere"), None)


def test_all_levels_missions_are_told_by_their_words():
    pytest.importorskip("minigrid")
    ordered, met = {"and", "then", "after", "next"}, set()
    for level in babyai.MAX_STEPS:
        env = babyai.make(level)
        for seed in range(2):
            seen, _ = env.reset(seed=seed)
            words = set(seen["instruction"].replace(",", " , ").split())
            assert words <= set(WORDS)
            met |= {level} if words & ordered else set()
        if level not in SEVERAL:
            space, make_encode = array_space(babyai.task(f"babyai/{level}"))
            assert make_encode()(seen, None) in space
    assert met <= SEVERAL


def test_what_is_carried_lies_in_the_agents_own_cell():
    pytest.importorskip("minigrid")
    env = babyai.make("PickupDist")
    seen, _ = env.reset(seed=0)
    act = babyai.make_expert(env)
    action = act(seen, None)
    while action != 3:  # picks up
        seen, *_ = env.step(action)
        action = act(seen, action)
    target = seen["grid"][3, 5].copy()
    seen, *_ = env.step(action)
    eyes = Planes()
    made = eyes(seen, None)
    assert made[:11, 6, 3].nonzero()[0].tolist() == [target[0]]
    assert made[11:17, 6, 3].nonzero()[0].tolist() == [target[1]]


def test_states_come_as_they_are():
    task = SimpleNamespace(name="a/b", observation_space=with_instruction(state=state_space(3)))
    space, make_encode = array_space(task)
    assert space.shape == (3,)
    assert make_encode()({"instruction": "go", "state": np.arange(3)}, 0).tolist() == [0, 1, 2]


def test_other_observations_are_refused():
    for entries in ({"image": spaces.Box(0, 255, (8, 8, 3), np.uint8)}, {"state": spaces.Discrete(3)}):
        task = SimpleNamespace(name="a/b", observation_space=with_instruction(**entries))
        with pytest.raises(UserError, match="a/b: expected observations with a state or a grid"):
            array_space(task)
    with pytest.raises(UserError, match="babyai/Synth: expected a level whose missions name one object"):
        array_space(babyai.task("babyai/Synth"))
