"""The quickstart from end to end, small; run again, it only looks."""

import pytest

from factotum.core.checks import UserError
from factotum.core.files import read_json_lines
from factotum.recipes import quickstart
from factotum.recipes.quickstart import DEMONSTRATIONS, WEIGHTS, Args, main
from factotum.worlds.suites import registry


def test_plan_has_an_expert_and_references_for_every_task_of_at_least_five_families():
    tasks = [registry.task(name) for name in DEMONSTRATIONS]
    assert all(task.make_expert is not None for task in tasks)
    assert [task.name for task in tasks if task.random is None or task.expert is None] == []
    families = {name.split("/")[0] for name in DEMONSTRATIONS}
    assert families == {"babyai", "metaworld", "pixels", "gym", "box2d", "scenes", "digits"}
    kinds = {type(task.action_space).__name__ for task in tasks}
    assert kinds == {"Discrete", "Box", "Text"}
    assert all(any(name.startswith(pattern.rstrip("*")) for name in DEMONSTRATIONS) for pattern, _ in WEIGHTS)


def test_all_of_it_small_then_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(quickstart, "DEMONSTRATIONS", {"gym/CliffWalking": 4, "scenes/color": 12})
    monkeypatch.setattr(quickstart, "WEIGHTS", (("gym/*", 0.5),))
    args = Args(run=tmp_path / "run", data=tmp_path / "data", steps=101, episodes=2)
    main(args)
    played = {path.name: len(read_json_lines(path)) for path in (args.run / "evaluation").glob("*.jsonl")}
    assert played == {"gym__CliffWalking.jsonl": 8, "scenes__color.jsonl": 8}
    assert (args.run / "report.html").stat().st_size > 50_000
    assert "mean" in capsys.readouterr().out
    weights = (args.run / "checkpoints/step-00000101/model.safetensors").stat().st_mtime_ns
    main(args)
    assert (args.run / "checkpoints/step-00000101/model.safetensors").stat().st_mtime_ns == weights
    assert {
        path.name: len(read_json_lines(path)) for path in (args.run / "evaluation").glob("*.jsonl")
    } == played


def fail():
    raise RuntimeError("broken")


def test_failure_beside_is_named(tmp_path):
    with pytest.raises(UserError, match="its output is in"), quickstart.beside(fail, log=tmp_path / "log"):
        pass
    assert "broken" in (tmp_path / "log").read_text()
