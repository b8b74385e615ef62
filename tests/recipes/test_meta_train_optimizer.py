"""Meta-training of the optimizer: gradients of unrolls, groups, held-out measures, kills, what is written."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from factotum.cli import main as command_line
from factotum.core.checks import UserError
from factotum.core.files import read_json, read_json_lines
from factotum.optim import load_core, shipped_config
from factotum.recipes.meta_objective import UnrollObjective
from factotum.recipes.meta_problems import Dealing
from factotum.recipes.meta_tasks import chosen_problems, load_tasks
from factotum.recipes.meta_train_optimizer import Args, main
from factotum.training.checkpoint import list_checkpoints
from factotum.training.meta_config import MetaConfig, Unrolls
from factotum.worlds.problems import corpus

ROOT = Path(__file__).parents[2]
NAMES = ("quadratic-20", "bowl-5", "booth", "mlp-9-8")


def arguments(run, steps=4, training=None, **changes):
    given = {"warmup_steps": 1, "checkpoint_every": 2, "log_every": 1, "device": "cpu", "threads": 1}
    given |= {
        "learning_rate": 3e-3,
        "unrolls": Unrolls(shortest=3, mean=2.0, longest=8, run=2.0, first_run=1.0),
    }
    options = {
        "problems": "none",
        "names": NAMES,
        "held_out": 2,
        "held_out_steps": 5,
        "dealing": Dealing(kinds=2, copies=3, rounds=1),
        "training": MetaConfig(steps=steps, **{**given, **(training or {})}),
    }
    return Args(system="optimizer", run=run, **{**options, **changes})


# -- runs


def test_an_optimizer_is_learnt(tmp_path):
    """Lower held-out losses within seconds, from steps too short to matter to useful ones."""
    training = {"checkpoint_every": 60, "log_every": 60, "learning_rate": 2e-2, "ema_decay": 0.5}
    training["unrolls"] = Unrolls(shortest=10, mean=0.0, longest=10, run=1.0, first_run=1.0)
    args = arguments(tmp_path, 60, training, names=("quadratic-20", "bowl-5"), held_out_steps=20, held_out=8)
    main(args)
    for lines in read_json(tmp_path / "held_out.json")["held_out"].values():
        assert lines["core"] < lines["untrained"] - 0.1


def untimed(run):
    return [
        {k: v for k, v in line.items() if k != "timing"} for line in read_json_lines(run / "metrics.jsonl")
    ]


def tensors(run, step):
    folder = run / "checkpoints" / f"step-{step:08d}"
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors"))}


def test_killed_and_resumed_is_bit_equal(tmp_path):
    whole, killed, steps = tmp_path / "whole", tmp_path / "killed", 12
    main(arguments(whole, steps))
    program = (
        "import sys; from pathlib import Path; from tests.recipes import test_meta_train_optimizer as t;"
        f"t.main(t.arguments(Path(sys.argv[1]), {steps}))"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program, str(killed)]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 180
    while not (killed / "checkpoints" / "step-00000004").is_dir():
        assert process.poll() is None, "ended before it was killed"
        assert time.monotonic() < deadline, "no checkpoint in time"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (killed / "checkpoints" / f"step-{steps:08d}").exists()
    assert not main(arguments(killed, steps, {"time_limit_s": 0.0})).finished
    assert main(arguments(killed, steps)).finished
    assert tensors(killed, steps) == tensors(whole, steps)
    assert {"model.safetensors", "training_state.safetensors"} == set(tensors(whole, steps))
    lines = [line for line in untimed(whole) if line["step"] % 2 == 0 or "held_out" not in line]
    assert [line for line in untimed(killed) if line["step"] % 2 == 0 or "held_out" not in line] == lines
    assert read_json(killed / "held_out.json") == read_json(whole / "held_out.json")


def test_what_a_run_leaves(tmp_path, capsys):
    run = tmp_path / "run"
    words = ["meta-train", "optimizer", str(run), "--problems", "none", "--names", "booth", "bowl-5"]
    words += [
        "--held-out",
        "2",
        "--held-out-steps",
        "4",
        "--training.steps",
        "3",
        "--training.warmup-steps",
        "1",
    ]
    words += ["--training.estimator", "pes", "--training.device", "cpu", "--training.seed", "5"]
    words += ["--training.unrolls.longest", "15", "--training.log-every", "1", "--dealing.copies", "2"]
    assert command_line(words) == 0
    assert str(run / "core") in capsys.readouterr().out
    made_by = read_json(run / "core" / "made_by.json")
    assert made_by["seed"] == 5
    assert made_by["training"]["estimator"] == "pes"
    assert set(made_by["held_out"]["held_out"]) == {"two-dimensional", "bowl"}
    assert len(made_by["commands"]) == 1
    assert load_core(run / "core").config == shipped_config()
    assert len(list_checkpoints(run)) == 1
    report = (run / "report.html").read_text()
    for part in (
        "Held-out problems",
        "RMSProp",
        "untrained",
        "over training",
        "Command lines",
        "both rivals in",
    ):
        assert part in report
    assert "http://" not in report
    assert (run / "held_out.png").read_bytes().startswith(b"\x89PNG")


def linear_task():
    """What a user may write."""

    def batches(generator):
        x = torch.randn(8, 3, generator=generator)
        return x, x.sum(1, keepdim=True)

    def loss(model, batch):
        return (model(batch[0]) - batch[1]).square().mean()

    return nn.Linear(3, 1), batches, loss


def nothing():
    return 3


def test_a_users_own_task(tmp_path):
    path = f"{__name__}:linear_task"
    args = arguments(tmp_path, 2, names=(), tasks=(path,), held_out=0)
    assert main(args).finished
    assert f"log_loss/{load_tasks(path)[0].family}" in read_json_lines(tmp_path / "metrics.jsonl")[0]


def test_a_run_goes_on_only_with_its_own_settings(tmp_path):
    args = arguments(tmp_path, 4, {"time_limit_s": 0.0}, held_out=0)
    assert not main(args).finished
    for wrong in (
        replace(args, names=NAMES[:2]),
        replace(args, objective=UnrollObjective(rescaled=0.0)),
        replace(args, dealing=Dealing(kinds=3)),
    ):
        with pytest.raises(UserError, match="cannot resume: settings"):
            main(wrong)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--held-out", "-1"], "held_out: expected 0 or more, got -1"),
        (["--problems", "none"], "expected a set, names or tasks, got none"),
        (["--names", "boooth"], "did you mean booth"),
        (["--names", "booth"], "expected each name once, got 'booth' twice"),
        (["--tasks", "nowhere"], "expected MODULE:FUNCTION, got 'nowhere'"),
        (["--tasks", "no_such_module_here:build"], "cannot import no_such_module_here"),
        (
            ["--tasks", f"{__name__}:missing"],
            "unknown function in tests.recipes.test_meta_train_optimizer 'missing'",
        ),
        (
            ["--tasks", f"{__name__}:nothing"],
            "expected (module, batches), (module, batches, loss) or problems",
        ),
    ],
)
def test_wrong_use_is_told_in_a_line(words, message, tmp_path, capsys):
    assert command_line(["meta-train", "optimizer", str(tmp_path / "run"), *words]) == 1
    told = capsys.readouterr().err
    assert message in told
    assert not (tmp_path / "run").exists()


def test_wrong_settings_are_refused():
    with pytest.raises(UserError, match="rescaled: expected a share between 0 and 1, got 2"):
        UnrollObjective(rescaled=2.0)
    with pytest.raises(UserError, match="kinds: expected 1 or more, got 0"):
        Dealing(kinds=0)


def test_the_sets_are_those_of_the_corpus():
    assert len(chosen_problems("paper")) == len(corpus("paper"))
    assert not any(problem.family in ("mlp", "softmax") for problem in chosen_problems("paper"))
