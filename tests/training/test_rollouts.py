from __future__ import annotations

import numpy as np
import pytest

from factotum.training import rollouts
from factotum.training.evaluate import EpisodeResult, evaluate, evaluation_seeds
from factotum.training.rollouts import Recorder, picture_of, read_rollout, read_rollouts
from tests.training.toys import Countdown, Parity

SEED = next(seed for seed in evaluation_seeds(9) if seed % 7 == 6)  # seven steps


def record(every=1, limit=64, make=Countdown):
    recorder = Recorder(SEED, every, limit)
    results = evaluate(make, Parity(), seeds=evaluation_seeds(9), max_steps=99, batch_size=4, watch=recorder)
    return recorder, next(result for result in results if result.seed == SEED)


def test_keeps_the_frames_of_its_episode_only():
    recorder, result = record()
    assert [int(frame[0, 0, 0]) // 30 for frame in recorder.frames] == [7, 6, 5, 4, 3, 2, 1, 0]
    assert len(recorder.actions) == result.length == 7
    assert recorder.instruction == "Count."


@pytest.mark.parametrize(("every", "kept"), [(3, [7, 4, 1, 0]), (50, [7, 0])])
def test_first_and_last_frame_are_always_there(every, kept):
    assert [int(frame[0, 0, 0]) // 30 for frame in record(every)[0].frames] == kept


def test_memory_is_bounded():
    recorder, _ = record(limit=4)
    assert len(recorder.frames) <= 4
    assert int(recorder.frames[0][0, 0, 0]) == 210


def test_save_and_read(tmp_path):
    recorder, result = record()
    saved = recorder.save(tmp_path, "toy/Count", "gato", result)
    assert read_rollouts(tmp_path) == [saved]
    assert read_rollout(tmp_path, "toy/Count") == saved
    assert read_rollout(tmp_path, "toy/Other") is None
    assert (saved.instruction, saved.score, saved.length, saved.seed) == ("Count.", result.score, 7, SEED)
    assert saved.strip is not None
    assert (tmp_path / saved.strip).read_bytes()[1:4] == b"PNG"


def test_without_imageio_there_is_a_strip_and_no_film(tmp_path, monkeypatch):
    monkeypatch.setattr(rollouts, "can_film", lambda: False)
    recorder, result = record()
    saved = recorder.save(tmp_path, "toy/Count", "gato", result)
    assert saved.film is None
    assert sorted(file.name for file in tmp_path.iterdir()) == ["toy__Count.json", "toy__Count.png"]


def test_a_machine_that_cannot_draw_still_gets_scores(tmp_path):
    class Blind(Countdown):
        def render(self):
            raise RuntimeError("no display\nreally")

    recorder, result = record(make=Blind)
    saved = recorder.save(tmp_path, "toy/Count", "gato", result)
    assert saved.problem == "no pictures: RuntimeError: no display"
    assert saved.strip is None


def test_a_text_answer_is_kept_with_one_picture(tmp_path):
    recorder = Recorder(1)
    observation = {"instruction": "What colour?", "image": np.zeros((8, 8, 3), np.uint8)}
    recorder(1, None, observation, None, 0.0, False)
    recorder(1, None, observation, "black", 1.0, True)
    saved = recorder.save(tmp_path, "toy/Ask", "gato", EpisodeResult(1, 1.0, 1.0, 1, False))
    assert saved.answer == "black"
    assert len(recorder.frames) == 1


def test_the_observed_image_is_shown_unless_it_is_a_stack():
    env = Countdown()
    env.reset(seed=0)
    assert picture_of(env, {"image": np.zeros((9, 9, 1), np.uint8)}).shape == (9, 9, 3)
    assert picture_of(env, {"image": np.zeros((9, 9, 4), np.uint8)}).shape == (20, 30, 3)
    assert picture_of(env, {}).shape == (20, 30, 3)
