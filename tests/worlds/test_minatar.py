"""MinAtar: the same games as the package plays, whole functions of the seed, images that hide nothing."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from factotum.core.checks import UserError
from factotum.worlds import vector_minatar
from factotum.worlds.suites import minatar
from factotum.worlds.vector import make_vector, row_seeds

package = pytest.importorskip("minatar")


@pytest.fixture(params=minatar.GAMES)
def game(request):
    return request.param


def test_the_table_is_the_package_s(game):
    environment = package.Environment(game)
    channels, minimal = minatar.GAMES[game]
    assert environment.state_shape() == [minatar.CELLS, minatar.CELLS, channels]
    assert environment.minimal_action_set() == list(minimal)


def test_rows_are_the_package_s_environments_bit_for_bit(game):
    count, generator = 3, np.random.default_rng(0)
    world = make_vector(f"minatar/{game}", count)
    seen = world.reset(7)
    twins = [package.Environment(game) for _ in range(count)]
    for twin, seed in zip(twins, row_seeds(7, count), strict=True):
        twin.seed(seed)
        twin.reset()
    over, ends = [False] * count, 0
    for _ in range(600 if game != "freeway" else 2600):
        assert np.array_equal(seen, [twin.state().transpose(2, 0, 1) for twin in twins])
        action = generator.integers(world.action_space.n, size=count)
        moved = world.step(action)
        for row, twin in enumerate(twins):
            if over[row]:
                twin.reset()
                twin.last_action = 0  # ours holds nothing at the first step
                reward, over[row] = 0, False
            else:
                reward, over[row] = twin.act(minatar.GAMES[game][1][action[row]])
            ended = moved.truncated if game == "freeway" else moved.terminated
            assert (moved.reward[row], ended[row]) == (reward, over[row])
        assert not (moved.terminated if game == "freeway" else moved.truncated).any()
        ends += sum(over)
        seen = moved.observation
    assert ends >= count


def test_the_suite_plays_the_same_game_as_a_row(game):
    world, env = make_vector(f"minatar/{game}", 2), minatar.MinAtar(game)
    generator = np.random.default_rng(1)
    seed = row_seeds(4, 2)[1]
    states = world.reset(4)
    images = [env.reset(seed=seed)[0]["image"]]
    for _ in range(200):
        action = generator.integers(world.action_space.n, size=2)
        moved = world.step(action)
        observation, reward, terminated, _, _ = env.step(action[1])
        assert (reward, terminated) == (moved.reward[1], moved.terminated[1])
        images.append(observation["image"])
        states = moved.observation
        assert np.array_equal(images[-1], minatar.picture(states[1].transpose(1, 2, 0)))
        if terminated:
            break


def test_actions_stick_one_time_in_ten():
    class Recorder:
        def reset(self):
            pass

        def act(self, action):
            self.taken.append(action)
            return 0, False

    game = minatar.Game("breakout")
    game.env = Recorder()
    game.env.taken = []
    game.seed(0)
    wanted = [1 + step % 2 for step in range(4000)]
    for action in wanted:
        game.act(action)
    stuck = np.mean(np.array(game.env.taken) != wanted)
    # of a run of stuck steps every other one is seen: 0.1 - 0.1^2 + 0.1^3 - ... = 1/11
    assert stuck == pytest.approx(1 / 11, abs=0.015)


def test_nothing_sticks_from_the_episode_before():
    game = minatar.Game("breakout")
    game.seed(0)
    game.act(3)
    game.begin()
    assert game.last_action == 0


@pytest.mark.parametrize("name", ["asterix", "space_invaders", "seaquest"])
def test_difficulty_ramps_up(name):
    assert minatar.Game(name).env.ramping


def test_episodes_are_cut_and_then_begin_anew(monkeypatch):
    monkeypatch.setattr(minatar, "MAX_STEPS", 7)
    monkeypatch.setattr(vector_minatar, "MAX_STEPS", 7)
    env, world = minatar.MinAtar("freeway"), make_vector("minatar/freeway", 2)
    env.reset(seed=0)
    assert [env.step(0)[3] for _ in range(7)] == [False] * 6 + [True]
    world.reset(0)
    cut = [world.step(np.zeros(2, int)).truncated.all() for _ in range(16)]
    assert np.flatnonzero(cut).tolist() == [6, 14]


def test_images_hide_nothing(game):
    channels = minatar.GAMES[game][0]
    generator = np.random.default_rng(0)
    state = generator.random((minatar.CELLS, minatar.CELLS, channels)) < 0.5
    image = minatar.picture(state)
    bits = -(-channels // minatar.PLANES)
    levels = image[: 10 * minatar.SCALE : minatar.SCALE, : 10 * minatar.SCALE : minatar.SCALE].astype(int)
    number = np.ceil(levels * (2**bits - 1) / 255).astype(int)
    read = [(number[..., channel % 4] >> channel // 4) & 1 for channel in range(channels)]
    assert np.array_equal(np.stack(read, -1), state)
    assert not image[10 * minatar.SCALE :].any()


def test_people_see_it_in_colour():
    env = minatar.MinAtar("seaquest")
    env.reset(seed=0)
    drawn = env.render()
    assert (drawn.shape, drawn.dtype) == ((80, 80, 3), np.uint8)
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) >= 3


def test_the_drawing_libraries_are_not_loaded():
    program = (
        "import sys\n"
        "from factotum.worlds.vector import make_vector\n"
        "make_vector('minatar/breakout', 1).reset(0)\n"
        "print(*({'seaborn', 'matplotlib', 'pandas', 'scipy', 'minatar'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []


def test_unknown_games_and_a_package_without_its_games(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="unknown MinAtar game 'breakdown': did you mean breakout"):
        minatar.Game("breakdown")
    minatar.game_module.cache_clear()

    class Spec:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr(minatar, "find_spec", lambda name: Spec)
    with pytest.raises(UserError, match=r"expected the game .*breakout\.py, found none"):
        minatar.Game("breakout")


def test_random_play_is_on_record(game):
    random = minatar.SUITE.task(f"minatar/{game}").random
    assert random is not None
    assert "1000 episodes" in random.source
