"""Tasks from folders of a user's: captions and texts, and one clear line for what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from factotum.core.checks import UserError
from factotum.worlds.suites import common, folders, registry
from factotum.worlds.suites.one_step import FIRST_EVALUATION_SEED

Image = pytest.importorskip("PIL.Image")

COLORS = {
    "red.png": (255, 0, 0),
    "green.jpg": (0, 255, 0),
    "sub/blue.png": (0, 0, 255),
    "grey.png": (90, 90, 90),
}


def _write_images(folder: Path, lines: list[object] | None = None) -> Path:
    for name, color in COLORS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 20), color).save(folder / name)
    if lines is None:
        lines = [{"file_name": name, "text": f"all {Path(name).stem}"} for name in COLORS]
        lines.append({"file_name": "red.png", "text": "crimson field"})
    (folder / "metadata.jsonl").write_text(
        "\n".join(json.dumps(line) for line in lines) + "\n", encoding="utf-8"
    )
    return folder


def test_captions_from_a_folder(tmp_path: Path) -> None:
    task = registry.task(f"captions:{_write_images(tmp_path)}")
    env = task.make()
    assert env.observation_space == task.observation_space
    assert env.action_space == task.action_space
    for seed in (0, 1, 2, FIRST_EVALUATION_SEED):
        observation, info = env.reset(seed=seed)
        assert observation in task.observation_space
        assert info["answer"] in task.action_space
        assert env.step(task.make_expert(env)(observation, None))[1] == 1.0
        env.reset(seed=seed)
        assert env.step("nothing of the kind")[1] == 0.0


def test_image_belongs_to_its_caption_and_keeps_its_aspect(tmp_path: Path) -> None:
    env = folders.captions_task(_write_images(tmp_path)).make()
    for seed in range(12):
        observation, info = env.reset(seed=seed)
        middle = observation["image"][48, 48].astype(int)
        stem = {"crimson field": "red"}.get(info["answer"], info["answer"].split()[-1])
        color = next(color for name, color in COLORS.items() if Path(name).stem == stem)
        assert abs(middle - color).max() < 8  # jpg is not exact
        assert observation["image"][10].max() == 0  # 40 x 20 leaves margins above and below


def test_every_caption_of_an_image_is_true(tmp_path: Path) -> None:
    lines = [
        {"file_name": "red.png", "text": ["one thing", "other matter"]},
        {"file_name": "grey.png", "text": "dull"},
    ]
    env = folders.captions_task(_write_images(tmp_path, lines)).make()
    answers = set()
    for seed in range(FIRST_EVALUATION_SEED, FIRST_EVALUATION_SEED + 20):
        answers.add(env.reset(seed=seed)[1]["answer"])
    for seed in range(20):
        answers.add(env.reset(seed=seed)[1]["answer"])
        if "dull" not in env.answer:
            for caption in ("one thing", "other matter"):
                env.reset(seed=seed)
                assert env.step(caption)[1] == 1.0
    assert answers == {"one thing", "other matter", "dull"}


def test_held_out_images_are_not_shown_in_training(tmp_path: Path) -> None:
    env = folders.captions_task(_write_images(tmp_path)).make()
    start = FIRST_EVALUATION_SEED
    training = {env.reset(seed=seed)[0]["image"].tobytes() for seed in range(30)}
    tested = {env.reset(seed=seed)[0]["image"].tobytes() for seed in range(start, start + 30)}
    assert len(training) == 3
    assert len(tested) == 1
    assert not training & tested


def test_captions_in_any_language(tmp_path: Path) -> None:
    lines = [
        {"file_name": "red.png", "text": "tout est déjà rouge"},
        {"file_name": "grey.png", "text": "灰色"},
    ]
    task = folders.captions_task(_write_images(tmp_path, lines))
    assert "déjà 灰" in task.action_space
    assert "ß" not in task.action_space


def test_random_reference_is_the_score_of_other_captions(tmp_path: Path) -> None:
    task = folders.captions_task(_write_images(tmp_path))
    assert task.random.score == pytest.approx(0.5)  # "all red" beside "all green": one word of two
    assert "4 examples" in task.random.source


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "at least 2 items.* got 0"),
        ([{"file_name": "red.png", "text": "a"}], "at least 2 items.* got 1"),
        (
            [{"file_name": "red.png", "text": "a"}, {"file_name": "no.png", "text": "b"}],
            "line 2: there is no image .*no.png",
        ),
        ([{"file_name": "red.png"}], "line 1: expected an object with 'file_name' and 'text'"),
        ([{"text": "a"}], "line 1: expected an object with 'file_name' and 'text'"),
        ([["red.png", "a"]], "line 1: expected an object"),
        ([{"file_name": "red.png", "text": " "}], "line 1: expected 'text' to be a caption"),
        ([{"file_name": "red.png", "text": ["a", 3]}], "line 1: expected 'text' to be a caption"),
    ],
)
def test_bad_metadata(tmp_path: Path, lines: list[object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        folders.captions_task(_write_images(tmp_path, lines))


def test_line_that_is_not_json_is_named_by_number(tmp_path: Path) -> None:
    _write_images(tmp_path)
    with open(tmp_path / "metadata.jsonl", "a", encoding="utf-8") as file:
        file.write('\n{"file_name": "red.png", "te\n')
    with pytest.raises(UserError, match=r"metadata.jsonl, line 7: expected JSON"):
        folders.captions_task(tmp_path)


def test_missing_folder_and_metadata(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected a folder .*nowhere, found none"):
        folders.captions_task(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"expected .*metadata.jsonl, a line"):
        folders.captions_task(tmp_path)
    with pytest.raises(UserError, match=r"expected a folder .*nowhere, found none"):
        folders.text_task(tmp_path / "nowhere")


@pytest.mark.parametrize("damage", ["text", "truncated"])
def test_image_that_does_not_decode(tmp_path: Path, damage: str) -> None:
    env = folders.captions_task(_write_images(tmp_path)).make()
    for name in COLORS:
        noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / name)
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(b"not an image" if damage == "text" else data[: len(data) // 2])
    with pytest.raises(UserError, match="expected an image, got something that does not decode"):
        env.reset(seed=0)


WORDS = " ".join(f"word{number}" for number in range(400))


def test_texts_from_a_folder(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.txt").write_text(WORDS)
    (tmp_path / "sub" / "b.md").write_text("# Title\n\n" + WORDS.upper() + " naïve")
    (tmp_path / "c.pdf").write_bytes(b"\xff\xfe ignored")
    task = registry.task(f"text:{tmp_path}")
    env = task.make()
    assert env.observation_space == task.observation_space
    assert env.action_space == task.action_space
    for seed in (0, 1, 20, FIRST_EVALUATION_SEED):
        observation, info = env.reset(seed=seed)
        assert observation in task.observation_space
        assert info["answer"] in task.action_space
        assert env.step(task.make_expert(env)(observation, None))[1] == 1.0
        env.reset(seed=seed)
        assert env.step("zebra")[1] == 0.0
    assert "naïve" in task.action_space


def test_the_answer_is_what_follows_the_instruction(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(WORDS)
    env = folders.text_task(tmp_path).make()
    for seed in range(10):
        observation, info = env.reset(seed=seed)
        assert observation["instruction"] + info["answer"] in WORDS
        assert len(info["answer"]) <= folders.CHUNK
        assert len(observation["instruction"]) <= folders.CONTEXT
        assert info["answer"].endswith(" ") or WORDS.endswith(info["answer"])


def test_training_never_shows_held_out_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(WORDS)
    env = folders.text_task(tmp_path).make()
    held_out = {
        env.reset(seed=seed)[1]["answer"] for seed in range(FIRST_EVALUATION_SEED, FIRST_EVALUATION_SEED + 30)
    }
    assert len(held_out) > 2
    for seed in range(60):
        observation, info = env.reset(seed=seed)
        shown = observation["instruction"] + info["answer"]
        assert not any(text.strip() in shown for text in held_out)


def test_chunks_put_together_are_the_text() -> None:
    text = "a" * 300 + " b c\n" + WORDS
    spans = folders.chunk_spans(text)
    assert "".join(text[start:end] for start, end in spans) == text
    assert all(0 < end - start <= folders.CHUNK for start, end in spans)
    assert folders.chunk_spans(" \n ") == []


def test_bad_texts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected .txt or .md files, found none"):
        folders.text_task(tmp_path)
    (tmp_path / "a.txt").write_text("short")
    with pytest.raises(UserError, match="expected more than 128 characters of text"):
        folders.text_task(tmp_path)
    (tmp_path / "b.txt").write_bytes(b"ok " * 100 + b"\xff")
    with pytest.raises(UserError, match=r"b.txt: expected UTF-8 text, got byte 0xff at 300"):
        folders.text_task(tmp_path)


def test_missing_package_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "find_spec", lambda module: None)
    with pytest.raises(UserError, match=r"PIL is not installed: run  pip install 'factotum\[captions\]'"):
        folders.captions_task(_write_images(tmp_path)).make()
