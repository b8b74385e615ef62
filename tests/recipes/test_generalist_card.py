"""The model card: goals counted rightly from scores, failures listed, commands that can be typed."""

import numpy as np

from factotum import cli
from factotum.recipes.evaluate import Args
from factotum.recipes.generalist_card import failures, goals, how_it_was_played, task_table
from factotum.recipes.generalist_evaluate import command
from factotum.training.summary import Score, Summary, TaskRow, Yardstick


def row(task, raw, jat=None, retrieve=None):
    scores = {"gato": Score(raw, 50, 0, raw, raw - 0.1, raw + 0.1)}
    if retrieve is not None:
        scores["retrieve"] = Score(retrieve, 50, 0, retrieve, retrieve, retrieve)
    return TaskRow(task, scores, Yardstick(0.0, "x"), Yardstick(1.0, "x"), jat)


def summary(*rows):
    return Summary("gato", ("retrieve", "gato"), rows, (), ())


FOUND = summary(
    row("babyai/GoToObj", 1.0, jat=0.9),
    row("babyai/BossLevel", 0.4, jat=0.54),
    row("metaworld/reach", 0.9, retrieve=0.5),
    row("metaworld/push", 0.8, retrieve=1.0),
    row("atari/Pong", 0.2),
    row("scenes/caption", 0.95),
)


def test_goals_are_means_minima_and_differences_of_the_right_tasks():
    found = {goal.what: goal for goal in goals(FOUND)}
    measured = {
        "BabyAI, mean over its levels, normalised": 0.7,
        "BabyAI, lowest level": 0.4,
        "Meta-World, mean success": 0.85,
        "Meta-World, lowest task": 0.8,
        "Meta-World, mean success over retrieve-and-play's": 0.1,
        "captions: attributes right": 0.95,
        "Atari, lowest game with an expert, normalised": 0.2,
        "share of tasks at or above half of the expert": 4 / 6,
    }
    for what, value in measured.items():
        assert np.isclose(found[what].measured, value), what
    reached = [what for what in measured if found[what].met == "yes"]
    assert reached == [
        "Meta-World, mean success",
        "Meta-World, lowest task",
        "Meta-World, mean success over retrieve-and-play's",
        "captions: attributes right",
    ]
    assert found["Box2D, mean normalised"].met == "not measured"


def test_failures_are_listed_worst_first():
    assert "2 of 6 tasks" in failures(FOUND)
    assert failures(FOUND).index("atari/Pong") < failures(FOUND).index("babyai/BossLevel")
    assert failures(summary(row("a/B", 0.5))).startswith("No task")


def test_episodes_are_counted():
    assert how_it_was_played(FOUND).startswith("50 episodes a task")
    fewer = TaskRow("a/B", {"gato": Score(0.5, 20)}, None, None)
    assert how_it_was_played(summary(*FOUND.rows, fewer)).startswith("20 to 50 episodes a task")


def test_the_table_has_jat_beside_ours_and_intervals():
    lines = task_table(FOUND).splitlines()
    assert lines[0] == "| task | random | expert | retrieve | factotum-s | normalised [95 %] | JAT |"
    assert lines[3] == "| babyai/BossLevel | 0.00 | 1.00 | – | 0.40 | 0.40 [0.30, 0.50] | 0.54 |"


def test_a_figures_command_can_be_typed(monkeypatch):
    import shlex

    from factotum.recipes import evaluate

    args = Args(
        agent="random", tasks=("gym/Taxi", "digits/name"), episodes=7, datasets=("*/expert-v0",),
        words="held-out", label="other", prompt_episodes=2, out=evaluate.Path("somewhere"),
    )  # fmt: skip
    taken = []
    monkeypatch.setattr(evaluate, "main", taken.append)
    assert cli.main(shlex.split(command(args))[1:]) == 0
    assert taken == [args]
