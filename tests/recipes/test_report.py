from __future__ import annotations

import shutil

import pytest

from factotum import cli
from factotum.core.checks import UserError
from factotum.recipes import evaluate
from factotum.recipes.report import Args, main
from tests.recipes.runs import data_folder, tiny_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "tiny"
    shutil.copytree(tiny_run(), folder)
    for agent in ("retrieve", str(folder)):
        evaluate.main(
            evaluate.Args(
                agent, ("gym/FrozenLakeFirm", "scenes/color"), episodes=2, data=data_folder(), out=folder
            )
        )
    return folder


def test_a_run_becomes_one_file(run, capsys):
    path = main(Args(run))
    text = path.read_text()
    assert path == run / "report.html"
    assert f"report: {path}" in capsys.readouterr().out
    assert "http" not in text
    for words in (
        "gym/FrozenLakeFirm",
        "scenes/color",
        "retrieve",
        "gato",
        "Learning curves",
        "learning_rate",
    ):
        assert words in text, words
    assert text.count("<figure>") == 2


def test_a_run_that_was_not_evaluated_has_a_report_too(tmp_path):
    path = main(Args(tiny_run(), out=tmp_path / "r.html", title="A <title>"))
    assert "Not evaluated yet" in path.read_text()
    assert "<h1>A &lt;title&gt;</h1>" in path.read_text()


def test_the_agent_can_be_chosen(run, tmp_path):
    assert "agent: retrieve" not in main(Args(run, out=tmp_path / "a.html")).read_text()
    with pytest.raises(UserError, match="agent: expected one that was evaluated"):
        main(Args(run, agent="nobody"))


def test_mistakes_are_one_line(tmp_path, capsys):
    assert cli.main(["report", str(tmp_path / "absent")]) == 1
    assert cli.main(["report", str(tmp_path)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "expected the folder of a run" in lines[0]
    assert "nothing to report" in lines[1]
