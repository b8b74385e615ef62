"""Test functions on the unit cube, to be minimised, with known optimum; and random instances of them.

Local letters: D dimensions, K minimisers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from factotum.core.checks import UserError, unknown
from factotum.worlds.minimum import lowest

Evaluate = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class TestFunction:
    """A function on the unit cube.

    Args:
        name: what it is called.
        dimensions: D.
        evaluate: (..., D) -> (...), differentiable wherever the function is; also defined a little outside the cube.
        minimum: the lowest value in the cube.
        minimisers: where in the cube it is reached; where in too many places, one of them.
        minimum_everywhere: no lower value lies outside the cube either.
    """

    __test__ = False  # not a test case, whatever its name says to pytest

    name: str
    dimensions: int
    evaluate: Evaluate
    minimum: float
    minimisers: Float[Tensor, "K D"]
    minimum_everywhere: bool = True

    def __call__(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N"]:
        """Values at the points."""
        return self.evaluate(x)


def perturb(function: TestFunction, generator: torch.Generator) -> TestFunction:
    r"""A random instance: $f(u)$ with $u_d = \tfrac12 + (w_d - \tfrac12) s_d + t_d$, w = x with its coordinates
    shuffled and each flipped ($1 - w_d$) with probability 1/2; $s \sim U(.9, 1.1)$, $t \sim U(-.1, .1)$.

    The search stays in the unit cube, so f is evaluated up to .15 outside of it and its optimum may get lost:
    then the minimum of the instance is searched for.

    Args:
        function: what to perturb.
        generator: source of all randomness, on the CPU.

    Returns:
        The instance, with its own minimum.

    >>> instance = perturb(TEST_FUNCTIONS["Branin"], torch.Generator().manual_seed(0))
    >>> instance.name, round(instance.minimum, 4)
    ('Branin', 0.3979)

    Chen et al., 2017, arXiv 1611.03824, experiments on global optimisation benchmarks.
    """
    dimensions = function.dimensions
    order_D = torch.randperm(dimensions, generator=generator)
    draws_3D = torch.rand(3, dimensions, generator=generator, dtype=torch.float64)
    sign_D = torch.where(draws_3D[0] < 0.5, -1.0, 1.0)
    scale_D = sign_D * (0.9 + 0.2 * draws_3D[1])
    shift_D = 0.2 * draws_3D[2] - 0.1

    def evaluate(x: Tensor) -> Tensor:
        w = x[..., order_D.to(x.device)]
        return function.evaluate(0.5 + (w - 0.5) * scale_D.to(x) + shift_D.to(x))

    back_KD = torch.empty_like(function.minimisers)
    back_KD[:, order_D] = 0.5 + (function.minimisers - 0.5 - shift_D) / scale_D
    inside_KD = back_KD[((back_KD >= 0) & (back_KD <= 1)).all(-1)]
    if len(inside_KD) and function.minimum_everywhere:
        return replace(function, evaluate=evaluate, minimisers=inside_KD)
    minimum, where_D = lowest(evaluate, back_KD.clamp(0, 1), generator)
    return replace(function, evaluate=evaluate, minimum=minimum, minimisers=where_D[None])


# -- with a number of dimensions of their own


def _branin(x: Tensor) -> Tensor:
    a, b = 15 * x[..., 0] - 5, 15 * x[..., 1]
    curve = b - 5.1 / (4 * math.pi**2) * a**2 + 5 / math.pi * a - 6
    return curve**2 + 10 * (1 - 1 / (8 * math.pi)) * a.cos() + 10


def _goldstein_price(x: Tensor) -> Tensor:
    a, b = 4 * x[..., 0] - 2, 4 * x[..., 1] - 2
    first = 19 - 14 * a + 3 * a**2 - 14 * b + 6 * a * b + 3 * b**2
    second = 18 - 32 * a + 12 * a**2 + 48 * b - 36 * a * b + 27 * b**2
    return (1 + (a + b + 1) ** 2 * first) * (30 + (2 * a - 3 * b) ** 2 * second)


_HARTMANN3 = (
    ((3.0, 10, 30), (0.1, 10, 35), (3.0, 10, 30), (0.1, 10, 35)),
    ((3689, 1170, 2673), (4699, 4387, 7470), (1091, 8732, 5547), (381, 5743, 8828)),
)
_HARTMANN6 = (
    (
        (10, 3, 17, 3.5, 1.7, 8),
        (0.05, 10, 17, 0.1, 8, 14),
        (3, 3.5, 1.7, 10, 17, 8),
        (17, 8, 0.05, 10, 0.1, 14),
    ),
    (
        (1312, 1696, 5569, 124, 8283, 5886),
        (2329, 4135, 8307, 3736, 1004, 9991),
        (2348, 1451, 3522, 2883, 3047, 6650),
        (4047, 8828, 8732, 5743, 1091, 381),
    ),
)


def _hartmann(steepness: tuple, places: tuple) -> Evaluate:
    def evaluate(x: Tensor) -> Tensor:
        a, p = x.new_tensor(steepness), 1e-4 * x.new_tensor(places)
        exponent = -(a * (x[..., None, :] - p) ** 2).sum(-1)
        return -(x.new_tensor([1.0, 1.2, 3.0, 3.2]) * exponent.exp()).sum(-1)

    return evaluate


# -- with any number of dimensions


def off_centre(dimensions: int) -> Float[Tensor, " D"]:
    """Where the optimum lies: spread over the cube, so that no search finds it by starting at the centre.

    >>> off_centre(3).tolist()
    [0.194..., 0.688..., 0.383...]
    """
    place_D = (0.5 + 0.6180339887 * torch.arange(1, dimensions + 1, dtype=torch.float64)) % 1
    return 0.1 + 0.8 * place_D


def _sphere(z: Tensor) -> Tensor:
    return (z**2).sum(-1)


def _ellipsoid(z: Tensor) -> Tensor:
    order = torch.linspace(0, 6, z.shape[-1], dtype=z.dtype, device=z.device)
    return (10**order * z**2).sum(-1)


def _rosenbrock(z: Tensor) -> Tensor:
    z = z + 1
    return (100 * (z[..., 1:] - z[..., :-1] ** 2) ** 2 + (1 - z[..., :-1]) ** 2).sum(-1)


def _rastrigin(z: Tensor) -> Tensor:
    return (10 + z**2 - 10 * (2 * math.pi * z).cos()).sum(-1)


def _ackley(z: Tensor) -> Tensor:
    length = torch.linalg.vector_norm(z, dim=-1) / math.sqrt(z.shape[-1])
    waves = (2 * math.pi * z).cos().mean(-1)
    return 20 - 20 * (-0.2 * length).exp() + math.e - waves.exp()


def _levy(z: Tensor) -> Tensor:
    w = 1 + z / 4
    before, last = w[..., :-1], w[..., -1]
    chain = ((before - 1) ** 2 * (1 + 10 * (math.pi * before + 1).sin() ** 2)).sum(-1)
    ends = (math.pi * w[..., 0]).sin() ** 2 + (last - 1) ** 2 * (1 + (2 * math.pi * last).sin() ** 2)
    return ends + chain


def _steps(z: Tensor) -> Tensor:
    return ((z + 0.5).floor() ** 2).sum(-1)


SCALABLE: dict[str, tuple[Evaluate, float, int]] = {
    "Sphere": (_sphere, 10.0, 1),
    "Ellipsoid": (_ellipsoid, 10.0, 2),
    "Rosenbrock": (_rosenbrock, 4.0, 2),
    "Rastrigin": (_rastrigin, 10.24, 1),
    "Ackley": (_ackley, 65.536, 1),
    "Levy": (_levy, 20.0, 1),
    "Steps": (_steps, 20.0, 1),
}
"""Functions of z that are 0 at z = 0 and nowhere lower, the side of the cube in z, and the fewest dimensions."""


def test_function(name: str, dimensions: int) -> TestFunction:
    """A function of `SCALABLE` in so many dimensions, with its optimum at `off_centre`.

    Raises:
        UserError: an unknown name, or too few dimensions.

    >>> sphere = test_function("Sphere", 3)
    >>> sphere(sphere.minimisers).tolist()
    [0.0]
    """
    if name not in SCALABLE:
        raise unknown("function", name, SCALABLE)
    of_z, side, fewest = SCALABLE[name]
    if dimensions < fewest:
        raise UserError(f"{name}: expected at least {fewest} dimensions, got {dimensions}")
    centre_D = off_centre(dimensions)
    return TestFunction(
        f"{name}{dimensions}", dimensions, lambda x: of_z(side * (x - centre_D.to(x))), 0.0, centre_D[None]
    )


test_function.__test__ = False  # type: ignore[attr-defined]


def _points(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


TEST_FUNCTIONS: dict[str, TestFunction] = {
    function.name: function
    for function in (
        TestFunction(
            "Branin",
            2,
            _branin,
            0.39788735772973816,
            (_points((-math.pi, 12.275), (math.pi, 2.275), (3 * math.pi, 2.475)) + _points((5, 0))) / 15,
        ),
        TestFunction("GoldsteinPrice", 2, _goldstein_price, 3.0, _points((0.5, 0.25))),
        TestFunction(
            "Hartmann3",
            3,
            _hartmann(*_HARTMANN3),
            -3.862779787332663,
            _points((0.114588878, 0.555648895, 0.852546985)),
        ),
        TestFunction(
            "Hartmann6",
            6,
            _hartmann(*_HARTMANN6),
            -3.322368011415515,
            _points((0.201689511, 0.150010692, 0.476873974, 0.275332430, 0.311651617, 0.657300534)),
        ),
        *(test_function(name, 5) for name in SCALABLE),
    )
}
"""By name: the four of the paper, and the others in five dimensions."""
