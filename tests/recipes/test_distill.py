"""From teachers to a small policy in seconds: what is learnt, what a kill costs, what is refused."""

import os
import re
import signal
import time

import numpy as np
import pytest
import tyro

from factotum.cli import main as factotum
from factotum.core.checks import UserError
from factotum.core.files import read_json, read_json_lines
from factotum.distill import load_policy
from factotum.recipes.distill import Args, default_run, main
from factotum.recipes.distill_report import neighbours
from factotum.training.checkpoint import latest_checkpoint
from tests.recipes.distill_toys import CARTPOLE, command, small, teacher

RULE = ("tests.recipes.distill_toys:balance", "--worlds", CARTPOLE, "--kind", "q")


def distil(*options):
    return main(tyro.cli(Args, args=[str(option) for option in options]))


def test_a_function_becomes_a_small_network_that_plays_as_well(tmp_path):
    options = small(tmp_path, *RULE, hours=3, steps=1000, updates=400)
    measured = distil(*options, "--student", "mlp-32", "--learning-rate", "1e-2", "--score-every", "1")
    assert measured["tasks"][CARTPOLE]["teacher"] > 300
    assert measured["geometric_mean_ratio"][0] > 0.9
    game = measured["games"][0]
    assert game["agreement_on_teacher_states"] > 0.9
    assert game["agreement_on_student_states"] > 0.6
    assert measured["student"]["parameters"] == 4 * 32 + 32 + 32 * 2 + 2
    network = load_policy(tmp_path / "policy")
    assert network.config.outputs == "logits"
    assert network.tasks == (CARTPOLE,)
    lines = read_json_lines(tmp_path / "metrics.jsonl")
    assert lines[-1]["agreement"] > 0.9
    assert lines[-1]["loss"] < lines[0]["loss"]
    scores = [line["score"][CARTPOLE] for line in read_json_lines(tmp_path / "scores.jsonl")]
    assert len(scores) == 3
    assert max(scores) > 200
    assert (tmp_path / "report.html").stat().st_size > 20_000


@pytest.mark.parametrize(
    ("options", "outputs"),
    [
        (("--loss", "nll"), "logits"),
        (("--loss", "mse"), "q"),
        (("--tempered", "both", "--temperature", "0.1", "--reduction", "sum"), "q"),
        (
            ("--direction", "reverse", "--temperature", "1", "--optimizer", "rmsprop", "--warmup", "0.2"),
            "logits",
        ),
        (("--acting", "student"), "logits"),
        (("--acting", "mixed", "--teacher-share", "0.3"), "logits"),
    ],
)
def test_every_way_to_learn_runs_and_learns(options, outputs, tmp_path):
    game = teacher(tmp_path / "teacher", "minatar/breakout")
    distil(*small(tmp_path / "run", game, hours=2, updates=80), "--student", "net3", *options)
    assert load_policy(tmp_path / "run" / "policy").config.outputs == outputs
    lines = read_json_lines(tmp_path / "run" / "metrics.jsonl")
    first, last = (np.mean([line["loss"] for line in part]) for part in (lines[:10], lines[-10:]))
    assert last < first
    acting = options[1] if options[0] == "--acting" else "teacher"
    assert {line["acting"] for line in read_json_lines(tmp_path / "run" / "play" / "hours.jsonl")} == {acting}


def test_several_teachers_become_one_network_with_a_head_each(tmp_path):
    games = [teacher(tmp_path / name, f"minatar/{name}") for name in ("asterix", "space_invaders")]
    measured = distil(*small(tmp_path / "run", *games), "--student", "multitask-3")
    network = load_policy(tmp_path / "run" / "policy")
    assert network.tasks == ("minatar/asterix", "minatar/space_invaders")
    assert network.config.observation_shape == (6, 10, 10)
    assert set(measured["tasks"]) == set(network.tasks)
    lines = read_json_lines(tmp_path / "run" / "metrics.jsonl")
    assert {"agreement/minatar/asterix", "agreement/minatar/space_invaders"} <= set().union(*lines)
    assert lines[-1]["step"] == 2 * 2 * 40  # updates for each hour that each of two teachers played
    played = read_json_lines(tmp_path / "run" / "play" / "hours.jsonl")
    assert [(line["hour"], line["task"]) for line in played] == [
        (h, t) for h in (0, 1) for t in network.tasks
    ]


def test_continuous_actions(tmp_path):
    options = small(
        tmp_path, "tests.recipes.distill_toys:push", "--worlds", "gym/Pendulum-v1", "--kind", "continuous"
    )
    measured = distil(*options, "--student", "mlp-16", "--learning-rate", "1e-2")
    assert load_policy(tmp_path / "policy").config.outputs == "continuous"
    assert measured["games"][0]["distance_on_teacher_states"] < 0.5
    assert measured["geometric_mean_ratio"] == [None, None, None]  # scores are below zero
    assert (
        measured["tasks"]["gym/Pendulum-v1"]["random_normalised_ratio"][0] is not None
        or measured["tasks"]["gym/Pendulum-v1"]["teacher"] <= measured["tasks"]["gym/Pendulum-v1"]["random"]
    )


def test_fine_tuning_goes_on_from_the_student(tmp_path):
    game = teacher(tmp_path / "teacher", "minatar/breakout")
    options = small(tmp_path / "run", game, hours=1)
    distil(
        *options, "--fine-tune", "600", "--student", "net3", "--tuning.rollout", "8", "--tuning.epochs", "1"
    )
    lines = read_json_lines(tmp_path / "run" / "fine_tune" / "metrics.jsonl")
    assert lines[-1]["step"] >= 600
    weights = [line["distill_weight"] for line in lines if "distill_weight" in line]
    assert weights[0] > weights[-1] == 0.0
    distilled, tuned = (
        load_policy(latest_checkpoint(tmp_path / "run")),
        load_policy(tmp_path / "run" / "policy"),
    )
    assert any((a != b).any() for a, b in zip(distilled.parameters(), tuned.parameters(), strict=True))


def outcome(run):
    """All that a run is to give again: weights, moments, replay, metrics but for times."""
    newest = latest_checkpoint(run)
    found = {path.name: path.read_bytes() for path in newest.glob("*.safetensors")}
    lines = [
        {key: value for key, value in line.items() if key != "timing"}
        for line in read_json_lines(run / "metrics.jsonl")
    ]
    state = read_json(run / "play" / "state.json")
    return newest.name, found, lines, state


@pytest.mark.parametrize(("acting", "moment"), [("student", "play"), ("teacher", "updates")])
def test_a_kill_costs_nothing(acting, moment, tmp_path):
    game = teacher(tmp_path / "teacher", "minatar/breakout")
    options = ("--acting", acting, "--student", "net3")
    sizes = {
        "hours": 3,
        "steps": 3000 if moment == "play" else 320,
        "updates": 20 if moment == "play" else 150,
    }
    distil(*small(tmp_path / "whole", game, **sizes), *options)
    process = command(*small(tmp_path / "killed", game, **sizes), *options)
    hours = tmp_path / "killed" / "play" / "seconds.jsonl"
    metrics = tmp_path / "killed" / "metrics.jsonl"
    while process.poll() is None:
        if len(read_json_lines(hours)) >= 2 and (moment == "play" or len(read_json_lines(metrics)) > 60):
            break
        time.sleep(0.005)
    time.sleep(0.1 if moment == "play" else 0.0)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "policy").exists()
    again = command(*small(tmp_path / "killed", game, **sizes), *options)
    _, errors = again.communicate()
    assert again.returncode == 0, errors
    whole, killed = outcome(tmp_path / "whole"), outcome(tmp_path / "killed")
    assert whole[0] == killed[0]
    assert whole[1] == killed[1]
    assert whole[2] == killed[2]
    assert whole[3] == killed[3]


def test_a_finished_run_is_neither_trained_nor_measured_again(tmp_path, monkeypatch):
    game = teacher(tmp_path / "teacher", "minatar/breakout")
    options = small(tmp_path / "run", game, hours=1)
    once = distil(*options)
    monkeypatch.setattr("factotum.training.learner.Learner.update", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr("factotum.recipes.distill_play.Classroom.play_hour", lambda *_: pytest.fail("played"))
    monkeypatch.setattr(
        "factotum.recipes.distill_measure.evaluate_lesson", lambda *_: pytest.fail("measured")
    )
    assert distil(*options) == once


def test_resuming_with_other_settings_is_refused(tmp_path):
    game = teacher(tmp_path / "teacher", "minatar/breakout")
    distil(*small(tmp_path / "run", game, hours=2))
    for options, message in (
        (("--loss", "nll"), r"cannot resume: settings\.objective\.loss was 'kl' and is now 'nll'"),
        (("--student", "net3"), r"cannot resume: settings\.student\..* was .* and is now"),
        (("--environments", "8"), r"cannot resume: play\.environments was 4 and is now 8"),
        (("--hours", "3"), r"cannot resume: config\.steps was 80 and is now 120"),
    ):
        with pytest.raises(UserError, match=message):
            distil(*small(tmp_path / "run", game, hours=2), *options)
    teacher(tmp_path / "teacher", "minatar/breakout", seed=1)
    with pytest.raises(UserError, match=r"cannot resume: settings\.teachers was"):
        distil(*small(tmp_path / "run", game, hours=2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "expected --teachers or --online, got neither"),
        (("--teachers", "nowhere"), "worlds: expected the name of the world that nowhere is for"),
        (("--teachers", *RULE[:3]), "kind: expected what tests.recipes.distill_toys:balance returns, got none"),
        (("--teachers", "no.module:f", *RULE[1:]), "teachers: cannot import no.module"),
        (("--teachers", "nowhere", "--worlds", CARTPOLE), "expected a folder or a .zip"),
        (("--teachers", RULE[0], "--worlds", "gym/CartPool-v1", "--kind", "q"), "unknown world 'gym/CartPool-v1'"),
        (("--teachers", RULE[0], "--worlds", "gym/Acrobot-v1", "--kind", "q"), "expected q of shape"),
        (("--teachers", "tests.recipes.distill_toys:not_finite", *RULE[1:]), "expected finite numbers, got nan"),
        (("--teachers", "tests.recipes.distill_toys:choose", *RULE[1:3], "--kind", "actions", "--loss", "mse"),
         "loss: expected kl or nll for teachers without Q-values"),
        (("--teachers", *RULE, "--loss", "gaussian"), "loss: expected kl, nll or mse for teachers of kind q"),
        (("--teachers", *RULE, "--rows", "0"), "rows: expected 1 or more, got 0"),
        (("--teachers", *RULE, "--warmup", "1"), "warmup: expected a share from 0 to below 1, got 1.0"),
        (("--teachers", *RULE, "--student", "net9"), "unknown network for vectors 'net9'"),
        (("--teachers", RULE[0], RULE[0], "--worlds", CARTPOLE, CARTPOLE, "--kind", "q"), "got 2 for gym/CartPole-v1"),
        (("--teachers", RULE[0], RULE[0], "--worlds", CARTPOLE, "--kind", "q"), "expected one for each of 2 teachers"),
        (("--teachers", *RULE, "--scale", "0"), "scale: expected a number above 0"),
        (("--teachers", *RULE, "--episodes", "0"), "episodes from 1 on"),
        (("--teachers", *RULE, "--epsilon", "2"), "epsilon: expected a share from 0 to 1, got 2"),
        (("--teachers", *RULE, "--online", "x"), "got both"),
        (("--teachers", *RULE, "--fine-tune", "5", "--baseline", "multi-dqn"), "fine_tune: expected one teacher"),
        (("--online", "nowhere"), "expected the folder of a teacher's run, found none at nowhere"),
    ],
)  # fmt: skip
def test_wrong_use_is_one_line(options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(os.path.dirname(os.path.dirname(os.path.dirname(__file__))))
    base = () if "--hours" in options else ("--hours", "1")
    try:
        code = factotum(["distill", *options, *base, "--out", str(tmp_path / "run"), "--device", "cpu"])
    except SystemExit as stop:  # tyro refuses values that a dataclass refuses
        code = stop.code
    errors = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert code in (1, 2)
    assert re.search(re.escape(message), errors), errors
    assert "Traceback" not in errors


def test_a_run_has_a_name_where_none_is_given(tmp_path):
    assert default_run(Args(teachers=("a/minatar-pong", "b:f"))).name == "distill-minatar-pong-b-teacher"
    assert default_run(Args(online=(tmp_path / "pong",), student="net2")).name == "online-pong-net2"


def test_reports_show_neighbours_of_the_same_teachers_alone(tmp_path):
    game = teacher(tmp_path / "teacher", "minatar/breakout")
    for name, options in (("kl", ()), ("nll", ("--loss", "nll"))):
        distil(*small(tmp_path / "runs" / name, game, hours=1), "--student", "net3", *options)
    other = teacher(tmp_path / "other", "minatar/breakout", seed=3)
    distil(*small(tmp_path / "runs" / "other", other, hours=1), "--student", "net3")
    evaluation = read_json(tmp_path / "runs" / "nll" / "evaluation.json")
    assert list(neighbours(tmp_path / "runs" / "nll", evaluation)) == ["kl"]
    assert factotum(["report", str(tmp_path / "runs" / "nll"), "--out", str(tmp_path / "report.html")]) == 0
    text = (tmp_path / "report.html").read_text()
    assert ">kl<" in text
    assert ">other<" not in text
    assert "teacher above or left" in text
