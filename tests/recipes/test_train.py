"""From demonstrations to an agent in seconds, on worlds with a known answer; kills and wrong use."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from gymnasium import spaces

from factotum.core.checks import UserError
from factotum.core.files import read_json_lines
from factotum.data.episode import Episode
from factotum.data.store import write_dataset
from factotum.gato import Gato, GatoAgent
from factotum.recipes.train import Args, Size, main, newest_checkpoint
from factotum.training.config import TrainConfig

WORDS = ["left", "right", "stay"]
TEXT = spaces.Text(16, min_length=0, charset="abcdefghijklmnopqrstuvwxyz ")
SPACES = {
    "echo": (spaces.Dict(instruction=TEXT, cue=spaces.Discrete(4)), spaces.Discrete(4)),
    "copy": (
        spaces.Dict(instruction=TEXT, state=spaces.Box(-1, 1, (3,), np.float32)),
        spaces.Box(-1, 1, (2,), np.float32),
    ),
    "read": (spaces.Dict(instruction=TEXT, image=spaces.Box(0, 255, (16, 16, 1), np.uint8)), TEXT),
}
SIZE = Size(
    context=32,
    layers=2,
    width=48,
    heads=2,
    head_size=24,
    feed_forward=96,
    text_size=300,
    bins=64,
    patch_channels=8,
)


def episode(kind, generator, steps):
    """The answer is in the observation: the cue, the first two numbers, the brightness in words."""
    cue = generator.integers(4, size=steps + 1)
    state = generator.uniform(-1, 1, (steps + 1, 3)).astype(np.float32)
    level = generator.integers(3, size=steps + 1)
    image = np.broadcast_to((level * 120)[:, None, None, None], (steps + 1, 16, 16, 1)).astype(np.uint8)
    entries = {"echo": {"cue": cue}, "copy": {"state": state}, "read": {"image": image}}[kind]
    actions = {"echo": cue[:-1], "copy": state[:-1, :2], "read": [WORDS[k] for k in level[:-1]]}[kind]
    zeros = np.zeros(steps, bool)
    observations = {"instruction": [kind] * (steps + 1), **entries}
    return Episode(observations, actions, zeros * 1.0, zeros, zeros, seed=0, score=1.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for kind, (observation_space, action_space) in SPACES.items():
        generator = np.random.default_rng(0)
        steps = 1 if kind == "read" else 8
        episodes = [episode(kind, generator, steps) for _ in range(60)]
        metadata = {
            "task": f"toy/{kind}",
            "body": kind,
            "instruction": kind,
            "measure": "return",
            "random": None,
        }
        write_dataset(
            root,
            f"toy/{kind}/expert-v0",
            episodes,
            observation_space,
            action_space,
            {**metadata, "expert": None},
        )
    return root


def arguments(data, run, steps=20, **changes):
    training = {
        "steps": steps,
        "warmup_steps": 5,
        "learning_rate": 3e-3,
        "checkpoint_every": 10,
        "log_every": 5,
    }
    training |= {"tensorboard": False, "device": "cpu", "threads": 1, "weight_decay": 0.0}
    return Args(
        run=run, data=data, rows=6, target_spread=3.0, size=SIZE, training=TrainConfig(**training), **changes
    )


def test_three_worlds_are_learnt_by_one_model(data, tmp_path):
    result = main(arguments(data, tmp_path / "run", steps=400))
    assert result.finished
    model = Gato.from_pretrained(newest_checkpoint(tmp_path / "run"))
    generator = np.random.default_rng(9)
    right = {}
    for kind, (observation_space, action_space) in SPACES.items():
        agent = GatoAgent(model, f"toy/{kind}", observation_space, action_space)
        fresh = episode(kind, generator, 30)
        state, hits = agent.initial_state(1), []
        for t in range(30):
            observation = {key: values[t] for key, values in fresh.observations.items()}
            (action,), state = agent.step(([observation], [t % 8 == 0 or kind == "read"]), state)
            wanted = fresh.actions[t]
            hits.append(np.abs(action - wanted).max() < 0.5 if kind == "copy" else action == wanted)
        right[kind] = np.mean(hits)
    assert min(right.values()) > 0.9, right


def run_command(data, run, steps, *options):
    size = [
        f"--size.{name.replace('_', '-')}={value}" for name, value in vars(SIZE).items() if value is not None
    ]
    training = ["--training.warmup-steps=2", "--training.checkpoint-every=4", "--training.log-every=1"]
    training += [
        "--training.no-tensorboard",
        "--training.device=cpu",
        "--training.threads=1",
        f"--training.steps={steps}",
    ]
    command = [
        sys.executable,
        "-m",
        "factotum.cli",
        "train",
        run,
        "--data",
        data,
        "--rows",
        "4",
        *size,
        *training,
    ]
    return subprocess.Popen(
        [str(part) for part in (*command, *options)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_resume_after_kill_is_bit_equal(data, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run_command(data, whole, 30).wait() == 0
    process = run_command(data, killed, 30)
    while len(read_json_lines(killed / "metrics.jsonl")) < 9 and process.poll() is None:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert run_command(data, killed, 30).wait() == 0
    for name in ("model.safetensors", "training_state.safetensors", "tokenizer.json", "statistics.json"):
        assert (newest_checkpoint(killed) / name).read_bytes() == (
            newest_checkpoint(whole) / name
        ).read_bytes()
    strip = lambda line: {key: value for key, value in line.items() if key != "timing"}  # noqa: E731
    lines = [[strip(line) for line in read_json_lines(run / "metrics.jsonl")] for run in (whole, killed)]
    assert lines[0] == lines[1]
    assert len(lines[0]) == 30


def test_finished_run_is_not_trained_again(data, tmp_path):
    main(arguments(data, tmp_path))
    before = newest_checkpoint(tmp_path).stat().st_mtime_ns
    assert main(arguments(data, tmp_path)).step == 20
    assert newest_checkpoint(tmp_path).stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--datasets", "toy/ecko/*"], "unknown dataset in .*toy/ecko/.*did you mean toy/echo/expert-v0"),
        (["--weights", "toy/nothing", "2"], "unknown task in weights 'toy/nothing'"),
        (["--data", "/nowhere"], "expected datasets in /nowhere, found none; `factotum collect` makes them"),
        (["--size.context", "2"], "expected a context that holds a timestep"),
        (["--size.text-size", "10"], "text_size: expected at least bins"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_1(options, message, data, tmp_path):
    import re

    process = run_command(data, tmp_path / "run", 5, *options)
    _, errors = process.communicate()
    assert process.returncode == 1
    said = [line for line in errors.splitlines() if line.startswith("factotum train: error:")]
    assert len(said) == 1
    assert re.search(message, said[0]), said
    assert "Traceback" not in errors


def test_impossible_option_values_name_the_option(data, tmp_path):
    process = run_command(data, tmp_path / "run", 5, "--training.learning-rate", "-1")
    _, errors = process.communicate()
    assert process.returncode == 2
    assert "learning_rate: expected 0 or more, got -1.0" in " ".join(errors.replace("│", " ").split())


def test_run_with_another_model_is_refused(data, tmp_path):
    main(arguments(data, tmp_path))
    with pytest.raises(UserError, match=r"prompt_share was 0\.25 and is now 0\.5"):
        main(arguments(data, tmp_path, prompt_share=0.5))


def test_datasets_of_one_task_with_other_spaces_are_refused(data, tmp_path):
    import shutil

    shutil.copytree(data / "toy" / "echo", tmp_path / "toy" / "echo")
    observation_space, action_space = SPACES["copy"]
    metadata = {
        "task": "toy/echo",
        "body": "echo",
        "instruction": "",
        "measure": "return",
        "random": None,
        "expert": None,
    }
    episodes = [episode("copy", np.random.default_rng(0), 4)]
    write_dataset(tmp_path, "toy/echo/other-v0", episodes, observation_space, action_space, metadata)
    with pytest.raises(UserError, match="expected the spaces of toy/echo/expert-v0"):
        main(arguments(tmp_path, tmp_path / "run"))


def test_columns_are_written_again_when_a_dataset_grows(data, tmp_path):
    import shutil

    from factotum.recipes.train import prepare

    shutil.copytree(data, tmp_path / "data")
    args = arguments(tmp_path / "data", tmp_path / "run", datasets=("toy/echo/*",))
    assert prepare(args)[0][0].episodes == 60
    generator = np.random.default_rng(1)
    metadata = {
        "task": "toy/echo",
        "body": "echo",
        "instruction": "",
        "measure": "return",
        "random": None,
        "expert": None,
    }
    episodes = [episode("echo", generator, 8) for _ in range(70)]
    write_dataset(tmp_path / "data", "toy/echo/expert-v0", episodes, *SPACES["echo"], metadata)
    assert prepare(args)[0][0].episodes == 70
