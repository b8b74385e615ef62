"""A file becomes a model that has learnt what it was shown; kills, wrong fields, other weights."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from factotum.cli import main as command
from factotum.core.checks import UserError
from factotum.core.files import read_json, read_json_lines
from factotum.gats.store import weights_hash
from factotum.recipes import compose, compose_data, report
from factotum.recipes.compose_file import read_composition
from factotum.recipes.compose_model import make_composition
from factotum.training.checkpoint import list_checkpoints
from factotum.worlds.suites import registry
from tests.recipes import compose_toys as toys

pytest.importorskip("transformers")

ROOT = Path(__file__).parents[2]
SHORT = ("training.steps=4", "training.checkpoint_every=2", "training.log_every=1", "evaluation.episodes=3")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the file; the toy suite is known here and to every process that is started."""
    folder = tmp_path_factory.mktemp("compose")
    info = folder / "site" / "look_suite-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: look-suite\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(toys.ENTRY_POINTS)
    patch = pytest.MonkeyPatch()
    patch.setenv("PYTHONPATH", f"{folder / 'site'}:{ROOT}")
    patch.setattr(sys, "path", [str(folder / "site"), *sys.path])
    registry._all_suites.cache_clear()
    toys.write_file(folder)
    yield folder
    patch.undo()
    registry._all_suites.cache_clear()


@pytest.fixture(scope="module")
def learnt(place):
    run = place / "learnt"
    return run, compose.main(compose.Args(place / "look.toml", run))


def test_what_was_shown_is_learnt(learnt):
    run, found = learnt
    arm = found["arms"]["plain"]
    assert arm["success"] > 0.8  # 1/216 by chance, 1/8 and 1/27 without one of both senses
    assert found["model"]["trained"] < found["model"]["parameters"]
    assert read_json(run / "evaluation.json")["arms"]["plain"]["success"] == arm["success"]
    page = (run / "report.html").read_text()
    assert "What it attends to" in page
    parts = re.compile("<h2>.*?</h2>|<svg|<img")
    assert parts.findall(report.main(report.Args(run)).read_text()) == parts.findall(page)
    assert page.count("<svg") >= 3


def test_nothing_is_trained_or_played_twice(place, learnt):
    run, found = learnt
    episodes = (run / "evaluation" / "look__Colours.jsonl").read_text()
    again = compose.main(compose.Args(place / "look.toml", run))
    assert again["arms"] == found["arms"]
    assert (run / "evaluation" / "look__Colours.jsonl").read_text() == episodes


def test_the_model_is_what_was_trained_and_the_frozen_ones_are_named(place, learnt):
    run, _ = learnt
    file = read_composition(place / "look.toml")
    material = compose_data.prepare(file, run)
    model = compose.load_composition(file, material, run / "model")
    stored = read_json(run / "model" / "config.json")["components"]
    assert stored["vision"]["hash"] == weights_hash(model.towers["vision"].module)
    assert stored["action"]["hash"] is None
    newest = list_checkpoints(run)[-1]
    assert (newest / "model.safetensors").read_bytes() == (run / "model" / "model.safetensors").read_bytes()
    other = read_composition(place / "look.toml", {"training.seed": 5})
    with pytest.raises(UserError, match="component 'vision': was trained with other weights"):
        compose.load_composition(other, material, run / "model")


def never_stopped(place, remember):
    """A run from beginning to end; made once."""
    run = place / f"whole{remember}"
    compose.main(
        compose.Args(place / "look.toml", run, (*SHORT, f"training.remember={remember}"), evaluate=False)
    )
    return run


@pytest.mark.parametrize("remember", [0.0, 0.1])
def test_resumed_is_bit_equal(place, remember):
    stopped, fields = place / f"stopped{remember}", (*SHORT, f"training.remember={remember}")
    whole = never_stopped(place, remember)
    assert compose.main(compose.Args(place / "look.toml", stopped, fields, time_limit_s=0.0)) is None
    assert len(list_checkpoints(stopped)) == 1
    compose.main(compose.Args(place / "look.toml", stopped, fields, evaluate=False))
    for name in ("model.safetensors", "config.json"):
        assert (whole / "model" / name).read_bytes() == (stopped / "model" / name).read_bytes()
    steps = ["step", "loss"]
    lines = [
        [[line[k] for k in steps] for line in read_json_lines(r / "metrics.jsonl")] for r in (whole, stopped)
    ]
    assert lines[0] == lines[1]
    with pytest.raises(
        UserError, match=r"cannot resume: settings\.composition\.join\.layers was 2 and is now 3"
    ):
        compose.main(compose.Args(place / "look.toml", whole, (*fields, "join.layers=3")))


def test_frozen_networks_can_be_steered_too(place):
    fields = (
        *SHORT,
        "components.vision.steered=true",
        "components.vision.every=2",
        "components.text.every=2",
    )
    found = compose.main(compose.Args(place / "look.toml", place / "steered", fields))
    assert found["arms"]["plain"]["episodes"] == 3


@pytest.mark.parametrize("mode", ["cross-attention", "late-fusion", "action-alone", "full-fine-tuning"])
def test_every_mode_runs(mode, place):
    run = place / mode
    found = compose.main(compose.Args(place / "look.toml", run, (*SHORT, f"join.mode={mode}")))
    assert found["mode"] == mode
    assert 0.0 <= found["arms"]["plain"]["success"] <= 1.0
    assert (run / "report.html").is_file()
    if mode == "full-fine-tuning":
        assert found["model"]["share"] == 1.0


def test_equal_parameters(place):
    def trained(**changes):
        file = read_composition(place / "look.toml", {k.replace("_", "."): v for k, v in changes.items()})
        material = compose_data.prepare(file, place)
        torch.manual_seed(0)
        model = make_composition(file, lambda name: compose_data.sizes_of(name, material))
        return sum(p.numel() for p in model.parameters() if p.requires_grad)

    wanted = trained(join_width=64)
    for mode in ("cross-attention", "late-fusion"):
        assert trained(join_mode=mode, join_parameters=wanted) == pytest.approx(wanted, rel=0.05)


def test_a_killed_run_goes_on(place):
    run, fields = place / "killed", (*SHORT, "training.checkpoint_every=1")
    words = ["compose", str(place / "look.toml"), "--out", str(run), "--no-evaluate", "--set", *fields]
    program = f"from factotum.cli import main; import sys; sys.exit(main({words!r}))"
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not list_checkpoints(run):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert list_checkpoints(run)
    compose.main(compose.Args(place / "look.toml", run, fields, evaluate=False))
    whole = never_stopped(place, 0.0)
    for name in ("model.safetensors", "config.json"):
        assert (run / "model" / name).read_bytes() == (whole / "model" / name).read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("join.layers=six", "join.layers: expected a whole number, got 'six'"),
        ("join.mode=fusion", "join.mode: expected one of gats, cross-attention, .*, got 'fusion'"),
        ("join.width=33", "join.width: expected a multiple of twice the 2 heads .*, got 33"),
        ("join.laers=3", "unknown field 'join.laers': did you mean join.layers"),
        ("components.text.window=-1", "components.text.window: expected 0 or more, got -1"),
        ("components.text.kind=ear", "components.text.kind: expected one of sentence-encoder, .*, got 'ear'"),
        ("components.text.reads=picture:image", "components.text.reads: expected instruction for a sentence"),
        (
            "components.text.source=nowhere",
            "components.text: expected a file nowhere/config.json, found none",
        ),
        ("components.text.source=package:bert", "components.text: unknown package with a model 'bert'"),
        (
            "components.vision.reads=picture:depth",
            "components.vision.reads: expected one of image, state of look",
        ),
        (
            "components.vision.patch=5",
            "components.vision: image: expected a multiple of the patch of 5, got 16",
        ),
        ("components.hands.kind=decoder", "components: expected exactly one that reads action"),
        ("data.tasks=[]", r"data.tasks: expected at least one task, got \(\)"),
        ('data.tasks=["look/Colors"]', "unknown task 'look/Colors': did you mean look/Colours"),
        ('data.tasks=["look/Colours", "gym/FrozenLake"]', "data.tasks: expected tasks of one action space"),
        ("data.name=mine", "data: expected 64 episodes in .*look/Colours/mine-v0, got 0"),
        ("training.steps=0", "training.steps: expected 1 or more, got 0"),
        ("training.hidden.ear=0.1", "unknown component in training.hidden 'ear'"),
        ("evaluation.splits=[]", r"evaluation.splits: expected at least one, got \(\)"),
        ("evaluation.guidance=[1.0]", None),
        ("seed", "--set: expected FIELD=VALUE, got 'seed'"),
    ],
)
def test_a_wrong_field_is_one_line(change, message, place, tmp_path, capsys):
    words = ["compose", str(place / "look.toml"), "--out", str(tmp_path / "run"), "--set", *SHORT, change]
    code = command([*words, "--no-evaluate"])
    said = capsys.readouterr().err.strip().splitlines()
    if message is None:
        assert code == 0
        return
    assert code == 1
    assert re.search(message, said[-1]), said[-1]
    assert len([line for line in said if "error" in line]) == 1


def test_files_that_are_no_toml(tmp_path):
    with pytest.raises(UserError, match=r"none\.toml: expected a composition file: No such"):
        read_composition(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("[components")
    with pytest.raises(UserError, match="expected TOML"):
        read_composition(tmp_path / "bad.toml")


EXAMPLES = [path for path in (ROOT / "examples" / "gats").glob("*.toml") if path.stem != "scenes"]


@pytest.mark.parametrize("path", sorted(EXAMPLES), ids=lambda p: p.name)
def test_examples_are_read(path):
    assert read_composition(path).components
