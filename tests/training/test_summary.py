from __future__ import annotations

import json

import numpy as np
import pytest

from factotum.core.checks import UserError
from factotum.training.summary import Yardstick, summarise


def lines(task, agent, scores, checkpoint="", failed=()):
    return [
        {"task": task, "agent": agent, "checkpoint": checkpoint, "seed": i, "score": s, "failed": i in failed}
        for i, s in enumerate(scores)
    ]


UNIT = {"random": Yardstick(0.0, "paper"), "expert": Yardstick(2.0, "paper")}


def test_a_table_by_hand():
    recorded = [
        *lines("a/One", "gato", [1.0, 2.0]),
        *lines("a/One", "retrieve", [0.0, 1.0]),
        *lines("a/Two", "gato", [0.0, 0.0]),
        *lines("b/Raw", "gato", [5.0]),
    ]
    yardsticks = {
        "a/One": UNIT,
        "a/Two": UNIT,
        "b/Raw": {"random": Yardstick(23.1, ""), "expert": Yardstick(20.4, "")},
    }
    summary = summarise(recorded, yardsticks)
    assert summary.agent == "gato"
    assert summary.labels == ("retrieve", "gato")
    one, two, raw = summary.rows
    assert (one.scores["gato"].raw, one.scores["gato"].normalised, one.scores["retrieve"].normalised) == (
        1.5,
        0.75,
        0.25,
    )
    assert two.scores["gato"].normalised == 0.0
    assert raw.scores["gato"].raw == 5.0
    assert raw.scores["gato"].normalised is None
    assert raw.refused == "expert (20.4) not above random (23.1)"
    retrieve, gato = summary.aggregates
    assert (gato.label, gato.tasks, gato.mean[0], gato.median[0], gato.half[0]) == (
        "gato",
        2,
        0.375,
        0.375,
        0.5,
    )
    assert gato.interquartile_mean[0] == 0.25  # 0, 0, .5, 1 without the lowest and the highest
    assert gato.mean[1] <= 0.375 <= gato.mean[2]
    assert (retrieve.tasks, retrieve.mean[0]) == (1, 0.25)
    assert summary.worst == (("a/Two", 0.0), ("a/One", 0.75))


def test_stored_yardsticks_come_first_and_measured_ones_fill_in():
    recorded = [
        *lines("a/One", "gato", [1.0]),
        *lines("a/One", "random", [0.5]),
        *lines("a/One", "expert", [1.5, 1.5]),
    ]
    stored = summarise(recorded, {"a/One": UNIT}).rows[0]
    assert stored.scores["gato"].normalised == 0.5
    assert stored.scores["expert"].normalised == 0.75
    measured = summarise(recorded, {"a/One": {"random": UNIT["random"]}}).rows[0]
    assert measured.scores["gato"].normalised == pytest.approx(2 / 3)
    assert measured.expert == Yardstick(1.5, "measured in this run, 2 episodes")
    assert summarise(recorded[:1], {}).rows[0].refused == "no random and expert score known"


def test_episodes_the_expert_gave_up_on_do_not_count():
    recorded = [*lines("a/One", "gato", [1.0]), *lines("a/One", "expert", [2.0, 0.0, 2.0], failed={1})]
    row = summarise(recorded, {"a/One": {"random": UNIT["random"]}}).rows[0]
    assert row.expert is not None
    assert row.expert.score == 2.0
    assert row.scores["expert"].failed == 1


def test_the_checkpoint_recorded_last_counts_and_a_seed_counts_once():
    recorded = [*lines("a/One", "gato", [2.0, 2.0], "old"), *lines("a/One", "gato", [1.0], "new")]
    score = summarise([*recorded, recorded[-1]], {"a/One": UNIT}).rows[0].scores["gato"]
    assert (score.raw, score.episodes) == (1.0, 1)
    back = [*recorded, *lines("a/One", "gato", [2.0, 2.0, 2.0], "old")[2:]]
    assert summarise(back, {"a/One": UNIT}).rows[0].scores["gato"].episodes == 3


def test_jat_is_compared_on_shared_tasks_only():
    recorded = [
        *lines("a/One", "gato", [1.0]),
        *lines("a/Two", "gato", [2.0]),
        *lines("b/Raw", "gato", [2.0]),
    ]
    jat = {"a/One": 0.9, "b/Raw": 1.0}
    summary = summarise(recorded, {"a/One": UNIT, "a/Two": UNIT}, jat_score=jat.get)
    assert summary.jat == (0.5, 0.9, 1)
    assert [row.jat for row in summary.rows] == [0.9, None, None]


def test_an_agent_can_be_chosen_and_must_be_there():
    recorded = [*lines("a/One", "gato", [1.0]), *lines("a/One", "small", [2.0])]
    assert summarise(recorded, {"a/One": UNIT}).agent == "small"
    assert summarise([*recorded, *lines("a/Two", "gato", [1.0])], {}).agent == "gato", "it has more tasks"
    assert summarise(recorded, {"a/One": UNIT}, agent="gato").worst == (("a/One", 0.5),)
    with pytest.raises(UserError, match="'big', found those of gato, small"):
        summarise(recorded, {}, agent="big")
    with pytest.raises(UserError, match="found none"):
        summarise([], {})


def test_worst_ten_and_json():
    recorded = [line for i in range(14) for line in lines(f"a/{i:02}", "gato", [i / 7])]
    summary = summarise(recorded, {f"a/{i:02}": UNIT for i in range(14)})
    assert [task for task, _ in summary.worst] == [f"a/{i:02}" for i in range(10)]
    stored = json.loads(json.dumps(summary.to_json()))
    assert np.allclose(stored["aggregates"][0]["mean"], summary.aggregates[0].mean)
    assert stored["rows"][13]["scores"]["gato"]["normalised"] == pytest.approx(13 / 14)
