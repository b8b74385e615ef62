"""Every example of `examples/samplers` in its quick form, and every block of code in `docs/samplers.md`.

The longest: docs (two meta-trainings of two steps, two searches with their reports), then the residual network.
"""

import importlib.util
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
import tyro

from factotum.cli import main as command_line
from factotum.worlds.control import REPELLERS

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "samplers"
NAMES = ("random", "TPE", "RNNSampler")


def load(path):
    """A file as a module, beside its neighbours."""
    name = f"loaded_{path.stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(autouse=True)
def beside(monkeypatch):
    """Examples and benchmarks import what lies beside them, as when they are run."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    verbosity = optuna.logging.get_verbosity()
    yield
    optuna.logging.set_verbosity(verbosity)


def run_quickly(name, tmp_path, **changes):
    example = load(FOLDER / f"{name}.py")
    plot = tmp_path / "new" / f"{name}.png"
    result = example.main(replace(example.Args(quick=True, output=plot), **changes))
    picture = plot.read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 20_000, "an empty picture"
    return example, result


def assert_improving(curves, names, shape, sign=1):
    assert set(curves) == set(names)
    for rows in curves.values():
        assert rows.shape == shape
        assert np.isfinite(rows).all()
        assert (sign * np.diff(rows, axis=1) >= 0).all()


def test_repellers(tmp_path, capsys):
    _, curves = run_quickly("repellers", tmp_path)
    assert_improving(curves, NAMES, (2, 12))
    assert max(rows.max() for rows in curves.values()) <= -REPELLERS.minimum + 1e-6
    assert "best known: 14.36" in capsys.readouterr().out


def test_bandit(tmp_path):
    _, regrets = run_quickly("bandit", tmp_path)
    assert set(regrets) == {*NAMES, "GP-UCB, true kernel"}
    for rows in regrets.values():
        assert rows.shape == (3, 10)
        assert (rows > -0.05).all(), "a pull better than the best arm"
    assert regrets["GP-UCB, true kernel"].mean() < regrets["random"].mean()


def test_all_players_meet_the_same_bandits():
    bandit = load(FOLDER / "bandit.py")
    world = bandit.Bandit(2, 4)
    played = [bandit.play(world, lambda told, u=u: torch.full((2, 1), u), 5) for u in (0.2, 0.2, 0.7)]
    (one, _), (two, _), (other, _) = played
    assert torch.equal(one.noise_BT, two.noise_BT)
    assert torch.equal(one.best_B, other.best_B)


def test_experimental_design(tmp_path):
    example, curves = run_quickly("experimental_design", tmp_path)
    assert set(curves) == {*NAMES, "Sobol design"}
    best = example.best_possible()
    for rows in curves.values():
        assert rows.shape == (2, 12)
        assert (rows >= 0).all()
        assert (rows <= best).all()


def test_yield_of_a_reaction_without_time_heat_or_end():
    example = load(FOLDER / "experimental_design.py")
    inputs = {"temperature": 60, "acidity": 7.2, "equivalents": 1.5, "catalyst": 1.0, "solvent": "ethanol"}
    at = {minutes: example.true_yield({**inputs, "minutes": minutes}) for minutes in (1e-6, 60, 1e6)}
    assert at[1e-6] == pytest.approx(0, abs=1e-3)
    assert at[1e6] == pytest.approx(0, abs=1e-3)
    assert 10 < at[60] < 100


def test_tune_sklearn(tmp_path, capsys):
    _, results = run_quickly("tune_sklearn", tmp_path)
    assert set(results) == {("svm", "wine"), ("logistic", "wine")}
    for curves in results.values():
        assert_improving(curves, NAMES, (1, 8), sign=-1)
        assert all(rows.min() >= 0 and rows.max() <= 1 for rows in curves.values())
    ranks = re.findall(r"mean rank after all of the trials: .*", capsys.readouterr().out)
    assert sum(map(float, re.findall(r"\d\.\d\d", ranks[0]))) == pytest.approx(6, abs=0.02)


@pytest.mark.parametrize("name", ["svm", "forest", "logistic", "mlp"])
def test_every_corner_of_a_space_is_a_model(name):
    example = load(FOLDER / "tune_sklearn.py")
    x, y = example.load("digits", 60)
    assert len(x) == len(y) == 60
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    objective = example.make_objective(example.MODELS[name], x, y)
    study.optimize(objective, n_trials=4)
    assert all(0 <= trial.value < 1 for trial in study.trials)


def test_tune_residual_network(tmp_path):
    _, studies = run_quickly("tune_residual_network", tmp_path, workers=(2,))
    assert set(studies) == {(name, 2) for name in NAMES}
    for (study,) in studies.values():
        assert len(study.trials) == 4
        assert 0 <= study.best_value < 1


def test_a_training_that_blows_up_is_a_failed_trial_and_threads_do_not_change_a_training():
    example = load(FOLDER / "tune_residual_network.py")
    digits = example.Digits()
    params = {"momentum": 0.9, "weight_decay": 1e-4, "batch_size": 250, "width": 4, "blocks": 1}
    assert np.isnan(example.validation_error({**params, "learning_rate": 1e12}, 2, digits))
    calm = {**params, "learning_rate": 0.1}
    first = example.validation_error(calm, 1, digits)
    torch.rand(3)
    assert first == example.validation_error(calm, 1, digits)


def test_best_so_far_skips_failures_and_knows_the_direction():
    comparison = load(FOLDER / "comparison.py")
    for direction, expected in (("minimize", [np.inf, 3, 1, 1]), ("maximize", [-np.inf, 3, 3, 5])):
        study = optuna.create_study(direction=direction)
        study.optimize(lambda trial: [float("nan"), 3.0, 1.0, 5.0][trial.number], n_trials=4)
        assert comparison.best_so_far(study).tolist() == expected


def test_every_example_is_tested_and_in_the_docs():
    examples = {path.stem for path in FOLDER.glob("*.py")} - {"comparison"}
    source, text = Path(__file__).read_text(), DOCS.read_text()
    assert [name for name in examples if f'run_quickly("{name}"' not in source] == []
    assert [name for name in examples if f"python examples/samplers/{name}.py" not in text] == []


# -- docs/samplers.md

DOCS = ROOT / "docs" / "samplers.md"
FILE = re.compile(r"# (\w+\.(?:py|toml))\n")
TINY = [
    "--training.steps", "2", "--training.warmup-steps", "1", "--training.device", "cpu", "--held-out", "0",
    "--searches.functions", "2", "--searches.smallest", "4", "--model.budget", "6", "--model.width", "8",
]  # fmt: skip


def blocks():
    """(language, text) of each block of code."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", DOCS.read_text(), re.MULTILINE | re.DOTALL)


def test_every_block_in_the_docs_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    names: dict = {}
    for language, text in blocks():
        named = FILE.match(text)
        if named:
            Path(named[1]).write_text(text)
        elif language == "python":
            exec(compile(text, str(DOCS), "exec"), names)
        else:
            assert language == "", f"a block of {language} that no test reads"
            for line in text.splitlines():
                run_line(line)
    assert names["result"].nfev == 30
    assert (names["best_B"] < 0.5).all()
    assert len(names["study"].trials) == 16
    assert {path.name for path in tmp_path.glob("*.html")} == {"space.html", "shared.html"}
    assert "report: " in capsys.readouterr().out
    assert all((tmp_path / "runs" / name / "core" / "made_by.json").is_file() for name in ("broad", "paper"))


def run_line(line):
    words = shlex.split(line)
    if words[:2] == ["factotum", "meta-train"]:
        assert command_line([*words[1:], *TINY]) == 0
    elif words[0] == "factotum":
        assert command_line(words[1:]) == 0
    elif words[:2] == ["python", "benchmarks/samplers.py"]:
        # hours: only that its options exist
        function = getattr(load(ROOT / words[1]), words[2])
        tyro.extras.get_parser(function).parse_args(words[3:])
    else:
        assert "pip install" in line, f"no test knows how to run {line!r}"


def test_names_in_the_docs_exist():
    """Files and flags that the text names; symbols of the tables as they stand in the files."""
    text = DOCS.read_text()
    package = ROOT / "factotum"
    sources = "\n".join(path.read_text() for path in package.rglob("*.py"))
    named = re.findall(r"`((?:[\w/]+/)?\w+\.py)`", text)
    assert named
    for path in named:
        assert (package / path).is_file() or (ROOT / path).is_file(), path
    for module, symbol in re.findall(r"`((?:[a-z_]+/)?[a-z_]+)\.(?!py`)(\w+)`", text):
        files = [package / f"{module}.py", package / "samplers" / f"{module}.py"]
        found = [path for path in files if path.is_file()]
        if found:
            assert re.search(rf"\b{symbol}\b", found[0].read_text()), f"{module}.{symbol}"
    for flag in re.findall(r"`--(?:objective|searches)\.([\w-]+)", text):
        assert flag.replace("-", "_") in sources, flag
