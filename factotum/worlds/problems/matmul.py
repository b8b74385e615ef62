"""Finding algorithms that multiply matrices with few products.

Local letters: B copies, n side of the matrices, k products, Q = n^2, R = n^4 pairs of one-hot matrices.
"""

from __future__ import annotations

import functools

import torch
from jaxtyping import Float
from torch import Tensor

from factotum.core.checks import UserError
from factotum.worlds.problems.problem import Data, Parameters, Problem, normal

SOLVED = {2: 7, 3: 23}
"""For each n the fewest products for which an exact algorithm is known."""


class MatMulAlgorithm(Problem):
    r"""A bilinear algorithm $\mathrm{vec}(AB) \approx [(\mathrm{vec}(A) \theta_a) \odot (\mathrm{vec}(B)
    \theta_b)]\, \theta_c$ with k products, exact for all A and B where it is for all $n^4$ one-hot pairs:
    $f(\theta_a, \theta_b) = \min_{\theta_c} \lVert P \theta_c - C \rVert^2$ over those pairs.

    Args:
        n: side of the matrices, at least 2.
        k: products, from n^2 to n^3; f reaches 0 for k >= 7 with n = 2 (Strassen, 1969) and k >= 23 with n = 3
            (Laderman, 1976), and is not known to for fewer.

    Raises:
        UserError: other sizes.

    >>> MatMulAlgorithm(2, 7).shapes, MatMulAlgorithm(3, 19).minimum
    (((4, 7), (4, 7)), None)

    Wichrowska et al., 2017 (arXiv 1703.04813), released class MatMulAlgorithm: theta_c by least squares, start
    with columns of unit length.
    """

    def __init__(self, n: int, k: int) -> None:
        if n < 2 or not n**2 <= k <= n**3:
            raise UserError(f"matmul: expected n >= 2 and n^2 <= k <= n^3, got n {n} and k {k}")
        self.n = n
        minimum = 0.0 if k >= SOLVED.get(n, n**3) else None
        super().__init__(f"matmul-{n}-{k}", "matmul", [(n * n, k), (n * n, k)], minimum)

    def start(self, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """N(0, 1) with columns scaled to length 1."""
        return tuple(
            torch.nn.functional.normalize(normal((batch, *shape), generator), dim=1) for shape in self.shapes
        )

    def loss(self, parameters: Parameters, data: Data) -> Float[Tensor, " B"]:
        """Sum of squared errors over the one-hot pairs, with the best theta_c.

        The residual is formed as such, so that rounding in theta_c can make it larger but never negative; where
        the products are dependent, it is not finite.
        """
        first_BQk, second_BQk = parameters
        target_RQ = one_hot_products(self.n, first_BQk.device, first_BQk.dtype)
        products_BRk = (first_BQk[:, :, None] * second_BQk[:, None]).flatten(1, 2)
        # P^T P is the elementwise product of the factors' Gram matrices
        gram_Bkk = (first_BQk.mT @ first_BQk) * (second_BQk.mT @ second_BQk)
        third_BkQ = torch.linalg.solve_ex(gram_Bkk, products_BRk.mT @ target_RQ).result
        return (products_BRk @ third_BkQ - target_RQ).square().sum((1, 2))


@functools.cache
def one_hot_products(n: int, device: torch.device, dtype: torch.dtype) -> Float[Tensor, "R Q"]:
    """The products of all pairs of one-hot matrices, flattened: E_pq E_st = E_pt where q = s, else 0.

    >>> one_hot_products(2, torch.device("cpu"), torch.float32).sum().item()
    8.0
    """
    one = torch.eye(n, device=device, dtype=dtype)
    return torch.einsum("pi,qs,tj->pqstij", one, one, one).reshape(n**4, n**2)
