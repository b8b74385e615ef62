"""Student and teacher on the same starts: agreement counted by hand, ratios, what is kept for others, pictures."""

import numpy as np
import pytest

from factotum.core.files import read_json, write_json_atomic
from factotum.distill import PolicyAgent, PolicyNetwork, load_policy
from factotum.distill.config import preset
from factotum.distill.teacher import as_teacher
from factotum.recipes.distill_evaluate import Agreeing, Evaluation, evaluate_lesson
from factotum.recipes.distill_measure import evaluate_student, human_normalised, latency, summarise
from factotum.recipes.distill_rollouts import Film, picture_of, save_side_by_side
from factotum.recipes.distill_tasks import find_lessons
from factotum.training.rollouts import read_rollouts
from tests.recipes.distill_toys import CARTPOLE, teacher

GAME = "minatar/breakout"
HOW = Evaluation(episodes=5, environments=3)


@pytest.fixture
def lesson(tmp_path):
    return find_lessons([str(teacher(tmp_path / "teacher", GAME))], (), None)[0]


def test_a_student_that_is_its_teacher_scores_and_agrees_alike(lesson, tmp_path):
    twin = load_policy(tmp_path / "teacher")
    found = evaluate_lesson(lesson, twin, Evaluation(5, environments=3, epsilon=0.0), tmp_path / "videos")
    assert found["student_scores"] == found["teacher_scores"]
    assert len(found["random_scores"]) == 5
    assert found["agreement_on_teacher_states"] == found["agreement_on_student_states"] == 1.0
    assert found["teacher_parameters"] == twin.parameter_count
    assert {path.suffix for path in (tmp_path / "videos").iterdir()} >= {".png", ".json"}


def test_agreement_is_counted_over_rows_that_play():
    outputs = {0: [0.0, 1.0], 1: [1.0, 0.0]}
    student = type(
        "S", (), {"outputs": lambda self, seen: np.array([outputs[int(x)] for x in seen[:, 0]], np.float32)}
    )()
    always_first = as_teacher(lambda seen: np.tile([1.0, 0.0], (len(seen), 1)), kind="q", actions=2)
    asked = Agreeing(student, always_first, continuous=False, every=2)
    seen, playing = np.array([[0], [1], [1]]), np.array([True, True, False])
    for _ in range(3):  # the second call is not asked about
        asked(seen, None, None, playing)
    assert (asked.count, asked.mean) == (4, 0.5)


def test_scores_of_random_play_are_kept_for_others(lesson, tmp_path):
    twin = load_policy(tmp_path / "teacher")
    how = Evaluation(5, environments=3, shared=tmp_path / "shared")
    first, second = (evaluate_lesson(lesson, twin, how) for _ in range(2))
    assert (first["random_episodes_shared"], second["random_episodes_shared"]) == (False, True)
    assert first["random_scores"] == second["random_scores"]
    assert len(list((tmp_path / "shared").iterdir())) == 1


def result(student, teacher, random, task="minatar/a"):
    return {"task": task, "student_scores": student, "teacher_scores": teacher, "random_scores": random}


def test_ratios_by_hand():
    found = summarise(
        [result([4.0, 6.0], [10.0, 10.0], [0.0, 2.0]), result([8.0], [4.0], [0.0], "minatar/b")]
    )
    assert found["tasks"]["minatar/a"]["ratio"][0] == 0.5
    assert found["tasks"]["minatar/a"]["random_normalised_ratio"][0] == pytest.approx(4 / 9)
    assert found["tasks"]["minatar/a"]["ratio"][1:] == [0.4, 0.6]
    assert found["geometric_mean_ratio"][0] == pytest.approx(1.0)
    assert found["geometric_mean_normalised"][0] == pytest.approx((4 / 9 * 2) ** 0.5)
    undefined = summarise([result([4.0], [-10.0], [-20.0])])
    assert undefined["geometric_mean_ratio"] == [None, None, None]
    assert undefined["geometric_mean_normalised"][0] == pytest.approx(2.4)


def test_human_scores_come_from_the_table_of_57_games():
    student, teacher = human_normalised(result([14.6], [-20.7], [0.0], "atari/Pong"))
    assert (student, teacher) == pytest.approx((1.0, 0.0))
    assert human_normalised(result([1.0], [1.0], [0.0], GAME)) is None


def test_an_evaluation_is_whole_and_kept(lesson, tmp_path):
    twin = load_policy(tmp_path / "teacher")
    found = evaluate_student(tmp_path / "run", [lesson], twin, HOW, "v1")
    assert read_json(tmp_path / "run" / "evaluation.json") == found
    assert found["student"]["parameters"] == twin.parameter_count
    assert found["student"]["bytes"] == 4 * twin.parameter_count
    assert found["student"]["latency_ms"] > 0 < found["games"][0]["teacher_latency_ms"]
    marked = {**found, "protocol": "kept"}
    write_json_atomic(tmp_path / "run" / "evaluation.json", marked)
    assert evaluate_student(tmp_path / "run", [lesson], twin, HOW, "v1")["protocol"] == "kept"
    assert evaluate_student(tmp_path / "run", [lesson], twin, HOW, "v2")["protocol"] != "kept"


def test_continuous_students_are_compared_by_distance(tmp_path):
    (lesson,) = find_lessons(["tests.recipes.distill_toys:push"], ["gym/Pendulum-v1"], "continuous")
    network = PolicyNetwork(preset("mlp-8", (3,), {"gym/Pendulum-v1": 1}, "continuous"))
    found = evaluate_lesson(lesson, network, Evaluation(2, environments=2))
    assert found["distance_on_teacher_states"] > 0
    assert "agreement_on_teacher_states" not in found


def test_latency_is_measured_by_turns():
    order = []
    taken = latency({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=20)
    assert order[:4] == ["a", "b", "a", "b"]
    assert len(order) == 44
    assert all(0 <= value < 10 for value in taken.values())


def film(length, restart_at=None):
    one = Film(limit=8)
    for step in range(length):
        first = np.array([step == 0 or step == restart_at])
        one(np.full((1, 4, 10, 10), step % 2 == 0), first, np.zeros(1, int), np.array([True]))
    return one


def test_a_film_is_of_the_first_game_alone_and_bounded():
    assert film(20, restart_at=5).steps == 5
    long = film(100)
    assert long.steps == 100
    assert len(long.kept) < 8
    stopped = Film()
    stopped(np.zeros((1, 4, 10, 10)), np.array([True]), None, np.array([True]))
    stopped(np.zeros((1, 4, 10, 10)), np.array([False]), None, np.array([False]))
    assert stopped.steps == 1


def test_pictures_show_planes_in_colours():
    planes = np.zeros((2, 10, 10), bool)
    planes[0, 1, 1] = planes[1, 1, 1] = planes[1, 2, 2] = True
    picture = picture_of(planes)
    assert len({tuple(colour) for colour in picture.reshape(-1, 3)}) == 3
    assert tuple(picture[1, 1]) != tuple(picture[2, 2])  # the first plane is on top
    grey = picture_of(np.stack([np.zeros((84, 84)), np.full((84, 84), 7)]).astype(np.uint8))
    assert (grey == 7).all()


def test_rollouts_stand_side_by_side(tmp_path):
    films = {"teacher": film(6), "student": film(30)}
    rollout = save_side_by_side(tmp_path, GAME, films, {"teacher": 3.0, "student": 2.0})
    assert read_rollouts(tmp_path) == [rollout]
    assert rollout.score == 2.0
    assert "score 3" in rollout.agent
    nothing = Film()
    nothing(np.zeros((1, 4), np.float32), np.array([True]), None, np.array([True]))
    pair = {"teacher": nothing, "student": nothing}
    assert save_side_by_side(tmp_path / "none", CARTPOLE, pair, {"teacher": 1.0, "student": 1.0}) is None


def test_agents_of_the_evaluation_draw_actions(lesson, tmp_path):
    twin = load_policy(tmp_path / "teacher")
    assert PolicyAgent(twin, GAME, epsilon=1.0).act(np.zeros((50, 4, 10, 10), bool)).std() > 0
