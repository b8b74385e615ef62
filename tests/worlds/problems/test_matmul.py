"""Matrix multiplication: known algorithms have no error, and theta_c is the best there is."""

import numpy as np
import pytest
import torch

from factotum.core.checks import UserError
from factotum.worlds.problems import find
from factotum.worlds.problems.matmul import MatMulAlgorithm, one_hot_products

STRASSEN = (
    ["11+22", "21+22", "11", "22", "11+12", "21-11", "12-22"],
    ["11+22", "11", "12-22", "21-11", "22", "11+12", "21+22"],
)
LADERMAN = (
    ["11+12+13-21-22-32-33", "11-21", "22", "21+22-11", "21+22", "11", "31+32-11", "31-11", "31+32",
     "11+12+13-22-23-31-32", "32", "32+33-13", "13-33", "13", "32+33", "22+23-13", "13-23", "22+23",
     "12", "23", "21", "31", "33"],
    ["22", "22-12", "12+21+33-11-22-23-31", "11-12+22", "12-11", "11", "11-13+23", "13-23", "13-11",
     "23", "13+21+32-11-22-23-31", "22+31-32", "22-32", "31", "32-31", "23+31-33", "23-33", "33-31",
     "21", "32", "13", "12", "33"],
)  # fmt: skip


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def factor(terms, n):
    """The columns of theta for sums of entries such as "11-21"."""
    columns = torch.zeros(n * n, len(terms), dtype=torch.float64)
    for k, term in enumerate(terms):
        for signed in term.replace("-", " -").replace("+", " +").split():
            row, column = int(signed[-2]) - 1, int(signed[-1]) - 1
            columns[n * row + column, k] = -1.0 if signed[0] == "-" else 1.0
    return columns[None]


@pytest.mark.parametrize(("n", "k", "terms"), [(2, 7, STRASSEN), (3, 23, LADERMAN)])
def test_known_algorithms_have_no_error(n, k, terms):
    problem = find(f"matmul-{n}-{k}")
    assert problem.minimum == 0
    instances = problem.draw(1, seeded(), torch.float64)
    first, second = (factor(part, n) for part in terms)
    assert instances.loss([first, second]).item() < 1e-20
    wrong = first.clone()
    wrong[0, 0, 0] += 0.5
    assert instances.loss([wrong, second]).item() > 1e-3


def test_one_product_more_solves_it_too():
    generator = seeded()
    for n, k, terms in ((2, 8, STRASSEN), (3, 24, LADERMAN)):
        extra = torch.randn(2, 1, n * n, 1, generator=generator, dtype=torch.float64)
        parameters = [torch.cat([factor(part, n), more], -1) for part, more in zip(terms, extra, strict=True)]
        assert MatMulAlgorithm(n, k).draw(1, seeded(), torch.float64).loss(parameters).item() < 1e-18
        assert find(f"matmul-{n}-{k}").minimum == 0


@pytest.mark.parametrize("n", [2, 3])
def test_the_pairs_are_products_of_one_hot_matrices(n):
    products = one_hot_products(n, torch.device("cpu"), torch.float64)
    ones = np.eye(n * n).reshape(-1, n, n)
    expected = [(a @ b).ravel() for a in ones for b in ones]
    assert torch.equal(products, torch.tensor(np.array(expected)))


@pytest.mark.parametrize("name", ["matmul-2-5", "matmul-2-8", "matmul-3-19", "matmul-3-24"])
def test_the_loss_is_that_of_least_squares(name):
    problem = find(name)
    instances = problem.draw(3, seeded(), torch.float64)
    first, second = instances.initial(seeded(1))
    torch.testing.assert_close(first.norm(dim=1), torch.ones(3, first.shape[-1], dtype=torch.float64))
    for b, found in enumerate(instances.loss([first, second])):
        products = (first[b][:, None] * second[b][None]).flatten(0, 1).numpy()
        target = one_hot_products(problem.n, first.device, first.dtype).numpy()
        best, *_ = np.linalg.lstsq(products, target, rcond=None)
        assert found.item() == pytest.approx(((products @ best - target) ** 2).sum(), rel=1e-9)


def test_single_precision_is_never_negative():
    for name in ("matmul-2-7", "matmul-3-23"):
        problem = find(name)
        terms = STRASSEN if problem.n == 2 else LADERMAN
        exact = [factor(part, problem.n).float().expand(50, -1, -1) for part in terms]
        near = [p + 1e-4 * torch.randn(p.shape, generator=seeded()) for p in exact]
        instances = problem.draw(50, seeded())
        assert 0 <= instances.loss(exact).max().item() < 1e-8
        assert instances.loss(near).min().item() > 0


def test_sizes_that_cannot_be_are_refused():
    for n, k in ((1, 1), (2, 3), (2, 9)):
        with pytest.raises(UserError, match=f"got n {n} and k {k}"):
            MatMulAlgorithm(n, k)
