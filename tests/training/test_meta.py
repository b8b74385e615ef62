"""Meta-training of a one-number model on worlds with known answers: gradients, pools, kills, wrong use."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_model, save_model
from torch import nn

from factotum.core.checks import UserError
from factotum.core.files import read_json, read_json_lines
from factotum.core.seeding import torch_generator
from factotum.training.meta import meta_train
from factotum.training.meta_config import MetaConfig, Unrolls
from factotum.training.meta_gradient import Call, Running, Unrolled, estimate
from factotum.training.meta_learner import clip, make_meta_optimizer

ROOT = Path(__file__).parents[2]


class Rate(nn.Module):
    """Shrinks x by a share of it; the best share is 1."""

    def __init__(self):
        super().__init__()
        self.share = nn.Parameter(torch.tensor([0.1]))
        self.spare = nn.Parameter(torch.zeros(2))


class Shrink:
    """x <- (1 - share) x from |x| = 1; the objective of a block is its mean square."""

    def __init__(self, blocks=3, weight=1.0, broken=False):
        self.blocks, self.weight, self.broken, self.calls = blocks, weight, broken, []

    def unroll(self, model, state, call, *, learn):
        self.calls.append(call)
        with torch.set_grad_enabled(learn):
            new_K = torch.stack(
                [torch.randn((), generator=torch_generator(seed)).sign() for seed in call.seeds]
            )
            x_K = torch.where(torch.tensor(call.starts), new_K, state.get("x", new_K))
            noise_K = 0.01 * torch.randn(self.blocks, generator=torch_generator(call.seed))
            squares = []
            for _ in range(call.steps):
                x_K = (1 - model.share) * x_K + 0 * noise_K
                squares.append((x_K + noise_K).square())
            loss_K = torch.stack(squares).mean(0)
            if self.broken:
                loss_K = loss_K + float("nan") * model.share
        after = {"x": x_K.detach(), "count": state.get("count", torch.tensor(0)) + 1}
        return Unrolled(loss_K.mean(), loss_K.detach(), after, float(call.steps), {"seen": (1.0, 2.0)})


def call(steps=3, starts=(True,) * 3, seed=0):
    return Call(steps, starts, (1, 2, 3), seed)


def running(states=1, size=0):
    return Running([{} for _ in range(states)], [0] * 3, [0] * 3, [0] * 3, torch.zeros(3, size))


def run(folder, steps=6, worlds=None, device="cpu", **changes):
    given = {"unrolls": Unrolls(shortest=1, mean=2.0, longest=6, run=4.0), "learning_rate": 0.05}
    given |= {"warmup_steps": 1, "checkpoint_every": 2, "log_every": 1, "threads": 1, "device": device}
    return meta_train(
        make_model=Rate,
        make_worlds=lambda device: worlds or [Shrink(3), Shrink(2, weight=0.5)],
        config=MetaConfig(steps=steps, **{**given, **changes}),
        run=folder,
        save_model=lambda model, path: save_model(model, str(path / "model.safetensors")),
        load_model=lambda model, path: load_model(model, str(path / "model.safetensors")),
        settings={"worlds": "shrink"},
    )


def share_of(result):
    model = Rate()
    load_model(model, str(result.checkpoint / "model.safetensors"))
    return model.share.item()


# -- lengths


def test_unrolls_are_heavy_tailed_within_their_bounds():
    unrolls, draw = Unrolls(shortest=50, mean=200.0, longest=1000), np.random.default_rng(0)
    steps = [unrolls.steps(draw) for _ in range(4000)]
    assert min(steps) >= 50
    assert max(steps) == 1000
    assert np.mean(steps) == pytest.approx(250, rel=0.06)
    assert np.quantile(steps, 0.95) == pytest.approx(651, rel=0.08)  # the paper's numbers


def test_runs_grow_longer_over_the_curriculum():
    unrolls, draw = Unrolls(run=40.0, first_run=2.0, curriculum=0.5), np.random.default_rng(0)
    means = [
        np.mean([unrolls.run_unrolls(done, draw) for _ in range(3000)]) for done in (0.0, 0.25, 0.5, 1.0)
    ]
    assert means == pytest.approx([3, 1 + 80**0.5, 41, 41], rel=0.1)
    assert Unrolls(curriculum=0.0).mean_run(0.0) == Unrolls().run
    assert Unrolls(run=0.0, first_run=0.0).run_unrolls(0.5, draw) == 1


# -- meta-gradients


def test_through_time_is_the_derivative():
    model, group = Rate(), Shrink()
    found = estimate(model, group, running(), call(), MetaConfig())
    difference = 1e-2
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            model.share += sign * difference
        values.append(group.unroll(model, {}, call(), learn=False).loss.item())
        with torch.no_grad():
            model.share -= sign * difference
    assert found.gradients[0].item() == pytest.approx((values[0] - values[1]) / (2 * difference), rel=1e-2)
    assert found.gradients[1].tolist() == [0.0, 0.0]  # a parameter that nothing depends on
    assert not found.unrolled.loss.requires_grad


@pytest.mark.parametrize("estimator", ["es", "pes"])
def test_perturbations_give_the_same_gradient_in_the_mean(estimator):
    model, group, config = Rate(), Shrink(), MetaConfig(estimator=estimator, sigma=0.01)
    exact = estimate(model, group, running(), call(), MetaConfig()).gradients[0].item()
    states = 2 if estimator == "pes" else 1
    draws = [
        estimate(model, group, running(states, 3), call(seed=seed), config).gradients[0].item() / exact
        for seed in range(400)
    ]
    assert np.mean(draws) == pytest.approx(1.0, abs=0.2)  # each is a chi-squared number, deviation 1.4
    assert model.share.item() == pytest.approx(0.1)


def test_persistent_perturbations_see_across_unrolls():
    """Second of two unrolls: its derivative goes through the first one too."""
    share, draws = 0.1, {"es": [], "pes": []}
    for estimator, found in draws.items():
        config = MetaConfig(estimator=estimator, sigma=0.01)
        for seed in range(400):
            model, group = Rate(), Shrink()
            pool = running(2 if estimator == "pes" else 1, 3)
            estimate(model, group, pool, call(steps=1, seed=2 * seed), config)
            second = call(steps=1, starts=(False,) * 3, seed=2 * seed + 1)
            found.append(estimate(model, group, pool, second, config).gradients[0].item())
    # (1 - s)^4: all of its derivative, or half of it
    whole = -4 * (1 - share) ** 3
    assert np.mean(draws["pes"]) == pytest.approx(whole, rel=0.25)
    assert np.mean(draws["es"]) == pytest.approx(whole / 2, rel=0.25)


def test_sums_of_perturbations_start_with_their_blocks():
    model, group, config = Rate(), Shrink(), MetaConfig(estimator="pes")
    pool = running(2, 3)
    estimate(model, group, pool, call(seed=1), config)
    first_KM = pool.sum_KM.clone()
    estimate(model, group, pool, call(starts=(False, True, False), seed=2), config)
    last_M = pool.sum_KM[1]
    assert torch.allclose(pool.sum_KM[0], first_KM[0] + last_M)
    assert not torch.allclose(last_M, pool.sum_KM[0])


def test_clip_drops_what_is_not_finite_and_bounds_the_rest():
    gradients = [torch.tensor([float("inf"), 300.0]), torch.tensor([-4.0])]
    norm, bad = clip(gradients, element=3.0, norm=0.0)
    assert [g.tolist() for g in gradients] == [[0.0, 3.0], [-3.0]]
    assert bad.item() == 1
    assert norm.item() == pytest.approx(18**0.5)
    assert clip([torch.tensor([1.0])], 0.0, 5.0)[0].item() == 1.0


def test_the_papers_meta_optimizer():
    """RMSProp whose mean square starts at 1: the first step is lr g / sqrt(.9 + .1 g^2)."""
    weight = nn.Parameter(torch.zeros(1))
    optimizer = make_meta_optimizer([weight], MetaConfig(meta_optimizer="rmsprop", learning_rate=1e-3))
    weight.grad = torch.tensor([3.0])
    optimizer.step()
    assert weight.item() == pytest.approx(-1e-3 * 3 / (0.9 + 0.1 * 9) ** 0.5, rel=1e-5)


# -- training


@pytest.mark.parametrize("estimator", ["bptt", "es", "pes"])
def test_the_best_rate_is_learnt(estimator, tmp_path):
    changes = {"groups": 1 if estimator == "bptt" else 4, "sigma": 0.1}
    result = run(tmp_path, 120, estimator=estimator, checkpoint_every=120, **changes)
    assert result.finished
    assert share_of(result) == pytest.approx(1.0, abs=0.35)
    lines = read_json_lines(tmp_path / "metrics.jsonl")
    assert np.mean([x["loss"] for x in lines[-10:]]) < 0.2 * np.mean([x["loss"] for x in lines[:3]])


def test_runs_are_carried_on_and_end(tmp_path):
    group = Shrink(3)
    run(tmp_path, 40, [group], unrolls=Unrolls(shortest=1, mean=0.0, longest=1, run=3.0, first_run=3.0))
    starts = np.array([one.starts for one in group.calls])
    assert starts[0].all()
    assert 0.1 < starts[1:].mean() < 0.6  # a run has 4 unrolls in the mean
    assert any(row.any() and not row.all() for row in starts[1:])  # blocks end at different times
    seeds = np.array([one.seeds for one in group.calls])
    assert ((seeds[1:] != seeds[:-1]) == starts[1:]).all()  # worlds are drawn anew when a run starts
    assert len({one.seed for one in group.calls}) == 40


def test_groups_are_chosen_by_weight(tmp_path):
    often, seldom = Shrink(), Shrink(weight=0.25)
    run(tmp_path, 100, [often, seldom], groups=2, checkpoint_every=100)
    assert len(often.calls) + len(seldom.calls) == 200
    assert 20 < len(seldom.calls) < 60


def test_the_moving_average_is_what_is_saved(tmp_path):
    plain = run(tmp_path / "plain", 6, checkpoint_every=1, keep_checkpoints=0)
    averaged = run(tmp_path / "averaged", 6, checkpoint_every=1, keep_checkpoints=0, ema_decay=0.9)
    path = [
        share_of(replace(plain, checkpoint=plain.checkpoint.with_name(f"step-{n:08d}"))) for n in range(1, 7)
    ]
    mean = 0.1
    for step, share in enumerate(path):
        decay = min(0.9, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * share
    assert share_of(averaged) == pytest.approx(mean, rel=1e-5)


def test_nothing_finite_changes_nothing(tmp_path):
    result = run(tmp_path, 2, [Shrink(broken=True)])
    assert share_of(result) == pytest.approx(0.1)
    line = read_json_lines(tmp_path / "metrics.jsonl")[0]
    assert line["gradient_entries_dropped"] > 0


# -- stopping and going on


def contents(folder, step):
    path = folder / "checkpoints" / f"step-{step:08d}"
    return {file.name: file.read_bytes() for file in sorted(path.glob("*.safetensors"))}


def untimed(folder):
    return [{k: v for k, v in x.items() if k != "timing"} for x in read_json_lines(folder / "metrics.jsonl")]


def test_killed_and_resumed_is_bit_equal(tmp_path):
    """All that a run may carry; through time is in tests/recipes/test_meta_train_optimizer.py."""
    whole, killed, steps = tmp_path / "whole", tmp_path / "killed", 160
    changes = {"estimator": "pes", "ema_decay": 0.5, "meta_optimizer": "rmsprop", "checkpoint_every": 10}
    run(whole, steps, **changes)
    program = (
        "import sys; from pathlib import Path; from tests.training.test_meta import run;"
        f"run(Path(sys.argv[1]), {steps}, **{changes!r})"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(killed)], cwd=ROOT, env=environment, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not (killed / "checkpoints" / "step-00000020").is_dir():
        assert process.poll() is None, "ended before it was killed"
        assert time.monotonic() < deadline, "no checkpoint in time"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (killed / "checkpoints" / f"step-{steps:08d}").exists()
    assert not run(killed, steps, **changes, time_limit_s=0.0).finished
    assert run(killed, steps, **changes).finished
    assert contents(killed, steps) == contents(whole, steps)
    assert untimed(killed) == untimed(whole)
    state = [
        read_json(x / "checkpoints" / f"step-{steps:08d}" / "training_state.json") for x in (whole, killed)
    ]
    for name in ("runs", "amount", "window", "config_hash"):
        assert state[0][name] == state[1][name]


def test_a_finished_run_is_left_alone(tmp_path):
    first = run(tmp_path)
    worlds = [Shrink(), Shrink()]
    assert run(tmp_path, worlds=worlds) == first
    assert worlds[0].calls == worlds[1].calls == []


def test_a_run_goes_on_only_with_its_own_settings(tmp_path):
    run(tmp_path, time_limit_s=0.0)
    with pytest.raises(UserError, match=r"config\.unrolls\.run was 4\.0 and is now 9\.0"):
        run(tmp_path, unrolls=Unrolls(shortest=1, mean=2.0, longest=6, run=9.0))
    assert run(tmp_path, checkpoint_every=3).finished


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, "steps: expected 1 or more, got 0"),
        ({"warmup_steps": 10_000}, "warmup_steps: expected 0 or more and less than steps"),
        ({"sigma": 0.0}, "sigma: expected a number above 0"),
        ({"ema_decay": 1.0}, "ema_decay: expected 0 or more and less than 1"),
        ({"meta_optimizer": "sgd"}, "meta_optimizer: expected adam or rmsprop, got sgd"),
        ({"norm_clip": float("inf")}, "norm_clip: expected 0 or more"),
    ],
)
def test_wrong_configurations_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        MetaConfig(**values)


@pytest.mark.parametrize(
    "values", [{"shortest": 0}, {"longest": 3}, {"mean": -1.0}, {"run": float("nan")}, {"curriculum": 1.5}]
)
def test_wrong_lengths_are_refused(values):
    with pytest.raises(UserError, match=f"{next(iter(values))}: expected"):
        Unrolls(**values)
