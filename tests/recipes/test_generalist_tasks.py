"""What the generalist learns: every family, experts everywhere, nothing of what is left out."""

import pytest

from factotum.core.checks import UserError
from factotum.core.seeding import numpy_generator
from factotum.recipes import generalist_tasks
from factotum.recipes.generalist_tasks import (
    LEFT_OUT,
    MATERIAL,
    ONE_STEP,
    SEVERAL_CLAUSES,
    WORD_LEVELS,
    by_count,
    choose,
    material,
    scaled,
    trained_tasks,
)
from factotum.worlds.paraphrase import paraphrase, parse
from factotum.worlds.suites import registry
from factotum.worlds.suites.jat import jat_entry


def test_all_of_babyai_and_metaworld_and_every_task_has_expert_and_references():
    counts = {}
    for name in trained_tasks():
        counts[name.partition("/")[0]] = counts.get(name.partition("/")[0], 0) + 1
    assert counts == {
        "babyai": 39, "metaworld": 50, "gym": 11, "box2d": 3, "scenes": 5, "digits": 1, "mujoco": 4, "atari": 3,
        "pixels": 6,
    }  # fmt: skip
    tasks = [registry.task(name) for name in trained_tasks()]
    assert all(task.make_expert and task.random and task.expert for task in tasks)


def test_the_left_out_ones_are_five_and_cost_nothing_beside_jat():
    assert len(LEFT_OUT) == 5
    assert not LEFT_OUT.keys() & set(trained_tasks())
    assert [name for name in LEFT_OUT if jat_entry(name)] == []
    for name in LEFT_OUT:  # statistics of a vector that training lacks would be missing
        spaces = registry.task(name).observation_space.spaces.values()
        assert all(type(space).__name__ in ("Text", "Discrete") or space.dtype == "uint8" for space in spaces)


def test_material_is_more_where_it_is_harder_and_none_is_without():
    assert material("babyai/BossLevel").expert > material("babyai/GoToObj").expert
    assert material("babyai/OpenTwoDoors").words == 0 < material("babyai/GoToObj").words
    for name in trained_tasks():
        found = material(name)
        one_step = name.startswith(tuple(pattern.rstrip("*") for pattern in ONE_STEP))
        assert found.expert > 0
        assert found.weight > 0
        assert (found.round == 0) == (one_step or name.startswith("atari/")), name
    with pytest.raises(UserError, match="unknown task of the generalist 'minatar/breakout'"):
        material("minatar/breakout")


def test_no_pattern_is_idle():
    names = trained_tasks()
    used = {id(material(name)) for name in names}
    assert [pattern for pattern, found in MATERIAL.items() if id(found) not in used] == []


@pytest.mark.parametrize("level", [*WORD_LEVELS, *(f"babyai/{level}" for level in SEVERAL_CLAUSES)])
def test_missions_can_be_said_in_other_words_where_they_are_to_be(level):
    env, refused = registry.task(level).make(), 0
    space = registry.task(level).observation_space["instruction"]
    for seed in range(8):
        mission = env.reset(seed=seed)[0]["instruction"]
        try:
            parse(mission)
        except UserError:
            refused += 1
        else:
            said = paraphrase(mission, "held-out", numpy_generator(seed))
            assert space.contains(said)
    assert (refused > 0) == (level.partition("/")[2] in SEVERAL_CLAUSES)
    assert (material(level).words == 0) == (refused > 0)


def test_choosing_keeps_the_order_and_names_what_is_not_there():
    assert choose([]) == trained_tasks()
    assert choose(["gym/Taxi", "digits"]) == choose(["digits", "gym/Taxi"]) == ["gym/Taxi", "digits/name"]
    with pytest.raises(UserError, match="unknown task of the generalist 'gym/FrozenLake8x8Firm'"):
        choose(["gym/FrozenLake8x8Firm"])


def test_policies_show_games_that_have_no_expert_and_others_more_often():
    taught = ["minatar/seaquest", "atari/Pong"]
    assert set(trained_tasks(taught)) - set(trained_tasks()) == {"minatar/seaquest"}
    assert choose(["minatar", "atari"], taught) == [
        *(name for name in trained_tasks() if name.startswith("atari/")),
        "minatar/seaquest",
    ]
    assert material("minatar/seaquest", taught=True).round > 0
    assert material("atari/Pong", taught=True).round > material("atari/Pong").round == 0
    assert {name for name in registry.expand(["minatar"]) if registry.task(name).expert is None} == set()
    with pytest.raises(
        UserError, match="unknown task of the generalist that a policy shows 'gym/CartPole-v1'"
    ):
        trained_tasks(["gym/CartPole-v1"])
    with pytest.raises(
        UserError, match="that a policy shows 'atari/Adventure'"
    ):  # ale-py has it, the suite has not
        trained_tasks(["atari/Adventure"])


def test_scaling_and_grouping():
    assert [scaled(count, 0.1) for count in (0, 5, 100)] == [0, 4, 10]
    assert by_count({"a": 0}, {}) == {}
    assert generalist_tasks.FEW == 5
