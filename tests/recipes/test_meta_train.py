"""Meta-training from nothing to a folder of weights: each core and loss, kills, what is written, wrong use."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from factotum.cli import main as command_line
from factotum.core.checks import UserError
from factotum.core.files import read_json, read_json_lines
from factotum.core.seeding import torch_generator
from factotum.recipes.meta_batches import HeldOut, MetaBatches, Searches
from factotum.recipes.meta_train import Args, default_training, main
from factotum.samplers import SamplerConfig, load_core
from factotum.samplers.objective import SamplerObjective
from factotum.samplers.rollout import rollout

ROOT = Path(__file__).parents[2]
SMALL = {"width": 8, "layers": 1, "memory_slots": 4, "memory_width": 4, "read_heads": 1}


def arguments(run, steps=4, core="lstm", dimensions=2, budget=6, training=None, **changes):
    given = {"warmup_steps": 1, "checkpoint_every": 2, "log_every": 1, "device": "cpu", "threads": 1}
    options = {
        "prior": "paper",
        "held_out": 4,
        "model": SamplerConfig(core=core, dimensions=dimensions, budget=budget, **SMALL),
        "searches": Searches(functions=4, smallest=3, workers=3, parallel=0.5),
        "training": replace(default_training(), steps=steps, **{**given, **(training or {})}),
    }
    return Args(system="sampler", run=run, **{**options, **changes})


def untimed(run):
    return [
        {name: value for name, value in line.items() if name != "timing"}
        for line in read_json_lines(run / "metrics.jsonl")
    ]


def weights(run, step):
    folder = run / "checkpoints" / f"step-{step:08d}"
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors"))}


@pytest.mark.parametrize("core", ["lstm", "dnc", "axial"])
@pytest.mark.parametrize(
    "objective",
    [
        SamplerObjective("oi"),
        SamplerObjective("oi", detach_incumbent=True, first="drop", gradient_limit=1.0),
        SamplerObjective("ei"),
        SamplerObjective("sum", truncation=2),
        SamplerObjective("best", sum_weight=0.1),
        SamplerObjective("soft"),
    ],
    ids=lambda one: f"{one.loss}-{one.detach_incumbent}",
)
def test_every_core_with_every_loss(core, objective, tmp_path):
    result = main(arguments(tmp_path, steps=3, core=core, objective=objective, held_out=0))
    assert result.finished
    lines = read_json_lines(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3]
    # the gradient of improvements is 0 where there are none
    assert any(line["gradient_norm"] > 0 for line in lines)
    assert load_core(tmp_path / "core").config.core == core


def test_all_kinds_of_functions_with_workers(tmp_path):
    args = arguments(tmp_path, steps=3, core="axial", dimensions=5, budget=8, prior="broad")
    assert main(replace(args, searches=Searches(functions=8, smallest=4, workers=4, parallel=1.0))).finished


def test_a_search_is_learnt(tmp_path):
    """The paper's claim in small: better than random search on functions never met."""
    training = {"learning_rate": 1e-2, "checkpoint_every": 1000, "log_every": 50}
    args = arguments(tmp_path, steps=200, dimensions=1, budget=6, training=training)
    args = replace(
        args,
        held_out=512,
        model=replace(args.model, width=32),
        searches=Searches(functions=32, horizon="largest", curriculum=0.0, parallel=0.0),
    )
    main(args)
    measured = read_json(tmp_path / "held_out.json")
    assert measured["held_out"]["1d/6"] < measured["random"]["1d/6"] - 0.1


def test_what_a_run_leaves(tmp_path, capsys):
    run = tmp_path / "run"
    words = ["meta-train", "sampler", str(run), "--prior", "paper", "--held-out", "3"]
    words += ["--model.core", "lstm", "--model.dimensions", "2", "--model.budget", "12", "--model.width", "8"]
    words += ["--searches.functions", "4", "--objective.loss", "ei", "--training.steps", "4"]
    words += ["--training.warmup-steps", "1", "--training.checkpoint-every", "2", "--training.log-every", "2"]
    words += ["--training.device", "cpu", "--training.threads", "1", "--training.seed", "5"]
    assert command_line(words) == 0
    assert str(run / "core") in capsys.readouterr().out
    lines = read_json_lines(run / "metrics.jsonl")
    assert [(line["step"], "held_out" in line) for line in lines] == [
        (2, False),
        (2, True),
        (4, False),
        (4, True),
    ]
    assert list(lines[-1]["held_out"]) == ["2d/10", "2d/12"]
    made_by = read_json(run / "core" / "made_by.json")
    assert made_by["seed"] == 5
    assert made_by["settings"]["objective"]["loss"] == "ei"
    assert made_by["held_out"]["step"] == 4
    assert len(made_by["commands"]) == 1
    report = (run / "report.html").read_text()
    for part in ("Held-out functions", "random search", "over training", "Learning curves", "Command lines"):
        assert part in report
    assert "Not evaluated" not in report
    assert "http://" not in report
    assert (run / "held_out.png").read_bytes().startswith(b"\x89PNG")


def test_its_report_is_written_again_as_it_was(tmp_path, capsys):
    main(arguments(tmp_path / "run"))
    written = (tmp_path / "run/report.html").read_text()
    for words in (["report", str(tmp_path / "run")], ["report", str(tmp_path / "run"), "--title", "Again"]):
        assert command_line(words) == 0
        text = (tmp_path / "run/report.html").read_text()
        assert "Held-out functions over training" in text
        assert len(text) > 0.9 * len(written)
    assert "Again" in text
    assert command_line(["report", str(tmp_path / "run"), "--agent", "gato"]) == 1
    assert "expected one that was evaluated" in capsys.readouterr().err


def test_the_weights_are_those_measured(tmp_path):
    args = arguments(tmp_path, budget=12, held_out=5)
    main(args)
    core = load_core(tmp_path / "core")
    batches = MetaBatches(args.prior, args.model, args.searches, args.training.steps, args.training.seed)
    batch = HeldOut(batches, 5)._batch(2, 12)
    with torch.no_grad():
        done = rollout(
            core,
            batch.functions,
            12,
            batch_size=5,
            dimensions=2,
            generator=torch_generator(batch.seed, "rollout"),
            noise_B=batch.functions.noise_B,
        )
    measured = read_json(tmp_path / "held_out.json")["held_out"]["2d/12"]
    assert done.value_BT.amin(1).mean().item() == pytest.approx(measured, abs=1e-6)


def test_killed_and_resumed_is_bit_equal(tmp_path):
    """SIGKILL in the middle; then stopped between a checkpoint and its measurement."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    steps, options = 16, {"core": "axial", "dimensions": 3, "prior": "broad"}
    main(arguments(whole, steps, **options))

    program = (
        "import sys; from pathlib import Path; from tests.recipes import test_meta_train as t;"
        f"t.main(t.arguments(Path(sys.argv[1]), {steps}, **{options!r}))"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program, str(killed)]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (killed / "checkpoints" / "step-00000004").is_dir():
        assert process.poll() is None, "ended before it was killed"
        assert time.monotonic() < deadline, "no checkpoint in time"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (killed / "checkpoints" / f"step-{steps:08d}").exists()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HeldOut, "measure", _stop_at_10(HeldOut.measure))
        with pytest.raises(KeyboardInterrupt):
            main(arguments(killed, steps, **options))
    lines = read_json_lines(killed / "metrics.jsonl")
    assert [line["step"] for line in lines if "held_out" in line] == [2, 4, 6, 8]
    assert main(arguments(killed, steps, **options)).finished

    assert untimed(killed) == untimed(whole)
    assert weights(killed, steps) == weights(whole, steps)
    assert sorted(weights(whole, steps)) == ["model.safetensors", "training_state.safetensors"]
    assert read_json(killed / "held_out.json") == read_json(whole / "held_out.json")
    assert len(read_json_lines(killed / "commands.jsonl")) == 3


def _stop_at_10(measure):
    def stop(self, checkpoint, step):
        if step == 10:
            raise KeyboardInterrupt
        return measure(self, checkpoint, step)

    return stop


def test_a_run_goes_on_only_with_its_own_settings(tmp_path):
    args = arguments(tmp_path, steps=4, training={"time_limit_s": 0.0})
    assert not main(args).finished
    for wrong in (
        replace(args, objective=SamplerObjective("sum")),
        replace(args, prior="broad"),
        replace(args, model=replace(args.model, width=16)),
        replace(args, searches=replace(args.searches, workers=2)),
    ):
        with pytest.raises(UserError, match="settings"):
            main(wrong)
    assert main(replace(args, training=replace(args.training, time_limit_s=None))).finished


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--objective.loss", "ei"], "loss ei: expected prior paper"),
        (["--held-out", "-1"], "held_out: expected 0 or more, got -1"),
    ],
)
def test_wrong_use_is_told_in_a_line(words, message, tmp_path, capsys):
    assert command_line(["meta-train", "sampler", str(tmp_path / "run"), *words]) == 1
    told = capsys.readouterr().err
    assert message in told
    assert told.startswith("factotum meta-train: error:")
    assert not (tmp_path / "run").exists()
