"""Archives of Stable-Baselines3: every layout by hand, two that the library wrote; nothing is unpickled."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from factotum.core.checks import UserError
from factotum.distill.stable_baselines import read_stable_baselines
from factotum.distill.teacher import as_teacher
from tests.distill.sb3 import (
    Bomb,
    archive,
    box,
    bytes_picture,
    discrete,
    mlp,
    nature,
    serialized,
    tensors,
)

ARCHIVES = Path(__file__).parent / "archives"
X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
PICTURES = torch.randint(
    0, 256, (3, 4, 36, 36), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)


@pytest.mark.parametrize(("name", "kind"), [("dqn_cartpole", "q"), ("ppo_cartpole", "logits")])
def test_archives_that_the_library_wrote_give_its_own_outputs(name, kind):
    expected = json.loads((ARCHIVES / "expected.json").read_text())
    teacher = as_teacher(ARCHIVES / f"{name}.zip")
    assert (teacher.kind, teacher.actions) == (kind, 2)
    label = teacher.label(np.array(expected["observations"], np.float32))
    if kind == "logits":  # the library shows them normalised
        label = label - np.log(np.exp(label).sum(1, keepdims=True))
    np.testing.assert_allclose(label, expected["outputs"][name], rtol=1e-5, atol=1e-5)
    assert label.argmax(1).tolist() == expected["actions"][name]


def read(path, weights, observations, actions, options=None):
    return read_stable_baselines(archive(path / "model.zip", weights, observations, actions, options))


def check(policy, kind, actions, given, expected):
    assert (policy.kind, policy.actions) == (kind, actions)
    torch.testing.assert_close(policy.network(given), expected)
    assert not any(parameter.requires_grad for parameter in policy.network.parameters())


def test_dqn_on_vectors(tmp_path):
    net = mlp(4, 16, 8, 3)
    weights = tensors(q_net__q_net=net, q_net_target__q_net=mlp(4, 16, 8, 3))
    policy = read(tmp_path, weights, box((4,)), discrete(3))
    check(policy, "q", 3, X, net(X))
    assert policy.observation_shape == (4,)


def test_dqn_on_pictures_divides_by_255(tmp_path):
    features, head = nature(), nn.Linear(32, 3)
    weights = tensors(q_net__features_extractor=features, q_net__q_net__0=head)
    policy = read(tmp_path, weights, bytes_picture((4, 36, 36)), discrete(3))
    check(policy, "q", 3, PICTURES, head(features["linear"](features["cnn"](PICTURES / 255))))
    raw = read(tmp_path, weights, bytes_picture((4, 36, 36)), discrete(3), {"normalize_images": False})
    check(raw, "q", 3, PICTURES, head(features["linear"](features["cnn"](PICTURES.float()))))


def test_qr_dqn_gives_the_mean_of_its_quantiles(tmp_path):
    net = mlp(4, 16, 10 * 3)
    policy = read(tmp_path, tensors(quantile_net__quantile_net=net), box((4,)), discrete(3))
    check(policy, "q", 3, X, net(X).view(-1, 10, 3).mean(1))


@pytest.mark.parametrize(
    ("options", "activation"),
    [
        (None, nn.Tanh),
        ({"activation_fn": "<class 'torch.nn.modules.activation.ReLU'>", "net_arch": [8]}, nn.ReLU),
        ({"activation_fn": "<class 'torch.nn.modules.activation.ELU'>"}, nn.ELU),
    ],
)
def test_actor_critics_have_the_activation_they_were_made_with(tmp_path, options, activation):
    net, head = mlp(4, 16, 8, activation=activation, last=False), nn.Linear(8, 2)
    weights = tensors(
        mlp_extractor__policy_net=net,
        mlp_extractor__value_net=mlp(4, 8, last=False),
        action_net=head,
        value_net=nn.Linear(8, 1),
    )
    check(read(tmp_path, weights, box((4,)), discrete(2), options), "logits", 2, X, head(net(X)))


def test_layers_that_older_versions_shared(tmp_path):
    shared, net, head = mlp(4, 16, last=False, activation=nn.Tanh), mlp(16, 8, last=False), nn.Linear(8, 2)
    net = nn.Sequential(net[0], nn.Tanh())
    weights = tensors(mlp_extractor__shared_net=shared, mlp_extractor__policy_net=net, action_net=head)
    check(read(tmp_path, weights, box((4,)), discrete(2)), "logits", 2, X, head(net(shared(X))))


def test_an_actor_critic_on_pictures_uses_the_policys_own_features(tmp_path):
    policy_features, value_features, head = nature(), nature(), nn.Linear(32, 6)
    weights = tensors(
        features_extractor=value_features,
        pi_features_extractor=policy_features,
        vf_features_extractor=value_features,
        action_net=head,
        value_net=nn.Linear(32, 1),
    )
    policy = read(tmp_path, weights, bytes_picture((4, 36, 36)), discrete(6))
    expected = head(policy_features["linear"](policy_features["cnn"](PICTURES / 255)))
    check(policy, "logits", 6, PICTURES, expected)


def test_a_gaussian_actor_critic(tmp_path):
    net, head, log_std = mlp(4, 8, last=False, activation=nn.Tanh), nn.Linear(8, 2), torch.tensor([-1.0, 0.5])
    weights = {"log_std": log_std, **tensors(mlp_extractor__policy_net=net, action_net=head)}
    expected = torch.cat([head(net(X)), log_std.expand(5, 2)], 1)
    check(read(tmp_path, weights, box((4,)), box((2,))), "gaussian", 4, X, expected)


def test_gsde_gives_its_deterministic_action(tmp_path):
    net, head = mlp(4, 8, last=False, activation=nn.Tanh), nn.Linear(8, 1)
    weights = {"log_std": torch.zeros(8, 1), **tensors(mlp_extractor__policy_net=net, action_net=head)}
    check(read(tmp_path, weights, box((4,)), box((1,))), "continuous", 1, X, head(net(X)))
    squashed = read(tmp_path, weights, box((4,)), box((1,), -2.0, 4.0), {"squash_output": True})
    check(squashed, "continuous", 1, X, 1 + 3 * torch.tanh(head(net(X))))


def test_sac_and_td3_give_actions_within_their_bounds(tmp_path):
    actions = box((2,)) | {"low": "[-2.  -1.e+01]", "high": "[2.   3.0]"}
    low, high = torch.tensor([-2.0, -10.0]), torch.tensor([2.0, 3.0])

    def unscaled(outputs):
        return low + (torch.tanh(outputs) + 1) / 2 * (high - low)

    net, mean = mlp(4, 16, 8, last=False), nn.Linear(8, 2)
    critic = tensors(critic__qf0=mlp(6, 8, 1), critic_target__qf0=mlp(6, 8, 1))
    sac = tensors(actor__latent_pi=net, actor__mu=mean, actor__log_std=nn.Linear(8, 2)) | critic
    check(read(tmp_path, sac, box((4,)), actions), "continuous", 2, X, unscaled(mean(net(X))))
    actor = mlp(4, 16, 2)
    td3 = tensors(actor__mu=actor, actor_target__mu=mlp(4, 16, 2)) | critic
    check(read(tmp_path, td3, box((4,)), actions), "continuous", 2, X, unscaled(actor(X)))


def test_nothing_is_unpickled(tmp_path):
    bomb = tmp_path / "exploded"
    net = mlp(4, 3)
    observations = box((4,)) | {":serialized:": serialized({}, pickle.dumps(Bomb(bomb)))[":serialized:"]}
    read(tmp_path, tensors(q_net__q_net=net), observations, discrete(3))
    with pytest.raises(UserError, match=r"model\.zip: expected JSON and plain tensors"):
        read(tmp_path, {"q_net.q_net.0.weight": Bomb(bomb)}, box((4,)), discrete(3))
    assert not bomb.exists()
    pickle.loads(pickle.dumps(Bomb(bomb))).close()
    assert bomb.exists(), "the bomb would have gone off"


Q = tensors(q_net__q_net=mlp(4, 8, 3))
PPO = tensors(mlp_extractor__policy_net=mlp(4, 8, last=False), action_net=nn.Linear(8, 3))


@pytest.mark.parametrize(
    ("weights", "observations", "actions", "options", "said"),
    [
        (Q, box((4,)), discrete(2), None, "expected outputs for 2 actions, got 3"),
        (Q, box((4,)), discrete(3, start=1), None, "expected actions in a Discrete from 0 on or a Box of one axis"),
        (Q, discrete(500), discrete(3), None, "expected observations in a Box, got .*Discrete"),
        (PPO, box((4,)), serialized({}), None, "expected actions in a Discrete"),
        (PPO, box((4,)), box((3, 2)), None, "expected actions in a Discrete"),
        (PPO, box((4,)), discrete(3), {"activation_fn": "<class 'mine.Snake'>"}, "unknown activation .*Snake"),
        (PPO | {"lstm_actor.bias_hh_l0": X}, box((4,)), discrete(3), None, "got tensors besides: lstm_actor.bias"),
        (PPO | tensors(features_extractor=mlp(4, 4)), box((4,)), discrete(3), None, "features extractor NatureCNN on"),
        ({"net.weight": X}, box((4,)), discrete(3), None, "expected a policy of DQN, .* got tensors .'net.weight'."),
        ({"q_net.q_net.x": X}, box((4,)), discrete(3), None, "expected tensors q_net.q_net.0.weight and so on"),
        ({"q_net.q_net.0.weight": X}, box((4,)), discrete(3), None, "expected a tensor q_net.q_net.0.bias, found none"),
        (Q | {"q_net.q_net.0.weight": X[0]}, box((4,)), discrete(3), None, "expected a layer, got weights"),
        (tensors(actor__latent_pi=mlp(4, 8), actor__mu=mlp(8, 1)), box((4,)), box((1,)), None, "SAC without gSDE"),
    ],
)  # fmt: skip
def test_layouts_that_are_not_known_are_refused(tmp_path, weights, observations, actions, options, said):
    with pytest.raises(UserError, match=rf"model\.zip: .*{said}"):
        read(tmp_path, weights, observations, actions, options)


def test_other_kernels_and_extractors_are_refused(tmp_path):
    features, head = nature(), nn.Linear(32, 3)
    weights = tensors(q_net__features_extractor=features, q_net__q_net__0=head)
    other = weights | {"q_net.features_extractor.cnn.0.weight": torch.zeros(32, 4, 5, 5)}
    with pytest.raises(UserError, match=r"expected a kernel of 8 x 8, got .5, 5."):
        read(tmp_path, other, bytes_picture((4, 36, 36)), discrete(3))
    with pytest.raises(UserError, match=r"expected the features extractor NatureCNN on pictures, got .*Mine"):
        read(
            tmp_path, weights, bytes_picture((4, 36, 36)), discrete(3),
            {"features_extractor_class": "<class 'Mine'>"},
        )  # fmt: skip


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"weights_bytes": b"not a file of torch"}, "expected JSON and plain tensors"),
        ({"weights_bytes": b""}, "expected JSON and plain tensors"),
        ({"data": "{"}, "expected JSON and plain tensors"),
        ({"data": "[1]"}, "expected JSON with keys and tensors with names"),
        ({"data": "{}"}, "data: expected a key 'policy_kwargs' with fields, got NoneType"),
    ],
)
def test_broken_archives_are_refused(tmp_path, broken, said):
    with pytest.raises(UserError, match=said):
        read_stable_baselines(archive(tmp_path / "model.zip", Q, box((4,)), discrete(3), **broken))


def test_other_files_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"expected an archive .*, found none"):
        read_stable_baselines(tmp_path / "nothing.zip")
    (tmp_path / "text.zip").write_text("hello")
    with pytest.raises(UserError, match=r"text\.zip: expected a Stable-Baselines3 archive"):
        read_stable_baselines(tmp_path / "text.zip")
    with pytest.raises(UserError, match=r"expected JSON with keys and tensors with names"):
        read_stable_baselines(archive(tmp_path / "list.zip", [1, 2], box((4,)), discrete(3)))


def test_observations_of_another_shape_are_refused():
    with pytest.raises(UserError, match=r"dqn_cartpole\.zip: expected observations of shape \(B, 4,\)"):
        as_teacher(ARCHIVES / "dqn_cartpole.zip").label(np.zeros((2, 5), np.float32))
