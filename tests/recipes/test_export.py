"""Files that run without this package, and say the same as the network."""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from factotum.cli import main as cli
from factotum.core.checks import UserError
from factotum.distill.config import mlp, net3, preset
from factotum.distill.model import PolicyNetwork
from factotum.distill.store import save_policy
from factotum.recipes import export
from factotum.recipes.export import Args, main
from factotum.recipes.export_check import (
    input_type,
    largest_difference,
    median_latencies,
    on_arrays,
    onnx_runner,
)

FORMATS = ["onnx", "torch"]

STRANGER = """
import json, sys
import numpy as np
folder, name = sys.argv[1:]
about = json.load(open(f"{folder}/{name}.json"))
given = np.load(f"{folder}/given.npy")
assert str(given.dtype) == about["input"]["type"]
if about["format"] == "onnx":
    import onnxruntime
    session = onnxruntime.InferenceSession(f"{folder}/{about['file']}")
    outputs = session.run([about["output"]["name"]], {about["input"]["name"]: given})[0]
    assert "torch" not in sys.modules
else:
    import torch
    outputs = torch.export.load(f"{folder}/{about['file']}").module()(torch.from_numpy(given)).detach().numpy()
assert "factotum" not in sys.modules
np.save(f"{folder}/outputs.npy", outputs)
"""
"""Someone who has ONNX Runtime or torch, and nothing of ours."""


def saved(folder, config):
    torch.manual_seed(0)
    network = PolicyNetwork(config)
    save_policy(network, folder / "run" / "policy")
    return network, folder / "run"


def given(network, count=5):
    generator, shape = np.random.default_rng(0), network.config.observation_shape
    kind = input_type(network)
    if kind == "float32":
        return generator.normal(size=(count, *shape)).astype(kind)
    return generator.integers(2 if kind == "bool" else 256, size=(count, *shape)).astype(kind)


def run_by_a_stranger(folder, name, observation_B):
    np.save(folder / "given.npy", observation_B)
    command = [sys.executable, "-I", "-c", STRANGER, str(folder), name]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert ran.returncode == 0, ran.stderr
    return np.load(folder / "outputs.npy")


def loaded(file):
    return onnx_runner(file) if file.suffix == ".onnx" else on_arrays(torch.export.load(file).module())


@pytest.mark.parametrize("format", FORMATS)
def test_a_stranger_gets_the_networks_outputs(tmp_path, format):
    network, run = saved(tmp_path, net3({"atari/Pong": 6}))
    (one,) = main(Args(run, format=format, repeats=3))
    assert one.file.parent == run / "export"
    observation = given(network)
    outputs = run_by_a_stranger(run / "export", one.file.name, observation)
    expected = network(torch.from_numpy(observation)).detach().numpy()
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-4)
    about = json.loads((run / "export" / f"{one.file.name}.json").read_text())
    assert about["task"] == "atari/Pong"
    assert about["input"] == {"name": "observation", "shape": ["batch", 4, 84, 84], "type": "uint8"}
    assert about["output"]["shape"] == ["batch", 6]
    assert about["parameters"] == 61_174
    assert about["action"] == "the index of the largest output"
    assert about["latency"]["exported_seconds"] > 0 < about["latency"]["eager_seconds"]


@pytest.mark.parametrize("format", FORMATS)
def test_every_task_gets_a_file_of_its_own_head(tmp_path, format):
    config = preset(
        "multitask-3", (10, 10, 10), {"minatar/breakout": 3, "minatar/asterix": 5}, outputs="logits"
    )
    network, run = saved(tmp_path, config)
    done = main(Args(run / "policy", format=format, out=tmp_path / "files", repeats=1))
    assert [one.file.stem for one in done] == ["policy-minatar-breakout", "policy-minatar-asterix"]
    observation = given(network)
    assert observation.dtype == bool
    for task, one in zip(network.tasks, done, strict=True):
        outputs = loaded(one.file)(observation)
        expected = network(torch.from_numpy(observation), task).detach().numpy()
        np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-4)
    whole, heads = (
        network.parameter_count,
        [sum(w.numel() for w in head.parameters()) for head in network.heads],
    )
    assert [one.parameters for one in done] == [whole - heads[1], whole - heads[0]]


def test_one_task_of_several_and_another_type_of_observations(tmp_path):
    _, run = saved(tmp_path, preset("multitask-3", (4,), {"a": 2, "b": 3}))
    (one,) = main(Args(run, format="torch", task="b", repeats=1))
    assert one.file.name == "policy-b.pt2"
    assert json.loads((run / "export" / "policy-b.pt2.json").read_text())["input"]["type"] == "float32"
    with pytest.raises(UserError, match="unknown task 'c'"):
        main(Args(run, format="torch", task="c"))
    _, pictures = saved(tmp_path / "pictures", preset("net3", (4, 10, 10), 3))
    main(Args(pictures, format="torch", input_type="float32", repeats=1))
    assert json.loads((pictures / "export" / "policy.pt2.json").read_text())["input"]["type"] == "float32"


def test_a_file_that_says_something_else_is_not_left_behind(tmp_path, monkeypatch):
    _, run = saved(tmp_path, mlp(4, (8,), 2))
    write = export._write

    def wrong(*given):
        right = write(*given)
        return lambda observation_B: right(observation_B) + (0.01 if len(observation_B) > 2 else 0)

    monkeypatch.setattr(export, "_write", wrong)
    with pytest.raises(
        UserError, match=r"within 0.0001 of the network's, got a difference of 0.01.* at batch 37"
    ):
        main(Args(run, format="torch", repeats=1))
    assert list((run / "export").iterdir()) == []
    (one,) = main(Args(run, format="torch", repeats=1, tolerance=0.1))
    assert one.difference == pytest.approx(0.01, rel=1e-3)


def test_outputs_of_another_shape_are_noticed():
    with pytest.raises(UserError, match=r"expected outputs of shape \(1, 3\), got \(1, 2\)"):
        largest_difference(lambda x: x[:, :2], lambda x: x, lambda count: np.zeros((count, 3)), 1.0)


def test_latencies_are_taken_in_turns():
    calls = []
    first, second = (lambda x, name=name: calls.append(name) or x for name in "ab")
    assert len(median_latencies((first, second), np.zeros((1, 1)), 4)) == 2
    assert "".join(calls[-8:]) == "abababab"


def test_the_command(tmp_path, capsys):
    _, run = saved(tmp_path, mlp(4, (8,), {"gym/CartPole-v1": 2}))
    assert cli(["export", str(run), "--format", "torch", "--repeats", "2"]) == 0
    printed = capsys.readouterr().out
    assert "gym/CartPole-v1" in printed
    assert "torch eager" in printed
    assert cli(["export", str(tmp_path / "nothing")]) == 1
    assert "expected a folder with a policy, found none" in capsys.readouterr().err


@pytest.mark.parametrize("change", [{"repeats": 0}, {"threads": 0}, {"tolerance": 0.0}])
def test_wrong_numbers_are_refused(tmp_path, change):
    with pytest.raises(UserError, match="expected repeats and threads from 1 on and a tolerance above 0"):
        main(Args(tmp_path, format="torch", **change))


def test_what_onnx_needs_is_asked_for_before_anything_is_read(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxscript" else find(name))
    with pytest.raises(UserError, match=r"onnxscript is not installed: run  pip install 'factotum\[onnx\]'"):
        main(Args(tmp_path))
