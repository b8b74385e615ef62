"""As a new user would: a file, a command, a report; run again; and everything that can be got wrong."""

import json
import re
import sys
import threading

import optuna
import pytest

from factotum.cli import main as cli
from factotum.core.checks import UserError
from factotum.recipes.tune import Args, main, read_space
from factotum.recipes.tune_objective import callable_objective, command_objective, read_key, read_number
from factotum.samplers.model import save_core
from factotum.samplers.study import make_space, open_study
from tests.samplers.untrained import untrained_core

SPACE = {
    "lr": {"type": "float", "low": 1e-5, "high": 0.1, "log": True},
    "layers": {"type": "int", "low": 1, "high": 6},
    "kind": {"type": "categorical", "choices": ["adam", "sgd", "none"]},
}
MODULE = """
calls = []
def f(lr, layers, kind):
    calls.append(layers)
    if layers == 6:
        raise MemoryError("too deep")
    return lr + layers + (kind != "adam")
def g(trial):
    trial.set_user_attr("seen", True)
    return trial.params["lr"] + trial.suggest_float("more", 0, 1)
def wrong(lr):
    return lr
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A user's folder, with weights, a space and a module."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    save_core(untrained_core(), tmp_path / "weights")
    (tmp_path / "space.json").write_text(json.dumps(SPACE))
    (tmp_path / "mine.py").write_text(MODULE)
    return tmp_path


def args(here, **options):
    given = {
        "trials": 8,
        "weights": str(here / "weights"),
        "storage": f"journal:{here / 'study.log'}",
        **options,
    }
    return Args(here / "space.json", **given)


def study_of(here, name="space"):
    backend = optuna.storages.journal.JournalFileBackend(str(here / "study.log"))
    return optuna.load_study(study_name=name, storage=optuna.storages.JournalStorage(backend))


def test_command_then_again_then_more(here, capsys):
    program = (
        "import sys; print('epoch 3'); print('loss', float(sys.argv[1]) + int(sys.argv[2]), sys.argv[3])"
    )
    command = f'{sys.executable} -c "{program}" {{lr}} {{layers}} {{kind}}{{trial}}'
    path = main(args(here, command=command, jobs=2, pattern=r"loss (\S+)"))
    study = study_of(here)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 8
    assert study.best_value == pytest.approx(study.best_params["lr"] + study.best_params["layers"])
    out = capsys.readouterr().out
    assert f"best of 8 trials: {study.best_value:.6g} (trial {study.best_trial.number})" in out
    assert f"  kind = {study.best_params['kind']}" in out
    page = path.read_text()
    assert path == here.joinpath("space.html").relative_to(here)
    for title in (
        "Best trial",
        "Optimization history",
        "Parameter importances",
        "Slices",
        "Parallel coordinates",
    ):
        assert f"<h2>{title}</h2>" in page
    assert page.count("data:image/png;base64,") == 4
    assert not re.search(r"(src|href)=.?https?:", page)
    main(args(here, command=command))
    assert len(study_of(here).trials) == 8
    assert "8 trials are there already" in capsys.readouterr().out
    main(args(here, command=command, trials=11, pattern=r"loss (\S+)"))
    assert len(study_of(here).trials) == 11


def test_callable_whose_failures_are_failed_trials(here):
    import mine

    mine.calls.clear()
    path = main(
        args(here, callable="mine:f", trials=25, direction="maximize", report=here / "out" / "r.html")
    )
    study = study_of(here)
    failed = [trial for trial in study.trials if trial.state.name == "FAIL"]
    assert len(mine.calls) == len(study.trials) == 25
    assert 0 < len(failed) == mine.calls.count(6)
    assert failed[0].user_attrs["error"] == "MemoryError: too deep"
    assert "MemoryError: too deep" in path.read_text()
    assert path == here / "out" / "r.html"


def test_callable_that_takes_the_trial(here):
    main(args(here, callable="mine:g", study="other"))
    assert all(
        trial.user_attrs["seen"] and "more" in trial.params for trial in study_of(here, "other").trials
    )


def test_two_workers_share_a_study(here):
    storage = f"sqlite:///{here / 'shared.db'}"
    both = [args(here, callable="mine:f", trials=12, storage=storage, seed=seed) for seed in (0, 1)]
    open_study(storage, "space", direction="minimize", space=SPACE, sampler=None)
    threads = [threading.Thread(target=main, args=(one,)) for one in both]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    study = optuna.load_study(study_name="space", storage=storage)
    assert 12 <= len(study.trials) <= 13
    assert all(trial.state.is_finished() for trial in study.trials)


def test_hopeless_command_is_given_up_and_names_its_error(here, capsys):
    command = f"""{sys.executable} -c "import sys; sys.exit('no GPU for {{lr}} {{layers}} {{kind}}')" """
    with pytest.raises(UserError, match=r"all 5 trials failed, .*; the last: .* ended with 1: no GPU"):
        main(args(here, command=command))
    assert len(study_of(here).trials) == 5
    assert not (here / "space.html").exists()


def test_toml(here):
    (here / "space.toml").write_text('lr = {type = "float", low = 0, high = 1}\n')
    assert read_space(here / "space.toml") == {"lr": {"type": "float", "low": 0, "high": 1}}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.json", None, "expected a file .*none.json, found none"),
        ("none.toml", None, "expected a file .*none.toml, found none"),
        ("a.json", '{"lr":', "expected JSON in .*a.json, got something that does not parse"),
        ("a.toml", "lr = {", "expected TOML in .*a.toml, got something that does not parse"),
        ("a.json", "[1]", "expected an object of parameters, got list"),
        ("a.yaml", "", "expected .json or .toml, got .*a.yaml"),
    ],
)
def test_bad_space_files(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        read_space(tmp_path / name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "expected --command or --callable, got neither"),
        ({"command": "echo {lr}", "callable": "mine:f"}, "expected --command or --callable, got both"),
        ({"command": "ecko {lr} {layers} {kind}"}, "command: expected a program that can be run, got 'ecko'"),
        (
            {"command": "echo {lrr} {layers} {kind}"},
            "unknown parameter in the command 'lrr': did you mean lr?",
        ),
        ({"command": "echo {lr} {kind}"}, "expected every parameter in braces, found no {layers}"),
        ({"command": ""}, "command: expected a program"),
        ({"command": "echo '{lr} {layers} {kind}"}, "command: expected words in matching quotes"),
        (
            {"command": "echo {lr} {layers} {kind}", "pattern": "("},
            "pattern: expected a regular expression, got '\\('",
        ),
        (
            {"command": "echo {lr} {layers} {kind}", "pattern": "a", "key": "b"},
            "expected a pattern or a key, got both",
        ),
        ({"callable": "mine:f", "key": "loss"}, "key: only a --command has one"),
        ({"callable": "mine"}, "callable: expected MODULE:FUNCTION, got 'mine'"),
        ({"callable": "none_such:f"}, "callable: cannot import none_such"),
        ({"callable": "mine:ff"}, "unknown function in mine 'ff'"),
        ({"callable": "mine:wrong"}, "mine:wrong does not take the search space's parameters: .*layers"),
        ({"callable": "mine:f", "trials": 0}, "trials: expected at least 1, got 0"),
        ({"callable": "mine:f", "jobs": 0}, "jobs: expected at least 1, got 0"),
        ({"callable": "mine:f", "weights": "axail"}, "unknown weights 'axail'"),
        ({"callable": "mine:f", "storage": "study.db"}, "storage: expected sqlite:///PATH, journal:PATH"),
        (
            {"callable": "mine:f", "storage": "sqlite:////no/such/x.db"},
            "storage: cannot open sqlite:////no/such/x.db",
        ),
    ],
)
def test_wrong_options_leave_nothing_behind(here, options, message):
    before = sorted(here.iterdir())
    with pytest.raises(UserError, match=message):
        main(args(here, **options))
    assert [path for path in sorted(here.iterdir()) if path.name != "__pycache__"] == before


def test_another_direction_or_space_leaves_the_study_as_it_is(here):
    main(args(here, callable="mine:f"))
    with pytest.raises(UserError, match="exists with direction minimize, got maximize"):
        main(args(here, callable="mine:f", direction="maximize", trials=20))
    (here / "space.json").write_text(json.dumps({**SPACE, "layers": {"type": "int", "low": 1, "high": 7}}))
    with pytest.raises(UserError, match="exists with search space"):
        main(args(here, callable="mine:f", trials=20))
    assert len(study_of(here).trials) == 8


def test_command_line(here, capsys):
    assert cli(["tune", "none.json", "--command", "echo {lr}"]) == 1
    assert capsys.readouterr().err == "factotum tune: error: expected a file none.json, found none\n"
    given = ["--callable", "mine:f", "--trials", "3", "--weights", "weights", "--storage", "journal:s.log"]
    assert cli(["tune", "space.json", *given]) == 0
    assert "report: space.html" in capsys.readouterr().out


class Trial:
    number = 7

    def suggest_float(self, name, low, high, step, log):
        return 0.25


def test_values_are_filled_in_and_read_without_a_shell(tmp_path):
    space = make_space({"lr": {"type": "float", "low": 0, "high": 1}})
    program = "import sys; print(sys.argv[1:]); print(len(sys.argv))"
    objective = command_objective(
        f'{sys.executable} -c "{program}" "a b" --lr={{lr}} $HOME;', space, pattern=r"\[.*\]"
    )
    with pytest.raises(UserError, match=re.escape("""it found "['a b', '--lr=0.25', '$HOME;']\"""")):
        objective(Trial())
    assert command_objective(f'{sys.executable} -c "{program}" {{lr}} {{trial}}', space)(Trial()) == 3


def test_slow_command_fails():
    space = make_space({"lr": {"type": "float", "low": 0, "high": 1}})
    objective = command_objective("sleep 10{lr}", space, timeout=0.05)
    with pytest.raises(UserError, match=r"took longer than 0.05 seconds"):
        objective(Trial())


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.5", 0.5),
        ("step 3: -1.5e-3\n", -0.0015),
        ("a=.5, b=7", 7.0),
        ("loss: inf", float("inf")),
        ("1 v2 x.3", 1.0),
        ("+3.", 3.0),
    ],
)
def test_last_number(text, value):
    assert read_number(text) == value


def test_what_is_not_there_is_named():
    with pytest.raises(UserError, match="expected a number in the command's output, got nothing"):
        read_number("\n")
    with pytest.raises(UserError, match="got 'done'"):
        read_number("no\ndone\n")
    with pytest.raises(UserError, match=r"expected a number 'loss' in the last JSON line, got \['acc'\]"):
        read_key('{"loss": 1}\n{"acc": 2}\n', "loss")
    with pytest.raises(UserError, match="expected a JSON object in a line"):
        read_key("loss 3\n", "loss")
    with pytest.raises(UserError, match="expected MODULE:FUNCTION"):
        callable_objective(":f", {})
