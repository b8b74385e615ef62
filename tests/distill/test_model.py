"""One step: scale, heads, padding, and what is refused."""

from dataclasses import replace

import pytest
import torch

from factotum.core.checks import UserError
from factotum.distill.config import mlp, net3, pqn_teacher, preset
from factotum.distill.model import LEAST_VARIANCE, PolicyNetwork, Standardise


def pictures(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_bytes_are_scaled_to_one():
    network = PolicyNetwork(net3(6))
    given = pictures(2, 4, 84, 84)
    by_hand = network.heads[0](network.features(given.float() / 255))
    torch.testing.assert_close(network(given), by_hand)
    assert torch.equal(network(given), network(given.float())), "the type of observations does not matter"


def test_layers_by_hand():
    network = PolicyNetwork(mlp(3, (5,), {"a": 2, "b": 4}, head_hidden=(6,)))
    x = torch.randn(7, 3)
    first, head = network.features[0], network.heads[1]
    hidden = torch.relu(x @ first.weight.T + first.bias)
    hidden = torch.relu(hidden @ head[0].weight.T + head[0].bias)
    torch.testing.assert_close(network(x, "b"), hidden @ head[2].weight.T + head[2].bias)


def test_what_was_seen_in_training_is_standardised_and_only_that_counts():
    network = PolicyNetwork(mlp(3, (5,), 2, standardise=True))
    plain = PolicyNetwork(mlp(3, (5,), 2))
    plain.load_state_dict(
        {name.replace("features.1", "features.0"): value for name, value in network.named_parameters()}
    )
    seen = torch.randn(60, 3) * torch.tensor([0.1, 5.0, 0.0]) + torch.tensor([3.0, -2.0, 7.0])
    for part in seen.split([10, 1, 49]):
        network(part)
    given = torch.randn(4, 3) * torch.tensor([0.1, 5.0, 0.01]) + torch.tensor([3.0, -2.0, 7.0])
    given[0, 0], given[1, 2] = -9.0, 9.0  # cut to 5 deviations
    by_hand = (given - seen.mean(0)) / (seen.var(0, unbiased=False) + LEAST_VARIANCE).sqrt()
    assert by_hand[0, 0] < -5
    assert by_hand[1, 2] > 5
    by_hand = by_hand.clamp(-5, 5)
    network.eval()
    for _ in range(2):  # the first call leaves no trace
        torch.testing.assert_close(network(given), plain(by_hand), rtol=1e-3, atol=1e-3)
    assert network.parameter_count == plain.parameter_count


def test_statistics_take_no_part_in_learning():
    layer = Standardise(2)
    x = torch.randn(5, 2, requires_grad=True)
    layer(x).sum().backward()
    deviation = (x.detach().var(0, unbiased=False) + LEAST_VARIANCE).sqrt()
    torch.testing.assert_close(x.grad, (1 / deviation).expand(5, 2))


def test_pictures_are_not_standardised():
    with pytest.raises(UserError, match="standardise: expected vectors, got observations"):
        replace(net3(6), standardise=True)


def test_a_task_trains_what_is_shared_and_its_own_head_alone():
    network = PolicyNetwork(mlp(3, (5,), {"a": 2, "b": 4}, head_hidden=(6,)))
    network(torch.randn(7, 3), "b").sum().backward()
    assert all(parameter.grad is None for parameter in network.heads[0].parameters())
    assert all(parameter.grad is not None for parameter in network.heads[1].parameters())
    assert all(parameter.grad is not None for parameter in network.features.parameters())


def test_games_with_fewer_channels_are_padded_by_zeros():
    network = PolicyNetwork(preset("multitask-3", (10, 10, 10), {"breakout": 3, "seaquest": 6}))
    breakout = torch.rand(2, 4, 10, 10) > 0.5
    padded = torch.cat([breakout, torch.zeros(2, 6, 10, 10, dtype=torch.bool)], 1)
    assert torch.equal(network(breakout, "breakout"), network(padded, "breakout"))


def test_layer_norm_makes_the_scale_of_a_layer_irrelevant():
    network = PolicyNetwork(replace(pqn_teacher(6), hidden=(32,)))
    given = pictures(2, 4, 84, 84)
    before = network(given)
    with torch.no_grad():
        network.features[0].weight *= 7
        network.features[0].bias *= 7
    torch.testing.assert_close(network(given), before, rtol=1e-3, atol=1e-3)


def test_weights_are_drawn_from_torchs_generator_and_orthogonal():
    made = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        made.append(PolicyNetwork(mlp(8, (8,), 3)))
    weights = [network.features[0].weight for network in made]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    torch.testing.assert_close(weights[0] @ weights[0].T, 2 * torch.eye(8))
    head = made[0].heads[0][-1]
    torch.testing.assert_close(head.weight @ head.weight.T, torch.eye(3))
    assert not head.bias.any()


@pytest.mark.parametrize(
    ("shape", "task", "said"),
    [
        ((2, 4), None, "task: expected one of a, b, got none"),
        ((2, 4), "c", "unknown task 'c'"),
        ((2, 5), "a", r"observations: expected shape \(B, 4,\), got \(2, 5\)"),
        ((4,), "a", "observations: expected shape"),
    ],
)
def test_wrong_observations_and_tasks_are_refused(shape, task, said):
    with pytest.raises(UserError, match=said):
        PolicyNetwork(mlp(4, (8,), {"a": 2, "b": 3}))(torch.zeros(shape), task)


@pytest.mark.parametrize("tasks", [{"a": 3}, {"a": 3, "b": 3}])
@pytest.mark.parametrize("shape", [(2, 11, 10, 10), (2, 4, 10, 9), (2, 10, 10)])
def test_pictures_of_other_sizes_are_refused(tasks, shape):
    network = PolicyNetwork(preset("net1", (10, 10, 10), tasks))
    with pytest.raises(UserError, match=r"expected shape \(B, 10, 10, 10\)"):
        network(torch.zeros(shape), "a")


def test_a_network_of_one_task_pads_nothing():
    network = PolicyNetwork(preset("net1", (10, 10, 10), {"a": 3}))
    with pytest.raises(UserError, match="observations"):
        network(torch.zeros(2, 4, 10, 10))
