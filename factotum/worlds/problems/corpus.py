"""The corpus: which problems meta-training is done on, in both readings, and by name."""

from __future__ import annotations

import functools
import math

from factotum.core.checks import UserError, unknown
from factotum.worlds.problems.classifiers import NoisyParity, SmallNetwork, SoftmaxRegression
from factotum.worlds.problems.matmul import MatMulAlgorithm
from factotum.worlds.problems.plane import PLANE_FUNCTIONS, TwoDimensional
from factotum.worlds.problems.problem import Problem
from factotum.worlds.problems.quadratics import Bowl, Norm, Quadratic, noise_suffix
from factotum.worlds.problems.slow import (
    DependencyChain,
    MinMaxWell,
    OutwardSnake,
    ProjectionQuadratic,
    SumOfQuadratics,
)
from factotum.worlds.problems.transforms import LogObjective, Rescaled, SparseGradient, SumTask

Problems = tuple[Problem, ...]

NETWORKS = (
    (8, (8, 5), 10), (12, (8, 5, 3), 200), (5, (4, 4, 4, 4), 100),
    (11, (4, 5, 6), 64), (9, (8,), 128), (7, (8, 5), 16),
    (8, (32, 64), 10), (12, (16, 8, 3), 200), (5, (8, 8, 8, 8), 100),
    (11, (10, 12, 12), 64), (9, (32,), 128), (7, (32, 64), 16),
)  # fmt: skip
"""Features, hidden layers and minibatch; the first three are there with sparse gradients too."""

SIZES = (20, 12, 56, 64, 13)
SAMPLED = ((20, 1000, 100), (12, 200, 10), (56, 5000, 100), (64, 1000, 50), (13, 10000, 50),
           (20, 1000, 128), (12, 300, 16), (56, 5000, 128), (64, 1000, 64), (13, 10000, 32))  # fmt: skip
"""Parameters, samples and minibatch of the outward snakes."""
SYMMETRIC = tuple((n, 100 if n == 12 else samples, batch) for n, samples, batch in SAMPLED)
"""The same of the minibatch quadratics."""


def plain_quadratics() -> Problems:
    """Four quadratics without noise; off in the released code, where "quadratic-25" is one of the noisy set.

    >>> [problem.name for problem in plain_quadratics()]
    ['quadratic-20', 'quadratic-25', 'quadratic-50', 'quadratic-100']
    """
    return tuple(Quadratic(n) for n in (20, 25, 50, 100))


def quadratics() -> Problems:
    """Four, of which three are noisy, and three large ones."""
    noisy = tuple(Quadratic(n, noise) for n, noise in ((20, 0.5), (25, 0.0), (50, 1.0), (100, 2.0)))
    return noisy + tuple(Quadratic(n) for n in (784, 1024, 2048))


def bowls() -> Problems:
    """Four in the plane, without and with noise of .1."""
    kinds = ((0.1, 0.0), (1.0, 0.0), (5.0, 0.0), (5.0, math.pi / 4))
    return tuple(Bowl(condition, angle, noise) for noise in (0.0, 0.1) for condition, angle in kinds)


def two_dimensional() -> Problems:
    """Nine functions of the literature, without and with noise of 1."""
    return tuple(TwoDimensional(name, noise) for noise in (0.0, 1.0) for name in PLANE_FUNCTIONS)


def softmax_regression() -> Problems:
    """Four logistic regressions, without and with noise.

    >>> len(softmax_regression())
    8
    """
    kinds = ((10, 2.0, 100, 0.5), (100, 1.0, 50, 0.1), (200, 1.5, 20, 0.1), (256, 1.5, 100, 0.5))
    noiseless = tuple(SoftmaxRegression(*kind[:3]) for kind in kinds)
    return noiseless + tuple(SoftmaxRegression(*kind) for kind in kinds)


def small_networks() -> Problems:
    """The only neural networks of the corpus: 12, and 3 of them with sparse gradients.

    >>> len(small_networks())
    15
    """
    networks = tuple(SmallNetwork(*kind) for kind in NETWORKS)
    return networks + tuple(SparseGradient(network) for network in networks[:3])


def matrix_multiplications() -> Problems:
    """Algorithms for 2 x 2 matrices with 5 to 8 products, and for 3 x 3 with 19 to 24."""
    return tuple(MatMulAlgorithm(n, k) for n, ks in ((2, range(5, 9)), (3, range(19, 25))) for k in ks)


def _simple() -> Problems:
    return (*(Quadratic(n) for n in (20, 50, 100)), *(Bowl(condition) for condition in (0.1, 1.0, 5.0)))


def log_objectives() -> Problems:
    """Logarithms of three quadratics and three bowls."""
    return tuple(LogObjective(problem) for problem in _simple())


def sparse_gradients() -> Problems:
    """Three quadratics and three bowls with 99 % of each gradient missing."""
    return tuple(SparseGradient(problem) for problem in _simple())


def rescaled() -> Problems:
    """Five norms and four quadratics in other units."""
    norms = ((2.5, 0.123), (1.5, 8.0), (2.0, 50.0), (3.0, 200.0), (1.0, 1000.0))
    of_quadratics = ((20, 0.1), (25, 10.0), (50, 350.0), (100, 132.0))
    return (
        *(Rescaled(Norm(18, power), scale) for power, scale in norms),
        *(Rescaled(Quadratic(n), scale) for n, scale in of_quadratics),
    )


def norms() -> Problems:
    """Three, and three others with noise of .1."""
    return (
        *(Norm(n, power) for n, power in ((27, 1.0), (25, 2.0), (22, 3.0))),
        *(Norm(n, power, 0.1) for n, power in ((19, 1.0), (26, 2.0), (23, 3.0))),
    )


def sums() -> Problems:
    """Six, and two of them with noise."""
    first, rest = ("rosenbrock", "log-sum-exp", "ackley"), ("beale", "booth", "styblinski-tang", "matyas")
    nine = [TwoDimensional(name) for name in (*first, *rest, "branin", "michalewicz")]

    def seven(noise: float) -> Problem:
        parts = [Quadratic(n, noise) for n in (11, 3, 9, 7, 5, 13, 12)]
        return SumTask(f"sum-quadratics-7{noise_suffix(noise)}", parts)

    def eleven(noise: float) -> Problem:
        name = f"sum-two-dimensional-9-quadratics-2{noise_suffix(noise)}"
        return SumTask(name, [*nine, Quadratic(5), Quadratic(13, noise)])

    return (
        seven(0.0),
        SumTask("sum-norm-quadratic-rosenbrock", [Norm(18, 3), Quadratic(25), nine[0]]),
        SumTask("sum-two-dimensional-9", nine),
        eleven(0.0),
        SumTask("sum-quadratics-2", [Quadratic(11), Quadratic(3)]),
        SumTask("sum-two-dimensional-3", nine[:3]),
        seven(0.1),
        eleven(0.5),
    )


def slow_convergence() -> Problems:
    """Min-max wells, dependency chains and outward snakes; off in the released code.

    >>> len(slow_convergence())
    20

    Differs from the released code: it lists each dependency chain twice, with data that it does not use.
    """
    return (
        *(MinMaxWell(n) for n in SIZES),
        *(DependencyChain(n) for n in SIZES),
        *(OutwardSnake(*sizes) for sizes in SAMPLED),
    )


def minibatch_quadratics() -> Problems:
    """Sums of quadratics and quadratics by projection; off in the released code.

    >>> len(minibatch_quadratics())
    20
    """
    kinds = (SumOfQuadratics, ProjectionQuadratic)
    return tuple(kind(*sizes) for kind in kinds for sizes in SYMMETRIC)


def noisy_parities() -> Problems:
    """Noisy parity, by embedding and by one-hot vectors; off in the released code.

    >>> len(noisy_parities())
    2
    """
    return (NoisyParity(), NoisyParity(one_hot=True))


def _without_classifiers() -> Problems:
    return (
        *quadratics(),
        *bowls(),
        *two_dimensional(),
        *matrix_multiplications(),
        *log_objectives(),
        *rescaled(),
        *norms(),
        *sums(),
        *sparse_gradients(),
    )


def corpus(reading: str = "code") -> Problems:
    """The problems of one reading of the system.

    Args:
        reading: "code": the 101 problems that the released code trains on by default, logistic regression and
            small networks among them; "paper": the 78 of them without any classifier, with slow convergence and
            minibatch quadratics; `softmax_regression` may be added to it, for it is no neural network.

    Raises:
        UserError: another reading.

    >>> len(corpus("code")), len(corpus("paper"))
    (101, 118)

    Wichrowska et al., 2017 (arXiv 1703.04813), the training set; its released code, metarun.py.
    """
    if reading == "code":
        return (*_without_classifiers(), *softmax_regression(), *small_networks())
    if reading == "paper":
        return (*_without_classifiers(), *slow_convergence(), *minibatch_quadratics())
    raise UserError(f"expected the reading 'code' or 'paper', got {reading!r}")


@functools.cache
def _by_name() -> dict[str, Problem]:
    off = (*plain_quadratics(), *slow_convergence(), *minibatch_quadratics(), *noisy_parities())
    return {problem.name: problem for problem in (*corpus("code"), *off)}


def all_problems() -> Problems:
    """Every problem that has a name, once.

    >>> len(all_problems())
    146
    """
    return tuple(_by_name().values())


def find(name: str) -> Problem:
    """The problem of a name.

    Raises:
        UserError: an unknown name, with those nearest to it.

    >>> find("rosenbrock").shapes
    ((2,),)
    """
    if name not in _by_name():
        raise unknown("problem", name, _by_name())
    return _by_name()[name]
