from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from factotum.core.checks import UserError
from factotum.training import learner
from factotum.training.config import TrainConfig
from factotum.training.metrics import read_metrics
from factotum.training.train import train
from tests.training.identity import Batch, Levels, Model, batch_at, load, objective, save, train_identity

ROOT = Path(__file__).parents[2]


def run_alone(plan: list[dict], folder: Path, *launcher: str) -> subprocess.CompletedProcess:
    """Run a plan in processes of its own."""
    path = folder / "plan.json"
    path.write_text(json.dumps(plan))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *launcher, "-m", "tests.training.identity", str(path)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)


def untimed(run: Path) -> list[dict]:
    return [{name: v for name, v in line.items() if name != "timing"} for line in read_metrics(run)]


def checkpoint_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


def start(run: Path, config: TrainConfig, **changes):
    """`train` on the identity world with some arguments changed."""
    arguments = {
        "make_model": Model,
        "batch_source": lambda step, rank, world_size, micro: batch_at(step, micro),
        "objective": objective,
        "save_model": save,
        "load_model": load,
    }
    return train(config=config, run=run, **{**arguments, **changes})


def small(**changes) -> TrainConfig:
    defaults = {"steps": 4, "warmup_steps": 0, "checkpoint_every": 2, "log_every": 1, "tensorboard": False}
    return TrainConfig(**{**defaults, **changes})


def test_learns_the_identity(tmp_path):
    result = train_identity(tmp_path, steps=500, log_every=125, weight_decay=0.0)
    assert result.finished
    assert result.step == 500
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines] == [125, 250, 375, 500]
    assert lines[-1]["loss"] < 2e-3 < lines[0]["loss"]
    assert lines[-1] == result.metrics


def test_a_line_of_metrics_is_complete_and_true(tmp_path):
    start(tmp_path, small(gradient_accumulation=2, learning_rate=0.1))
    line = read_metrics(tmp_path)[0]
    names = ["step", "gradient_norm", "level", "loss", "worst", "learning_rate", "tokens", "timing"]
    assert list(line) == names
    assert line["tokens"] == 10
    assert line["learning_rate"] == 0.1
    assert sorted(line["timing"]) == ["data_wait_share", "seconds", "steps_per_second", "tokens_per_second"]
    assert 0 <= line["timing"]["data_wait_share"] <= 1


def test_a_finished_run_is_left_as_it_is(tmp_path):
    start(tmp_path, small())
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    result = start(tmp_path, small(), make_model=lambda: pytest.fail("made a model"))
    assert result.finished
    assert result.checkpoint.name == "step-00000004"
    assert result.metrics["step"] == 4
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_killed_and_resumed_is_bit_equal(tmp_path, precision):
    """Once in an update, once while a checkpoint is written; with all that carries state switched on."""
    settings = {
        "steps": 20,
        "checkpoint_every": 5,
        "log_every": 3,
        "dropout": 0.2,
        "adaptive": True,
        "gradient_accumulation": 2,
        "ema_decay": 0.9,
        "precision": precision,
        "device": "cpu",
    }
    train_identity(tmp_path / "whole", **settings)
    run = tmp_path / "killed"
    for where in ({"kill_in_update": 8}, {"kill_in_checkpoint": 15}):
        done = run_alone([{"run": str(run), **settings, **where}], tmp_path)
        assert done.returncode == -signal.SIGKILL, done.stderr
    assert (run / "checkpoints" / "step-00000015.tmp").is_dir()
    assert read_metrics(run)[-1]["step"] == 15
    assert train_identity(run, **settings).finished

    assert untimed(run) == untimed(tmp_path / "whole")
    expected = checkpoint_bytes(tmp_path / "whole/checkpoints/step-00000020")
    found = checkpoint_bytes(run / "checkpoints/step-00000020")
    assert sorted(found) == ["model.safetensors", "training_state.safetensors"]
    assert found == expected
    assert [path.name for path in (run / "checkpoints").iterdir() if ".tmp" in path.name] == []
    assert untimed(run)[-1]["level"] > 0  # the feedback did something


def test_a_time_limit_stops_and_goes_on_bit_equal(tmp_path):
    whole = start(tmp_path / "whole", small(steps=6, log_every=4))
    steps = []
    for _ in range(6):
        result = start(tmp_path / "parts", small(steps=6, log_every=4, time_limit_s=0.0))
        steps.append(result.step)
    assert steps == [1, 2, 3, 4, 5, 6]
    assert result.finished
    assert checkpoint_bytes(result.checkpoint) == checkpoint_bytes(whole.checkpoint)
    assert untimed(tmp_path / "parts") == untimed(tmp_path / "whole")


def test_stops_where_told_and_goes_on_bit_equal(tmp_path):
    whole = start(tmp_path / "whole", small(steps=6, log_every=4), feedback=Levels())
    steps = []
    for stop in (3, 3, 4, 9):
        result = start(tmp_path / "parts", small(steps=6, log_every=4), feedback=Levels(), stop=stop)
        steps.append((result.step, result.finished))
    assert steps == [(3, False), (3, False), (4, False), (6, True)]
    assert checkpoint_bytes(result.checkpoint) == checkpoint_bytes(whole.checkpoint)
    assert untimed(tmp_path / "parts") == untimed(tmp_path / "whole")


def test_splitting_a_batch_changes_gradients_by_rounding_alone(tmp_path):
    """One batch of 10 counted rows beside micro batches of 8 and 2; a mean of means would be far off."""

    def parts(step, rank, world_size, micro):
        return _without_picture(batch_at(step, micro))

    def both(step, rank, world_size, micro):
        batches = [parts(step, 0, 1, micro) for micro in (0, 1)]
        return Batch(torch.cat([b.x for b in batches]), torch.cat([b.mask for b in batches]), False, step)

    models = {}
    for name, source, accumulation in (("one", both, 1), ("two", parts, 2)):
        config = small(gradient_accumulation=accumulation, gradient_clip=0.1)
        result = start(tmp_path / name, config, batch_source=source)
        models[name] = Model()
        load(models[name], result.checkpoint)
    for one, two in zip(models["one"].parameters(), models["two"].parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-6)
    one, two = (read_metrics(tmp_path / name) for name in ("one", "two"))
    for a, b in zip(one, two, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
        assert a["gradient_norm"] == pytest.approx(b["gradient_norm"], rel=1e-4)


def _without_picture(batch: Batch) -> Batch:
    return Batch(batch.x, batch.mask, False, batch.step)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 0.5}, "config.learning_rate was 0.0001 and is now 0.5"),
        ({"steps": 9}, "config.steps was 4 and is now 9"),
        ({"seed": 3}, "config.seed was 0 and is now 3"),
    ],
)
def test_a_changed_config_is_refused_by_name(tmp_path, changes, message):
    start(tmp_path, small())
    with pytest.raises(UserError, match=message):
        start(tmp_path, small(**changes))


def test_changed_settings_are_refused_by_name_but_free_fields_may_change(tmp_path):
    start(tmp_path, small(time_limit_s=0.0), settings={"model": {"width": 4}})
    with pytest.raises(UserError, match=r"settings\.model\.width was 4 and is now 5"):
        start(tmp_path, small(), settings={"model": {"width": 5}})
    changed = small(checkpoint_every=3, keep_checkpoints=1, threads=1)
    assert start(tmp_path, changed, settings={"model": {"width": 4}}).finished


def test_lines_of_a_run_without_a_checkpoint_are_not_doubled(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 9}\n{"step": 2, "lo')
    start(tmp_path, small())
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3, 4]


def test_an_error_in_the_batch_source_comes_out(tmp_path):
    def source(step, rank, world_size, micro):
        if step == 2:
            raise UserError("shard 7 is torn")
        return batch_at(step, micro)

    with pytest.raises(UserError, match="shard 7 is torn"):
        start(tmp_path, small(), batch_source=source)


def test_a_loss_that_is_not_finite_stops_before_the_checkpoint(tmp_path):
    def broken(model, batch):
        loss, weight, metrics = objective(model, batch)
        return loss * (float("nan") if batch.step == 3 else 1.0), weight, metrics

    message = r"loss: expected finite numbers up to step 4, got nan.*step-00000002"
    with pytest.raises(UserError, match=message):
        start(tmp_path, small(log_every=100), objective=broken)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]


def test_bf16_computes_in_bf16_with_weights_in_fp32(tmp_path):
    seen = set()

    def watching(model, batch):
        model.head.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
        loss, weight, metrics = objective(model, batch)
        seen.add(loss.dtype)
        return loss, weight, metrics

    start(tmp_path, small(precision="bf16", steps=2, device="cpu"), objective=watching)
    assert torch.bfloat16 in seen
    model = Model()
    load(model, tmp_path / "checkpoints/step-00000002")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_the_moving_average_is_what_is_saved(tmp_path):
    """And the weights themselves lie beside it, as they would be without one."""
    start(tmp_path, small(steps=2, ema_decay=0.5, learning_rate=0.1))
    folder = tmp_path / "checkpoints/step-00000002"
    saved, state = load_file(folder / "model.safetensors"), load_file(folder / "training_state.safetensors")
    assert not torch.equal(saved["head.weight"], state["weights/head.weight"])
    start(tmp_path / "raw", small(steps=2, learning_rate=0.1))
    raw = load_file(tmp_path / "raw/checkpoints/step-00000002/model.safetensors")
    assert torch.equal(raw["head.weight"], state["weights/head.weight"])


def test_checkpoints_are_announced_when_finished(tmp_path):
    seen = []
    start(
        tmp_path, small(), on_checkpoint=lambda *arguments: seen.append((arguments[0].is_dir(), *arguments))
    )
    folders = [tmp_path / "checkpoints" / f"step-{step:08d}" for step in (2, 4)]
    assert seen == [(True, folders[0], 2), (True, folders[1], 4)]


def test_waiting_for_data_is_measured(tmp_path):
    def slow(step, rank, world_size, micro):
        time.sleep(0.1)
        return batch_at(step, micro)

    start(tmp_path, small(log_every=4), batch_source=slow)
    timing = read_metrics(tmp_path)[-1]["timing"]
    seconds = 4 / timing["steps_per_second"]
    # The first batch is waited for in full, however slow the updates are on a busy machine.
    assert 0.09 <= timing["data_wait_share"] * seconds <= seconds


def test_one_process_a_run(tmp_path):
    def inner(folder, step):
        start(tmp_path, small())

    with pytest.raises(UserError, match="another process is training"):
        start(tmp_path, small(), on_checkpoint=inner)


def test_where_a_compiler_works_the_model_is_compiled(tmp_path, monkeypatch):
    """Compiling for real takes minutes on busy cores; the test below shows what the probe runs into."""
    compiled = []
    monkeypatch.setattr(Model, "compile", lambda model: compiled.append(model))
    monkeypatch.setattr(learner, "compiler_works", lambda device: True)
    start(tmp_path / "eager", small(device="cpu"))
    assert compiled == []
    start(tmp_path / "compiled", small(compile_model=True, device="cpu"))
    assert len(compiled) == 1


@pytest.mark.filterwarnings("always::UserWarning")
def test_without_a_compiler_training_goes_on(tmp_path, monkeypatch):
    from torch._inductor import config as inductor

    monkeypatch.setattr(inductor.cpp, "cxx", ("/nonexistent/compiler",))
    with pytest.warns(UserWarning, match=r"no working compiler, going on uncompiled \(.*(nonexistent|C\+\+)"):
        result = start(tmp_path, small(compile_model=True, device="cpu"))
    assert result.finished


def test_tensorboard_gets_the_metrics(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    start(tmp_path, small(tensorboard=True))
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert {"loss", "timing/data_wait_share"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("field", "value"),
    [("steps", 0), ("warmup_steps", 4), ("precision", "fp16"), ("ema_decay", 1.0), ("gradient_clip", -1.0)],
)
def test_a_bad_config_is_refused_by_name(field, value):
    with pytest.raises(UserError, match=f"{field}: expected .*got {value}"):
        small(**{field: value})


def test_frozen_parameters_stay(tmp_path):
    before = {}

    def half_frozen() -> nn.Module:
        model = Model()
        model.head.requires_grad_(False)
        before.update({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return model

    result = start(tmp_path, small(learning_rate=0.1), make_model=half_frozen)
    after = load_file(result.checkpoint / "model.safetensors")
    assert torch.equal(after["head.weight"], before["head.weight"])
    assert not torch.equal(after["blocks.0.0.weight"], before["blocks.0.0.weight"])
    assert not any("head" in name for name in load_file(result.checkpoint / "training_state.safetensors"))


def test_a_full_disk_stops_in_one_line_and_the_run_goes_on_later(tmp_path):
    def full(model, folder):
        save(model, folder)
        if "00000004" in folder.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(
        UserError, match=r"step-00000004: No space left on device; .*step-00000002 is unharmed"
    ):
        start(tmp_path, small(), save_model=full)
    assert start(tmp_path, small()).finished
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3, 4]
