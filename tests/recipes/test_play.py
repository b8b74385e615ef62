from __future__ import annotations

import pytest

from factotum.core.checks import UserError
from factotum.recipes.play import Args, Show, Told, characters, main
from factotum.worlds.suites import registry
from tests.recipes.runs import data_folder

LAKE = "gym/FrozenLakeFirm"


@pytest.fixture
def data():
    return data_folder()


def test_a_trace_has_a_line_a_step_and_says_how_it_ended(capsys):
    result = main(Args(LAKE, seed=3))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{LAKE}: {registry.task(LAKE).instruction}"
    assert len(lines) == result.length + 2
    assert "reward +1" in lines[-2]
    assert lines[-1].endswith("score 1 (seed 3, expert)")


def test_the_agent_may_come_first_where_the_task_is_named(capsys):
    played = main(Args("gym/FrozenLake", "random"))
    assert main(Args("random", named_task="gym/FrozenLake")) == played
    assert main(Args(named_task="gym/FrozenLake")) == main(Args("gym/FrozenLake"))
    with pytest.raises(
        UserError, match="task: expected one of --task and TASK, got gym/Taxi and gym/FrozenLake"
    ):
        main(Args("gym/FrozenLake", "random", named_task="gym/Taxi"))
    with pytest.raises(UserError, match="TASK: expected the name of a task"):
        main(Args())


def test_draws_the_last_picture_in_characters(capsys):
    result = main(Args(LAKE, "random", seed=3, draw=True))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == result.length + 2 + 24


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_a_film_has_a_frame_a_step(tmp_path, suffix, capsys):
    imageio = pytest.importorskip("imageio.v2")
    pytest.importorskip("imageio_ffmpeg")
    path = tmp_path / f"lake{suffix}"
    result = main(Args(LAKE, video=path))
    assert sum(1 for _ in imageio.get_reader(path).iter_data()) == result.length + 1
    assert "action" not in capsys.readouterr().out


def test_the_same_seed_plays_the_same(capsys):
    assert main(Args(LAKE, "random", seed=5)) == main(Args(LAKE, "random", seed=5))


def test_an_instruction_reaches_the_agent_in_place_of_the_task_s_own():
    task = registry.task(LAKE)
    told = Told(task, "go home")
    observation, _ = told.reset(seed=0)
    assert observation["instruction"] == "go home"
    assert task.observation_space.contains(observation)
    assert told.step(1)[0]["instruction"] == "go home"
    assert told.unwrapped is told.env.unwrapped
    with pytest.raises(UserError, match=r"expected 0 to .* characters"):
        Told(task, "x" * 10_000)


def test_retrieval_hears_the_instruction(data, capsys):
    asked = registry.task("scenes/color").make()
    observation, _ = asked.reset(seed=4)
    main(Args("scenes/color", "retrieve", instruction=observation["instruction"], seed=9, data=data))
    assert capsys.readouterr().out.splitlines()[0] == f"scenes/color: {observation['instruction']}"


def test_mistakes_name_the_option(tmp_path):
    with pytest.raises(UserError, match=r"video: expected a file name that ends in \.gif or \.mp4"):
        main(Args(LAKE, video=tmp_path / "film.avi"))
    with pytest.raises(UserError, match="instruction: the expert agent does not read it"):
        main(Args(LAKE, instruction="go"))
    with pytest.raises(UserError, match="unknown task"):
        main(Args("gym/Nothing"))


def test_a_changing_instruction_is_printed(capsys):
    show = Show("t", trace=True, film=False, draw=False)
    show(0, None, {"instruction": "a", "state": [1.0, 2.0]}, None, 0.0, False)
    show(0, None, {"instruction": "a", "state": [1.0, 2.0]}, 1, 0.0, False)
    show(0, None, {"instruction": "b", "state": [0.5] * 9}, [0.25, -1], 0.5, True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == [
        "   1  action 1  reward +0  state 1.00 2.00",
        "   2  action [ 0.25 -1.00]  reward +0.5  state 0.50 0.50 0.50 0.50 0.50 0.50 0.50 0.50 …",
        "      b",
    ]


def test_characters_go_from_dark_to_light():
    import numpy as np

    ramp = np.repeat(np.linspace(0, 255, 40).astype(np.uint8)[None, :, None], 20, 0).repeat(3, -1)
    text = characters(ramp, rows=10)
    assert len(text.splitlines()) == 10
    assert text.splitlines()[0].lstrip(" ")[-1] == "@"
    assert text[0] == " "
