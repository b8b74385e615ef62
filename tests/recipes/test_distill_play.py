"""Hours of play: what is stored, who plays, minibatches that are functions of the step, a folder taken up again."""

from dataclasses import replace

import numpy as np
import pytest

from factotum.core.checks import UserError
from factotum.core.files import read_json, read_json_lines
from factotum.distill import load_policy
from factotum.distill.agent import PolicyAgent, TeacherAgent
from factotum.recipes.distill_play import Classroom, PlayConfig, hours_played
from factotum.recipes.distill_schedule import Schedule
from factotum.recipes.distill_tasks import find_lessons
from tests.recipes.distill_toys import CARTPOLE, teacher

SCHEDULE = Schedule(hours=9, steps_per_hour=200, updates_per_hour=5, replay_hours=1.5)


@pytest.fixture
def lessons(tmp_path):
    games = [teacher(tmp_path / name, f"minatar/{name}") for name in ("asterix", "breakout")]
    return find_lessons([str(game) for game in games], (), None)


def room(folder, lessons, schedule=SCHEDULE, seed=0, **play):
    return Classroom(folder, lessons, schedule, PlayConfig(environments=4, **play), seed)


def same(a, b):
    return (
        a.task == b.task and np.array_equal(a.observation, b.observation) and np.array_equal(a.label, b.label)
    )


def test_an_hour_fills_each_replay_up_to_its_window(lessons, tmp_path):
    one = room(tmp_path / "play", lessons)
    sizes = []
    for _ in range(3):
        one.play_hour()
        sizes.append([len(replay) for replay in one.replays])
    assert all(200 <= size <= 210 for size in sizes[0])
    assert sizes[1] == sizes[2] == [300, 300]
    assert [collector.steps for collector in one.collectors] == pytest.approx([600, 600], abs=3)
    notes = hours_played(tmp_path / "play")
    assert [(note["hour"], note["task"]) for note in notes][:2] == [(0, lesson.task) for lesson in lessons]
    assert all(note["acting"] == "teacher" for note in notes)
    one.close()


def test_minibatches_are_whole_of_one_game_and_functions_of_seed_and_step(lessons, tmp_path):
    one = room(tmp_path / "play", lessons)
    one.play_hour()
    drawn = [one.batch(step, 8) for step in range(40)]
    counts = {lesson.task: sum(batch.task == lesson.task for batch in drawn) for lesson in lessons}
    assert min(counts.values()) >= 10
    for batch in drawn[:10]:
        (lesson,) = [lesson for lesson in lessons if lesson.task == batch.task]
        assert np.allclose(batch.label, lesson.teacher.label(batch.observation.numpy()), atol=1e-5)
    assert same(one.batch(7, 8), drawn[7])
    assert not same(one.batch(7, 8, micro=1), drawn[7])
    one.close()
    other = room(tmp_path / "other", lessons, seed=1)
    other.play_hour()
    assert not same(other.batch(7, 8), drawn[7])
    other.close()


@pytest.mark.parametrize("acting", ["teacher", "student", "mixed"])
def test_a_folder_taken_up_goes_on_bit_equal(acting, lessons, tmp_path):
    student = load_policy(teacher(tmp_path / "student", "minatar/breakout", seed=5, outputs="logits"))
    whole = room(tmp_path / "whole", lessons[1:], acting=acting)
    for _ in range(3):
        whole.play_hour(student)
    for hour in range(3):
        part = room(tmp_path / "parts", lessons[1:], acting=acting)
        assert part.hours == hour
        part.play_hour(student)
        if hour == 2:
            assert all(same(part.batch(step, 8), whole.batch(step, 8)) for step in range(20))
        part.close()
    assert read_json(tmp_path / "parts" / "state.json") == read_json(tmp_path / "whole" / "state.json")
    whole.close()


def test_an_hour_that_was_cut_off_is_played_again_alike(lessons, tmp_path):
    cut, whole = room(tmp_path / "cut", lessons), room(tmp_path / "whole", lessons)
    for one in (cut, whole):
        one.play_hour()
    for collector in cut.collectors:  # a kill after some play that was not noted
        collector.play(150)
        collector.replay.flush()
    cut.close()
    cut = room(tmp_path / "cut", lessons)
    assert cut.hours == 1
    assert all(same(cut.batch(step, 8), whole.batch(step, 8)) for step in range(20))
    for one in (cut, whole):
        one.play_hour()
    assert all(same(cut.batch(step, 8), whole.batch(step, 8)) for step in range(20))
    cut.close()
    whole.close()


def test_a_first_hour_that_was_cut_off_leaves_nothing_behind(lessons, tmp_path):
    cut = room(tmp_path / "cut", lessons)
    cut.collectors[0].play(100)
    cut.collectors[0].replay.flush()
    cut.close()
    cut = room(tmp_path / "cut", lessons)
    assert cut.hours == 0
    assert len(cut.replays[0]) == 0
    cut.close()


def test_worlds_that_cannot_be_restored_lose_no_play(tmp_path):
    lessons = find_lessons(["tests.recipes.distill_toys:balance"], [CARTPOLE], "q")
    one = room(tmp_path / "play", lessons)
    one.play_hour()
    kept = [one.batch(step, 8) for step in range(5)]
    one.close()
    one = room(tmp_path / "play", lessons)
    assert all(same(one.batch(step, 8), batch) for step, batch in enumerate(kept))
    one.play_hour()
    assert one.collectors[0].resets == 2  # new episodes, from other starts
    one.close()


def test_who_acts(lessons, tmp_path):
    student = load_policy(teacher(tmp_path / "student", "minatar/breakout", seed=5, outputs="logits"))
    shares = {}
    for acting in ("teacher", "student", "mixed"):
        one = room(tmp_path / acting, lessons[1:], acting=acting, epsilon=0.0, teacher_share=0.5)
        one.play_hour(student)
        batch = one.replays[0].sample(200, np.random.default_rng(0))
        records = one.replays[0].sample_transitions(200, np.random.default_rng(0))
        shares[acting] = float(
            np.mean(lessons[1].teacher.label(records.observation.numpy()).argmax(1) == records.action.numpy())
        )
        assert np.allclose(batch.label, lessons[1].teacher.label(batch.observation.numpy()), atol=1e-5)
        assert isinstance(one.collectors[0].agent, TeacherAgent if acting == "teacher" else PolicyAgent)
        one.close()
    assert shares["teacher"] == 1.0 > shares["mixed"] > shares["student"]
    with pytest.raises(UserError, match="expected a student where student plays, got none"):
        room(tmp_path / "none", lessons[1:], acting="student").play_hour()


def test_other_settings_are_refused(lessons, tmp_path):
    room(tmp_path / "play", lessons).close()
    for options, message in (
        ({"schedule": replace(SCHEDULE, steps_per_hour=300)}, r"play\.replay was 300 and is now 450"),
        (
            {"schedule": replace(SCHEDULE, steps_per_hour=300, replay_hours=1.0)},
            r"play\.steps was 200 and is now 300",
        ),
        ({"seed": 3}, r"play\.seed was 0 and is now 3"),
    ):
        with pytest.raises(UserError, match=message):
            room(tmp_path / "play", lessons, **options)
    with pytest.raises(UserError, match=r"play\.tasks was"):
        room(tmp_path / "play", lessons[:1])
    assert read_json_lines(tmp_path / "play" / "hours.jsonl") == []


def test_the_schedule_scales_by_one_setting():
    whole, tenth = Schedule(), Schedule(scale=0.1)
    assert (whole.steps, whole.updates, whole.capacity) == (54_000, 10_000, 540_000)
    assert (tenth.steps, tenth.updates, tenth.capacity) == (5_400, 1_000, 54_000)
    assert Schedule(scale=1e-9).updates == Schedule(scale=1e-9).steps == 1
    with pytest.raises(UserError, match="hours: expected 1 or more, got 0"):
        Schedule(hours=0)
