"""A user's own module as a problem: copies, buffers, dropout, batch norm and what is refused."""

import pytest
import torch
from safetensors.torch import load, save
from torch import nn
from torch.nn.functional import cross_entropy, linear, mse_loss

from factotum.core.checks import UserError
from factotum.worlds.problems import ModuleProblem

INPUTS = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
LABELS = (INPUTS[:, :3].sum(-1) > 0).long()


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def batches(generator):
    rows = torch.randint(200, (32,), generator=generator)
    return {"x": INPUTS[rows], "y": LABELS[rows]}


def classify(model, batch):
    return cross_entropy(model(batch["x"]), batch["y"])


def task(*layers):
    """A build function of a classifier with further layers in its middle."""

    def build():
        module = nn.Sequential(nn.Linear(6, 8), *(layer() for layer in layers), nn.Tanh(), nn.Linear(8, 2))
        return module, batches, classify

    return build


def drawn(problem, batch=3, dtype=torch.float32):
    instances = problem.draw(batch, seeded(), dtype)
    return instances, instances.initial(seeded(1))


def same(ours, theirs):
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_loss_and_gradient_are_the_module_s():
    problem = ModuleProblem(task(), "classifier", evaluation_batches=2)
    assert (problem.name, problem.size, problem.shapes[0]) == ("classifier", 6 * 8 + 8 + 8 * 2 + 2, (8, 6))
    instances, parameters = drawn(problem, dtype=torch.float64)
    for b in range(3):
        first, first_bias, last, last_bias = (p[b] for p in parameters)
        losses = []
        for e in range(2):
            x, y = instances.data["batch/x"][b, e], instances.data["batch/y"][b, e]
            losses.append(cross_entropy(linear(linear(x, first, first_bias).tanh(), last, last_bias), y))
        torch.testing.assert_close(instances.loss(parameters)[b], torch.stack(losses).mean())
    gradient = instances.gradient(parameters, seeded(2))
    at = [p[1].clone().requires_grad_() for p in parameters]
    generator = seeded(2)
    torch.randint(2**62, (), generator=generator)  # the seed of dropout
    batches(generator)
    batch = batches(generator)
    hidden = linear(batch["x"].double(), at[0], at[1]).tanh()
    expected = torch.autograd.grad(cross_entropy(linear(hidden, at[2], at[3]), batch["y"]), at)
    torch.testing.assert_close([part[1] for part in gradient], list(expected))


def test_copies_start_differently_and_leave_torch_s_generator_alone():
    problem = ModuleProblem(task())
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    instances, parameters = drawn(problem)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not torch.equal(parameters[0][0], parameters[0][1])
    assert parameters[0].abs().max() <= 6**-0.5  # torch's own initialisation
    assert same(parameters, instances.initial(seeded(1)))
    assert not same(parameters, instances.initial(seeded(2)))
    assert problem.name == "build"


def test_one_by_one_is_all_at_once():
    at_once, one_by_one = (ModuleProblem(task(), vectorise=flag) for flag in (True, False))
    instances, parameters = drawn(at_once, dtype=torch.float64)
    other = one_by_one.restore(load(save(instances.tensors())))
    torch.testing.assert_close(instances.loss(parameters), other.loss(parameters))
    torch.testing.assert_close(instances.gradient(parameters, seeded()), other.gradient(parameters, seeded()))


def test_derivatives_are_finite_differences():
    instances, parameters = drawn(ModuleProblem(task(lambda: nn.LayerNorm(8))), 2, torch.float64)
    at = tuple(p.requires_grad_() for p in parameters)
    assert torch.autograd.gradcheck(lambda *given: instances.loss(given), at, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda *given: instances.loss(given), at, fast_mode=True)
    kept = instances.gradient(at, seeded(), create_graph=True)
    assert all(part.requires_grad for part in kept)


def test_training_a_module_lowers_its_loss():
    instances, parameters = drawn(ModuleProblem(task()), batch=4)
    first, generator = instances.loss(parameters), seeded(5)
    for _ in range(100):
        steps = instances.gradient(parameters, generator)
        parameters = [p - 0.5 * g for p, g in zip(parameters, steps, strict=True)]
    assert (instances.loss(parameters) < 0.5 * first).all()


def test_dropout_is_on_in_gradients_and_drawn_from_the_generator():
    instances, parameters = drawn(ModuleProblem(task(lambda: nn.Dropout(0.5))))
    assert torch.equal(instances.loss(parameters), instances.loss(parameters))
    before = torch.random.get_rng_state()
    first = instances.gradient(parameters, seeded(3))
    assert same(first, instances.gradient(parameters, seeded(3)))
    assert torch.equal(torch.random.get_rng_state(), before)
    plain = ModuleProblem(task()).restore(instances.tensors())
    torch.testing.assert_close(plain.loss(parameters), instances.loss(parameters))
    assert not same(first, plain.gradient(parameters, seeded(3)))


def test_batch_norm_uses_its_batch():
    instances, parameters = drawn(ModuleProblem(task(lambda: nn.BatchNorm1d(8)), evaluation_batches=1), 2)
    assert len(parameters) == 6
    hidden = linear(instances.data["batch/x"][0, 0], parameters[0][0], parameters[1][0])
    normed = (hidden - hidden.mean(0)) / (hidden.var(0, correction=0) + 1e-5).sqrt()
    logits = linear(normed.tanh(), parameters[4][0], parameters[5][0])
    expected = cross_entropy(logits, instances.data["batch/y"][0, 0])
    torch.testing.assert_close(instances.loss(parameters)[0], expected)
    assert all(part.isfinite().all() for part in instances.gradient(parameters, seeded()))


class Counting(nn.Module):
    """Changes a buffer when it is run: in place, or by a new one."""

    def __init__(self, in_place):
        super().__init__()
        self.in_place = in_place
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        if self.in_place:
            self.count += 1
        else:
            self.count = self.count + 1
        return x


class Constant(nn.Module):
    """A buffer and a frozen parameter that are only read."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.full((8,), 2.0))
        self.shift = nn.Parameter(torch.full((8,), 3.0), requires_grad=False)

    def forward(self, x):
        return self.scale * x + self.shift


def test_constant_buffers_and_frozen_parameters_stay():
    instances, parameters = drawn(ModuleProblem(task(Constant), evaluation_batches=1), 2, torch.float64)
    assert len(parameters) == 4
    hidden = 2 * linear(instances.data["batch/x"][0, 0], parameters[0][0], parameters[1][0]) + 3
    logits = linear(hidden.tanh(), parameters[2][0], parameters[3][0])
    expected = cross_entropy(logits, instances.data["batch/y"][0, 0])
    torch.testing.assert_close(instances.loss(parameters)[0], expected)


def test_a_module_may_return_its_own_loss():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 1)

        def forward(self, x, y):
            return mse_loss(self.layer(x)[:, 0], y.float() if not y.is_floating_point() else y)

    by_name = ModuleProblem(lambda: (Own(), batches), "named")
    by_place = ModuleProblem(lambda: (Own(), lambda generator: tuple(batches(generator).values())), "placed")
    losses = []
    for problem in (by_name, by_place):
        instances, parameters = drawn(problem)
        losses.append(instances.loss(parameters))
    torch.testing.assert_close(*losses)


def test_what_vmap_cannot_run_is_run_one_by_one():
    class Branching(nn.Linear):
        def forward(self, x):
            y = super().forward(x)
            return y if y.sum() > 0 else 2 * y

    def build():
        return Branching(6, 2), batches, classify

    with pytest.raises(UserError, match="branching: vmap cannot run it \\(vectorise=False does\\)"):
        ModuleProblem(build, "branching")
    instances, parameters = drawn(ModuleProblem(build, "branching", vectorise=False))
    assert instances.gradient(parameters, seeded())[0].shape == (3, 2, 6)


@pytest.mark.parametrize(
    ("build", "complaint"),
    [
        (task(lambda: Counting(True)), "a run changes 1.count"),
        (task(lambda: Counting(False)), "a run changes 1.count"),
        (lambda: nn.Linear(1, 1), r"expected build to return \(module, batches\)"),
        (lambda: (nn.Tanh(), batches, classify), "expected parameters that require gradients, got none"),
        (lambda: (nn.Linear(6, 2), lambda g: [1, 2], classify), "batches made of tensors, got int"),
        (lambda: (nn.Linear(6, 2), lambda g: (), classify), "batches made of tensors, got an empty one"),
        (
            lambda: (nn.Linear(6, 2), batches, lambda m, b: m(b["x"])),
            r"one finite number, got shape \(32, 2\)",
        ),
        (lambda: (nn.Linear(6, 2), batches, lambda m, b: m(b["x"]).sum() * torch.inf), "one finite number"),
        (lambda: (nn.Linear(6, 2), batches, lambda m, b: 1.0), "one finite number, got 1.0"),
    ],
)
def test_tasks_that_cannot_be_are_refused(build, complaint):
    with pytest.raises(UserError, match=complaint):
        ModuleProblem(build, "mine")


def test_builds_and_batches_that_change_are_refused():
    with pytest.raises(UserError, match="at least 1 evaluation batch, got 0"):
        ModuleProblem(task(), evaluation_batches=0)

    sizes = iter((4, 4, 5, 4))

    def growing(generator):
        return torch.randn(next(sizes), 6, generator=generator)

    def build():
        return nn.Linear(6, 1), growing, lambda model, x: model(x).square().mean()

    problem = ModuleProblem(build, "growing", evaluation_batches=1)
    with pytest.raises(UserError, match="growing: expected batches of shapes"):
        problem.draw(3, seeded())
    layers = iter((nn.Linear(6, 2), nn.Linear(6, 2), nn.Linear(6, 3)))
    other = ModuleProblem(lambda: (next(layers), batches, classify), "other")
    with pytest.raises(UserError, match="other: expected build to return the same module each time"):
        other.draw(2, seeded()).initial(seeded())
