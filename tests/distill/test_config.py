"""Parameter counts are the paper's, to the last one."""

import json
from dataclasses import replace

import pytest

from factotum.core.checks import UserError
from factotum.core.config import from_json_dict, to_json_dict
from factotum.distill import config as sizes
from factotum.distill.config import MINATAR, SIZES, PolicyConfig, minatar_net, preset
from factotum.distill.model import PolicyNetwork

ACTIONS = (18, 3, 4, 6, 9)
COUNTS = {
    sizes.dqn_teacher: (1_693_362, 1_685_667, 1_686_180, 1_687_206, 1_688_745),
    sizes.net1: (427_874, 424_019, 424_276, 424_790, 425_561),
    sizes.net2: (113_346, 111_411, 111_540, 111_798, 112_185),
    sizes.net3: (61_954, 60_979, 61_044, 61_174, 61_369),
}
"""The paper's for 18 actions, and what follows for fewer."""

TEN_GAMES = {
    "BeamRider": 9, "Breakout": 4, "Enduro": 9, "Freeway": 3, "MsPacman": 9, "Pong": 3, "Qbert": 6, "Riverraid": 18,
    "Seaquest": 18, "SpaceInvaders": 6,
}  # fmt: skip
"""Actions as the paper must have had them; Pong has 6 now."""


def count(config):
    return PolicyNetwork(config).parameter_count


@pytest.mark.parametrize(
    ("size", "actions", "expected"),
    [(size, *pair) for size, counts in COUNTS.items() for pair in zip(ACTIONS, counts, strict=True)],
)
def test_the_papers_networks_have_its_parameters(size, actions, expected):
    assert count(size(actions)) == expected


def test_the_papers_multitask_networks_have_its_parameters():
    three = {game: TEN_GAMES[game] for game in ("Freeway", "Pong", "Qbert")}
    assert count(sizes.multitask_3(three)) == 1_882_668
    assert count(sizes.multitask_3({**three, "Pong": 6})) == 1_883_055
    assert count(sizes.multitask_10(TEN_GAMES)) == 6_756_721
    assert count(sizes.multitask_10({**TEN_GAMES, "Pong": 6})) == 6_757_108


def test_layer_norm_adds_a_gain_and_a_bias_for_each_unit():
    units = 32 * 20 * 20 + 64 * 9 * 9 + 64 * 7 * 7 + 512
    assert count(sizes.pqn_teacher(18)) == 1_693_362 + 2 * units


@pytest.mark.parametrize("channels", [4, 6, 7, 10])
@pytest.mark.parametrize("actions", [3, 6])
def test_minatars_students_have_the_share_they_are_called_by(channels, actions):
    whole = count(sizes.minatar_teacher(channels, actions))
    shares = {share: 100 * count(minatar_net(share, channels, actions)) / whole for share in MINATAR}
    assert shares[100] == 100
    assert shares[25] == pytest.approx(25, abs=1)
    assert shares[7] == pytest.approx(6.7, abs=0.4)
    assert shares[4] == pytest.approx(4, abs=0.4)


def test_minatars_counts_are_as_documented():
    assert [count(minatar_net(share, 4, 6)) for share in MINATAR] == [132_566, 32_999, 8_833, 4_888]
    assert [count(minatar_net(share, 10, 6)) for share in MINATAR] == [133_430, 33_431, 9_049, 5_104]


@pytest.mark.parametrize("shape", [(4, 84, 84), (1, 36, 36), (7, 10, 10), (6,)])
def test_every_preset_is_a_network_for_every_kind_of_observation(shape):
    counts = {name: count(preset(name, shape, {"a": 6, "b": 3})) for name in SIZES}
    assert counts["net3"] < counts["net2"] < counts["net1"] < counts["teacher"] < counts["multitask-10"]
    assert counts["teacher"] < counts["pqn-teacher"]


def test_presets_pick_sizes_by_the_observation():
    assert preset("net1", (4, 84, 84), 6) == sizes.net1(6)
    assert preset("multitask-10", (4, 84, 84), TEN_GAMES) == sizes.multitask_10(TEN_GAMES)
    assert preset("net1", (7, 10, 10), 3) == minatar_net(25, 7, 3)
    assert preset("multitask-3", (10, 10, 10), {"a": 3, "b": 6}).head_hidden == (32,)
    mlp = preset("mlp-16-8", (4,), 2, outputs="logits")
    assert (mlp.hidden, mlp.convolutions, mlp.scale, mlp.outputs) == ((16, 8), (), 1.0, "logits")
    cnn = preset("cnn-8x1-4x3-16", (5, 7, 7), 3, outputs="logits")
    assert (cnn.convolutions, cnn.hidden, cnn.outputs) == (((8, 1, 1), (4, 3, 1)), (16,), "logits")
    assert count(cnn) == (5 * 8 + 8) + (8 * 4 * 9 + 4) + (4 * 25 * 16 + 16) + (16 * 3 + 3)
    assert preset("cnn-4x3", (5, 7, 7), 3).hidden == ()


def test_shares_hold_for_vectors_too():
    counts = {name: count(preset(name, (8,), 4)) for name in ("teacher", "net1", "net2", "net3")}
    shares = [round(100 * number / counts["teacher"]) for number in counts.values()]
    assert shares == [100, 26, 7, 4]


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("net4", (4, 84, 84), "unknown network for pictures 'net4': did you mean net"),
        ("mlp-64", (4, 84, 84), "unknown network for pictures 'mlp-64'"),
        ("mlp-x", (4,), "unknown network for vectors 'mlp-x'"),
        ("mlp-0", (4,), "hidden: expected widths from 1 on"),
        ("net1", (4, 4), r"expected shape \(F,\) or \(C, H, W\), got \(4, 4\)"),
        ("net1", (1, 2, 2), "convolutions: expected .* kernels within the picture"),
    ],
)
def test_presets_that_are_not_there_are_refused(name, shape, said):
    with pytest.raises(UserError, match=said):
        preset(name, shape, 2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"outputs": "actions"}, "unknown outputs 'actions'"),
        ({"actions": {}}, "actions: expected tasks with at least one action each"),
        ({"actions": {"a": 0}}, "actions: expected tasks"),
        ({"actions": {"a": 3}, "outputs": "gaussian"}, "expected even numbers"),
        ({"observation_shape": (84, 84)}, r"observation_shape: expected \(C, H, W\)"),
        ({"observation_shape": (4, 0, 84)}, "observation_shape"),
        ({"hidden": (64, 0)}, "hidden: expected widths from 1 on"),
        ({"head_hidden": (-1,)}, "hidden: expected widths"),
        ({"scale": 0.0}, "scale: expected a number above 0"),
        ({"convolutions": ((8, 3, 0),)}, "convolutions: expected channels, kernel and stride from 1 on"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change, said):
    with pytest.raises(UserError, match=said):
        replace(sizes.net3(6), **change)


def test_a_share_without_a_network_is_refused():
    with pytest.raises(UserError, match=r"share: expected one of \[100, 25, 7, 4\] per cent, got 50"):
        minatar_net(50, 4, 6)


@pytest.mark.parametrize("config", [sizes.multitask_3({"a": 3, "b": 4}), preset("mlp-64", (4,), 2)])
def test_configurations_survive_json(config):
    assert from_json_dict(PolicyConfig, json.loads(json.dumps(to_json_dict(config)))) == config
