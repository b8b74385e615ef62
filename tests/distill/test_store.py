"""A policy on disk comes back as it was, or not at all."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from factotum.core.checks import UserError
from factotum.distill.config import mlp, multitask_3, net3
from factotum.distill.model import PolicyNetwork
from factotum.distill.store import find_policy, load_policy, save_policy


def network(config=None):
    torch.manual_seed(0)
    return PolicyNetwork(
        config or mlp(4, (8,), {"a": 2, "b": 3}, head_hidden=(5,), layer_norm=True, outputs="logits")
    )


def saved(folder, **options):
    model = network()
    save_policy(model, folder, **options)
    return model


def same(left, right):
    pairs = zip(left.state_dict().items(), right.state_dict().items(), strict=True)
    return all(one[0] == other[0] and torch.equal(one[1], other[1]) for one, other in pairs)


def test_configuration_and_every_bit_of_the_weights_come_back(tmp_path):
    model = saved(tmp_path / "policy")
    back = load_policy(tmp_path / "policy")
    assert back.config == model.config
    assert same(back, model)
    assert not back.training


def test_half_precision_is_half_the_size_and_read_as_single(tmp_path):
    model = network(net3(6))
    save_policy(model, tmp_path / "whole")
    save_policy(model, tmp_path / "half", half=True)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("half", "whole")]
    assert sizes[0] == pytest.approx(sizes[1] / 2, rel=0.02)
    back = load_policy(tmp_path / "half")
    assert all(weight.dtype == torch.float32 for weight in back.state_dict().values())
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(back.state_dict()[name], weight, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("half", [False, True])
def test_statistics_of_observations_come_back_bit_by_bit(tmp_path, half):
    network = PolicyNetwork(mlp(2, (4,), 2, standardise=True))
    network(1e-3 * torch.randn(100_000, 2) + 0.61)
    save_policy(network, tmp_path, half=half)
    found, own = load_policy(tmp_path).features[0], network.features[0]
    assert torch.equal(found.mean, own.mean)
    assert torch.equal(found.variance, own.variance)
    assert int(found.seen) == 100_000


def test_settings_of_networks_without_them_stay_what_they_were(tmp_path):
    save_policy(PolicyNetwork(mlp(2, (4,), 2)), tmp_path)
    assert "standardise" not in json.loads((tmp_path / "config.json").read_text())["config"]


def test_a_run_leads_to_its_policy(tmp_path):
    model = saved(tmp_path / "run" / "policy")
    assert find_policy(tmp_path / "run") == tmp_path / "run" / "policy"
    assert find_policy(tmp_path / "run" / "policy") == tmp_path / "run" / "policy"
    assert find_policy(tmp_path) is None
    assert same(load_policy(str(tmp_path / "run")), model)


def test_the_card_tells_what_it_is_and_what_was_measured(tmp_path):
    made_by = {"command": "factotum distill --student net3", "score": 20.5, "teachers": ["x"]}
    save_policy(
        network(multitask_3({"Pong": 6, "Qbert": 6})), tmp_path, made_by, half=True, card="## Scores\n\n| 1 |"
    )
    card = (tmp_path / "README.md").read_text()
    for said in (
        "# Policy for Pong, Qbert",
        "| parameters | 1,8",
        "half precision |",
        "| tasks (outputs) | Pong (6), Qbert (6) |",
        "| command | factotum distill --student net3 |",
        "| score | 20.5 |",
        "## Scores\n\n| 1 |",
        "load_policy(FOLDER)",
    ):
        assert said in card
    assert json.loads((tmp_path / "made_by.json").read_text()) == made_by


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    model = network()
    with torch.no_grad():
        model.heads[0][-1].bias[0] = 1e6
    save_policy(model, tmp_path / "whole")
    with pytest.raises(
        UserError, match=r"expected weights that are finite in torch.float16, got others in heads\.0"
    ):
        save_policy(model, tmp_path / "half", half=True)
    assert not (tmp_path / "half").exists()


def spoil_config(folder, **change):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))


def spoil_weights(folder, name, weight):
    path = folder / "model.safetensors"
    weights = load_file(path)
    save_file({key: value for key, value in {**weights, name: weight}.items() if value is not None}, path)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            lambda f: spoil_config(f, format_version=9),
            "expected weights of system 'distill', version 1, got 'distill'",
        ),
        (lambda f: spoil_config(f, system="gato"), "got 'gato'"),
        (lambda f: spoil_config(f, config={"actions": {"a": 2}}), "missing keys .'observation_shape'."),
        (lambda f: (f / "config.json").write_text("{"), "expected JSON in"),
        (lambda f: (f / "config.json").unlink(), "expected a file"),
        (lambda f: (f / "model.safetensors").unlink(), "expected weights in .* found no such file"),
        (lambda f: (f / "model.safetensors").write_bytes(b"torn"), "a file that does not parse"),
        (
            lambda f: spoil_weights(f, "heads.0.0.bias", None),
            "weights do not fit: missing .'heads.0.0.bias'.",
        ),
        (lambda f: spoil_weights(f, "more", torch.ones(1)), "unknown .'more'."),
        (lambda f: spoil_weights(f, "heads.0.0.bias", torch.ones(4)), "other shapes .'heads.0.0.bias'."),
        (
            lambda f: spoil_weights(f, "heads.0.0.bias", torch.full((5,), torch.nan)),
            "expected finite weights",
        ),
    ],
)
def test_spoilt_folders_are_refused(tmp_path, spoil, said):
    saved(tmp_path / "policy")
    spoil(tmp_path / "policy")
    with pytest.raises(UserError, match=said):
        load_policy(tmp_path / "policy")


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"expected a folder with a policy, found none at .*nothing"):
        load_policy(tmp_path / "nothing")
