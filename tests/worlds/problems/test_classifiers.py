"""Classifiers: the loss against torch's own, unbiased minibatches, starts and what can be learnt."""

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, linear

from factotum.worlds.problems import Instances, find, noisy_parities, small_networks, softmax_regression
from factotum.worlds.problems.classifiers import NoisyParity, SmallNetwork, SoftmaxRegression


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def slow_loss(problem, parameters, inputs, labels):
    """Of one copy, through torch's layers."""
    h = inputs
    pairs = list(zip(parameters[::2], parameters[1::2], strict=True))
    for weight, bias in pairs[:-1]:
        h = linear(h, weight.T, bias).sigmoid()
    logits = linear(h, pairs[-1][0].T, pairs[-1][1])
    penalty = 1e-3 * sum(p.square().sum() for p in parameters) / len(parameters)
    return binary_cross_entropy_with_logits(logits[:, 0], labels) + penalty


@pytest.mark.parametrize(
    "name", ["softmax-10", "softmax-200-noise-0.1", "mlp-12-8-5-3", "mlp-9-8", "mlp-5-4-4-4-4"]
)
def test_the_loss_is_torch_s(name):
    problem = find(name)
    instances = problem.draw(3, seeded(), torch.float64)
    parameters = instances.initial(seeded(1))
    expected = torch.stack([
        slow_loss(problem, [p[b] for p in parameters], instances.data["input"][b], instances.data["label"][b])
        for b in range(3)
    ])  # fmt: skip
    torch.testing.assert_close(instances.loss(parameters), expected)


def test_starts_are_scaled_by_the_rows():
    for problem in (SoftmaxRegression(100, 1.0, 50), SmallNetwork(8, (32, 64), 10)):
        for part, shape in zip(problem.draw(50, seeded()).initial(seeded(1)), problem.shapes, strict=True):
            assert part.std().item() == pytest.approx(1.2 / shape[0] ** 0.5, rel=0.2)


def repeated(problem, copies):
    """Many copies of one and the same draw."""
    one = problem.draw(1, seeded(), torch.float64)
    start = one.initial(seeded(1))
    tensors = {name: tensor.expand(copies, *tensor.shape[1:]) for name, tensor in one.tensors().items()}
    return Instances(problem, tensors), [part.expand(copies, *part.shape[1:]) for part in start]


@pytest.mark.parametrize(
    "name",
    ["softmax-10", "mlp-8-8-5", "mlp-5-4-4-4-4", "outward-snake-12-batch-10", "sum-of-quadratics-12-batch-10",
     "projection-quadratic-12-batch-16"],
)  # fmt: skip
def test_minibatches_differ_and_their_gradients_are_unbiased(name):
    copies = 2000
    instances, at = repeated(find(name), copies)
    at = [p.clone().requires_grad_() for p in at]
    exact = torch.autograd.grad(instances.loss(at).sum(), at)
    for sampled, whole in zip(instances.gradient(at, seeded(2)), exact, strict=True):
        error = sampled.std(0) / copies**0.5
        assert (sampled.std(0) > 0).any()
        assert ((sampled.mean(0) - whole[0]).abs() <= 5 * error + 1e-12).all()


@pytest.mark.parametrize("problem", [p for p in softmax_regression() if p.noise[0]], ids=lambda p: p.name)
def test_noise_comes_on_top_of_the_minibatch(problem):
    instances = problem.draw(4, seeded())
    twin = find(problem.name.partition("-noise")[0]).restore(instances.tensors())
    start = instances.initial(seeded(1))
    noise = torch.cat([
        (with_noise - without).flatten() for _ in range(20 if problem.size < 100 else 3)
        for with_noise, without in zip(
            instances.gradient(start, seeded(_)), twin.gradient(start, seeded(_)), strict=True)
    ])  # fmt: skip
    assert noise.std().item() == pytest.approx(problem.noise[0], rel=0.1)


def test_the_two_noisy_parities_are_one_function():
    by_index, one_hot = noisy_parities()
    instances = by_index.draw(4, seeded(), torch.float64)
    twin = one_hot.restore(instances.tensors())
    start = instances.initial(seeded(1))
    torch.testing.assert_close(instances.loss(start), twin.loss(start))
    torch.testing.assert_close(instances.gradient(start, seeded()), twin.gradient(start, seeded()))
    table, weight, bias = (part[0] for part in start)
    embedded = table[instances.data["input"][0]].sum(1)
    expected = slow_loss(NoisyParity(), [weight, bias], embedded, instances.data["label"][0])
    expected += 1e-3 * (
        sum(p[0].square().sum() for p in start) / 3 - (weight.square().sum() + bias.square().sum()) / 2
    )
    torch.testing.assert_close(instances.loss(start)[0], expected)


@pytest.mark.parametrize("name", ["softmax-10", "mlp-8-32-64"])
def test_plain_descent_learns_the_labels(name):
    instances = find(name).draw(8, seeded())
    parameters = instances.initial(seeded(1))
    first, generator = instances.loss(parameters), seeded(2)
    for _ in range(150):
        steps = instances.gradient(parameters, generator)
        parameters = [p - 0.5 * g for p, g in zip(parameters, steps, strict=True)]
    assert instances.loss(parameters).mean() < 0.8 * first.mean()


def test_there_are_fifteen_networks_and_all_are_classifiers():
    assert [p.shapes[0][0] for p in small_networks()][:12] == [8, 12, 5, 11, 9, 7, 8, 12, 5, 11, 9, 7]
    assert all(p.minimum is None for p in (*small_networks(), *softmax_regression()))
