"""Students of teachers that still learn: whom they follow when, and that a resumed hour has the same teacher."""

import shutil

import numpy as np
import pytest
import tyro

from factotum.core.checks import UserError
from factotum.core.files import append_json_line, read_json, read_json_lines
from factotum.distill import load_policy
from factotum.recipes.distill import Args, main
from factotum.recipes.distill_online import Learning, online_lessons
from factotum.recipes.distill_play import Classroom, PlayConfig
from factotum.recipes.distill_schedule import Schedule, best_by
from factotum.recipes.teacher_best import set_aside
from tests.recipes.distill_toys import small, teacher

GAME = "minatar/breakout"
EVALUATIONS = {100: 1.0, 200: 5.0, 300: 3.0, 400: 9.0}


@pytest.fixture
def learning(tmp_path):
    """A teacher's run that was best at 100, 200 and 400 of its 400 steps."""
    run = tmp_path / "teacher"
    for step, score in EVALUATIONS.items():
        best = score >= max(value for at, value in EVALUATIONS.items() if at <= step)
        if best:
            set_aside(
                teacher(tmp_path / f"at-{step}", GAME, seed=step), run, {"step": step, "evaluation": score}
            )
        append_json_line(run / "metrics.jsonl", {"step": step, "evaluation": score, "best": best})
    return run


def same(folder, other):
    return (folder / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


@pytest.mark.parametrize(("share", "step"), [(0.1, 100), (0.25, 100), (0.5, 200), (0.75, 200), (1.0, 400)])
def test_a_run_that_is_over_is_followed_as_it_went(learning, share, step):
    folder, known = Learning(learning, "replayed").best(share)
    assert folder == learning / "bests" / f"step-{step:08d}"
    assert known == {"step": step, "evaluation": EVALUATIONS[step]}


def test_the_best_is_chosen_among_what_there_was():
    assert best_by(1.0, []) is None
    assert best_by(0.1, [(10, 1.0), (100, 2.0)]) == 10
    assert best_by(1.0, [(10, float("nan")), (100, -2.0)]) == 100
    assert best_by(1.0, [(100, 2.0), (10, 2.0)]) == 10


def test_a_live_teacher_is_kept_for_the_hour_that_it_taught(learning, tmp_path):
    kept = tmp_path / "student" / "teachers"
    once = online_lessons([learning], "live", kept, "cpu", 0.5)
    shutil.rmtree(learning / "best")
    set_aside(teacher(tmp_path / "new", GAME, seed=9), learning, {"step": 500, "evaluation": 10.0})
    again = online_lessons([learning], "live", kept, "cpu", 0.5)
    later = online_lessons([learning], "live", kept, "cpu", 1.0)
    assert once[0].version == again[0].version != later[0].version
    assert [path.name for path in kept.iterdir()] == ["0-1.000000"]
    assert read_json(kept / "0-1.000000" / "taken.json")["step"] == 500
    assert once[0].task == GAME


@pytest.mark.parametrize("pace", ["live", "replayed"])
def test_a_student_follows_from_hour_to_hour(learning, pace, tmp_path):
    options = [*map(str, small(tmp_path / "run", hours=4, steps=160, updates=20))]
    options = options[1:]  # without --teachers
    args = tyro.cli(Args, args=["--online", str(learning), "--online-pace", pace, *options])
    measured = main(args)
    assert measured["of"]["teachers"][0][0] == GAME
    assert same(tmp_path / "run" / "teachers" / "0-1.000000", learning / "best")
    assert len(read_json_lines(tmp_path / "run" / "play" / "hours.jsonl")) == 4
    assert load_policy(tmp_path / "run" / "policy").tasks == (GAME,)
    assert main(args) == measured


def test_labels_of_earlier_teachers_are_asked_anew(learning, tmp_path):
    lessons = [
        online_lessons([learning], "replayed", tmp_path / "kept", "cpu", share)[0] for share in (0.25, 1.0)
    ]
    schedule = Schedule(hours=2, steps_per_hour=100, updates_per_hour=5)
    room = Classroom(tmp_path / "play", lessons[:1], schedule, PlayConfig(environments=4), seed=0)
    room.play_hour()
    stored = room.batch(3, 8)
    room.replace_teacher(0, lessons[1].teacher)
    asked = room.batch(3, 8, relabel=True)
    assert np.array_equal(stored.observation, asked.observation)
    assert np.allclose(stored.label, lessons[0].teacher.label(stored.observation.numpy()), atol=1e-5)
    assert np.allclose(asked.label, lessons[1].teacher.label(stored.observation.numpy()), atol=1e-5)
    assert not np.allclose(stored.label, asked.label, atol=1e-2)
    room.play_hour()
    assert room.collectors[0].agent.teacher is lessons[1].teacher
    room.close()


def test_runs_that_cannot_be_followed_are_refused(learning, tmp_path):
    with pytest.raises(UserError, match="found none at"):
        Learning(tmp_path / "nowhere").best(1.0)
    with pytest.raises(UserError, match="a teacher's run with evaluations, found none"):
        Learning(tmp_path, "replayed").best(1.0)
    (tmp_path / "begun").mkdir()
    with pytest.raises(UserError, match=r"expected a policy in .*begun/best within 0 s, found none"):
        Learning(tmp_path / "begun", patience_s=0.0).best(1.0)
    shutil.rmtree(learning / "bests")
    with pytest.raises(UserError, match="expected the best policy of step 400"):
        Learning(learning, "replayed").best(1.0)
