from __future__ import annotations

import json

import pytest

from factotum import cli
from factotum.recipes.tasks import Args, list_tasks, main
from factotum.worlds.suites import registry


def test_suites_are_listed_with_their_experts(capsys):
    main(Args())
    out = capsys.readouterr().out
    for name, suite in registry.suites().items():
        line = next(line for line in out.splitlines() if line.split()[:1] == [name])
        assert line.split()[1] == str(len(suite.names))
    assert "captions:FOLDER" in out


def test_tasks_of_a_pattern_are_listed_with_references(capsys):
    entries = main(Args(("gym/FrozenLake*", "babyai/GoToLocal"), sources=True))
    out = capsys.readouterr().out
    assert [entry["task"] for entry in entries] == registry.expand(["gym/FrozenLake*", "babyai/GoToLocal"])
    for entry in entries:
        line = next(line for line in out.splitlines() if line.split()[:1] == [entry["task"]])
        assert f"{entry['expert']['score']:,.4g}" in line
        assert entry["expert"]["source"].split(",")[0] in out


def test_json_is_json_of_everything(capsys):
    assert cli.main(["tasks", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert len(entries) == sum(len(suite.names) for suite in registry.suites().values())
    assert set(entries[0]) >= {
        "task",
        "instruction",
        "observations",
        "actions",
        "random",
        "expert",
        "install",
    }


def test_filters():
    every = list_tasks(["atari"])
    with_expert = list_tasks(["atari"], expert=True)
    assert len(every) == 57
    assert [entry for entry in every if entry["has_expert"]] == with_expert
    assert len(with_expert) < 57


def test_what_is_missing_is_said_with_the_exact_command(monkeypatch, capsys):
    monkeypatch.setattr("factotum.worlds.suites.task.find_spec", lambda module: None)
    main(Args())
    main(Args(("babyai/GoToLocal",)))
    assert capsys.readouterr().out.count("pip install 'factotum[babyai]'") >= 2
    assert list_tasks(["babyai"], installed=True) == []


@pytest.mark.parametrize("words", [["gym/Taxy"], ["nothing"]])
def test_unknown_patterns_are_one_line(words, capsys):
    assert cli.main(["tasks", *words]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
