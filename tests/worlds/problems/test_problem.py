"""What every problem of the corpus keeps: shapes, randomness from its generator, types, independence, derivatives."""

import copy
import pickle

import pytest
import torch
from safetensors.torch import load, save

from factotum.core.checks import UserError
from factotum.worlds.problems import Problem, all_problems, find

SMALL = [problem for problem in all_problems() if problem.size < 784]
KINDS = list(
    {(type(p), type(getattr(p, "inner", None)), getattr(p, "function", None)): p for p in SMALL}.values()
)
"""One problem of each class, and of each class inside another."""
every_small_problem = pytest.mark.parametrize("problem", SMALL, ids=lambda problem: problem.name)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(problem, batch=3, seed=0, dtype=torch.float32):
    generator = seeded(seed)
    instances = problem.draw(batch, generator, dtype)
    return instances, instances.initial(generator)


def same(ours, theirs):
    return len(ours) == len(theirs) and all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@every_small_problem
def test_shapes_and_types(problem):
    for dtype in (torch.float32, torch.float64):
        instances, parameters = drawn(problem, dtype=dtype)
        assert tuple(tuple(p.shape[1:]) for p in parameters) == problem.shapes
        loss, gradient = instances.loss(parameters), instances.gradient(parameters, seeded(1))
        assert (instances.batch, loss.shape, loss.dtype) == (3, (3,), dtype)
        for part, parameter in zip(gradient, parameters, strict=True):
            assert (part.shape, part.dtype, part.requires_grad) == (parameter.shape, dtype, False)
        assert all(part.isfinite().all() for part in (loss, *gradient))
        assert (loss >= (problem.minimum or 0.0)).all()


@every_small_problem
def test_a_draw_is_a_function_of_its_generator(problem):
    instances, parameters = drawn(problem)
    again, again_parameters = drawn(problem)
    other, other_parameters = drawn(problem, seed=7)
    assert same(list(instances.tensors().values()), list(again.tensors().values()))
    assert same(parameters, again_parameters)
    assert not same(parameters, other_parameters)
    assert torch.equal(instances.loss(parameters), again.loss(parameters))
    assert same(instances.gradient(parameters, seeded(3)), again.gradient(parameters, seeded(3)))
    if problem.data_shapes and "bowl" not in problem.name:
        assert not same(list(instances.tensors().values()), list(other.tensors().values()))


@every_small_problem
def test_double_precision_is_the_same_problem(problem):
    instances, parameters = drawn(problem)
    double, double_parameters = drawn(problem, dtype=torch.float64)
    assert same([p.double() for p in parameters], double_parameters)
    for moved in (double, instances.to(dtype=torch.float64)):
        exact = moved.loss(double_parameters)
        torch.testing.assert_close(instances.loss(parameters).double(), exact, rtol=2e-3, atol=1e-5)
    fine = double.gradient(double_parameters, seeded(5))
    for coarse, exact in zip(instances.gradient(parameters, seeded(5)), fine, strict=True):
        torch.testing.assert_close(
            coarse.double(), exact, rtol=2e-2, atol=1e-3 * (1 + float(exact.abs().max()))
        )


@every_small_problem
def test_restored_instances_are_the_same(problem):
    instances, parameters = drawn(problem)
    tensors = instances.tensors()
    assert all(len(tensor) == 3 for tensor in tensors.values())
    restored = problem.restore(load(save(tensors)))
    assert torch.equal(instances.loss(parameters), restored.loss(parameters))
    assert same(instances.gradient(parameters, seeded(2)), restored.gradient(parameters, seeded(2)))
    assert same(instances.initial(seeded(4)), restored.initial(seeded(4)))
    # rows can be picked: copies have nothing in common
    picked = problem.restore({name: tensor[[2, 0]] for name, tensor in tensors.items()})
    of_picked = picked.loss([p[[2, 0]] for p in parameters])
    torch.testing.assert_close(of_picked, instances.loss(parameters)[[2, 0]], rtol=1e-4, atol=1e-5)


@every_small_problem
def test_a_copy_depends_on_no_other(problem):
    instances, parameters = drawn(problem)
    moved = [p.clone() for p in parameters]
    for part in moved:
        part[0] += part.abs().mean()
    loss, other = instances.loss(parameters), instances.loss(moved)
    assert (loss != other).tolist()[1:] == [False, False]
    assert loss[0] != other[0]
    if not problem.name.startswith("sparse"):
        gradient, changed = (instances.gradient(at, seeded(1)) for at in (parameters, moved))
        assert any(not torch.equal(g[0], c[0]) for g, c in zip(gradient, changed, strict=True))
        assert all(torch.equal(g[1:], c[1:]) for g, c in zip(gradient, changed, strict=True))


@pytest.mark.parametrize("problem", KINDS, ids=lambda problem: problem.name)
def test_derivatives_are_finite_differences(problem):
    instances, parameters = drawn(problem, batch=2, dtype=torch.float64)
    at = tuple(p.requires_grad_() for p in parameters)

    scale = instances.loss(parameters).detach()

    def relative_loss(*given):
        return instances.loss(given) / scale

    assert torch.autograd.gradcheck(relative_loss, at, rtol=1e-3, atol=1e-6, fast_mode=True)
    assert torch.autograd.gradgradcheck(relative_loss, at, rtol=1e-2, atol=1e-4, fast_mode=True)


@pytest.mark.parametrize(
    "name", ["quadratic-20", "booth", "bowl-5", "log-bowl-5", "norm-25-power-2", "matmul-2-7"]
)
def test_a_gradient_without_noise_is_the_loss_s_and_keeps_its_graph(name):
    instances, parameters = drawn(find(name), dtype=torch.float64)
    at = [p.requires_grad_() for p in parameters]
    exact = torch.autograd.grad(instances.loss(at).sum(), at, create_graph=True)
    ours = instances.gradient(at, seeded(), create_graph=True)
    torch.testing.assert_close(ours, exact)
    second = [torch.autograd.grad(sum(g.square().sum() for g in of), at) for of in (ours, exact)]
    torch.testing.assert_close(*second)
    assert all(float(part.abs().max()) > 0 for part in second[0])


@pytest.mark.parametrize(
    "name", ["quadratic-20-noise-0.5", "mlp-8-8-5", "sum-two-dimensional-3", "sparse-bowl-5"]
)
def test_gradients_without_a_graph_leave_no_trace(name):
    instances, parameters = drawn(find(name))
    with torch.no_grad():
        first = instances.gradient(parameters, seeded())
    assert not any(p.requires_grad for p in parameters)
    leaves = [p.clone().requires_grad_() for p in parameters]
    assert same(first, instances.gradient(leaves, seeded()))
    assert all(p.grad is None for p in leaves)
    if not name.startswith("sparse"):
        kept = instances.gradient([p * 1 for p in leaves], seeded(), create_graph=True)
        assert same(first, [part.detach() for part in kept])
        assert all(part.requires_grad for part in kept)


def test_large_quadratics_work_too():
    problem = find("quadratic-784")
    instances, parameters = drawn(problem, batch=1)
    assert problem.size == 784
    assert instances.gradient(parameters, seeded())[0].isfinite().all()


def test_problems_can_be_copied_and_pickled():
    for problem in SMALL:
        instances, parameters = drawn(problem)
        for other in (copy.deepcopy(problem), pickle.loads(pickle.dumps(problem))):
            assert torch.equal(
                other.restore(instances.tensors()).loss(parameters), instances.loss(parameters)
            )


def test_what_is_not_a_problem_s_is_refused():
    problem = find("quadratic-20")
    instances, (x,) = drawn(problem)
    with pytest.raises(UserError, match="at least 1 copy, got 0"):
        problem.draw(0, seeded())
    with pytest.raises(UserError, match=r"floating type, got torch\.int64"):
        problem.draw(1, seeded(), torch.int64)
    for wrong in ([x[:2]], [x, x], [x[..., 0]]):
        for call in (instances.loss, lambda at: instances.gradient(at, seeded())):
            with pytest.raises(UserError, match="quadratic-20: expected parameters of shapes"):
                call(wrong)
    tensors = instances.tensors()
    with pytest.raises(UserError, match="expected tensors"):
        problem.restore({"weight": tensors["weight"]})
    with pytest.raises(UserError, match=r"expected weight of shape \(3, 20, 20\), got \(3, 19, 20\)"):
        problem.restore({**tensors, "weight": tensors["weight"][:, 1:]})


class Wrong(Problem):
    def loss(self, parameters, data):
        return parameters[0].sum(-1)


@pytest.mark.parametrize("noise", [[0.1], [0.1, -0.1], -1.0])
def test_noise_that_cannot_be_is_refused(noise):
    with pytest.raises(UserError, match="wrong: expected 2 noise levels >= 0"):
        Wrong("wrong", "none", [(1,), (2,)], noise=noise)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("problem", KINDS, ids=lambda problem: problem.name)
def test_instances_live_on_their_generator_s_device(problem):
    generator = torch.Generator("cuda").manual_seed(0)
    instances = problem.draw(3, generator)
    parameters = instances.initial(generator)
    gradient = instances.gradient(parameters, generator)
    assert {t.device.type for t in (instances.loss(parameters), *parameters, *gradient)} == {"cuda"}
    # a generator elsewhere serves too, and the numbers are those of the CPU
    here, at = instances.to("cpu"), [p.cpu() for p in parameters]
    torch.testing.assert_close(instances.loss(parameters).cpu(), here.loss(at), rtol=1e-3, atol=1e-4)
    for there, on_cpu in zip(
        instances.gradient(parameters, seeded()), here.gradient(at, seeded()), strict=True
    ):
        torch.testing.assert_close(
            there.cpu(), on_cpu, rtol=1e-2, atol=1e-3 * (1 + float(on_cpu.abs().max()))
        )
