"""Random classification data, B sets at once: clusters at a cube's corners, a random network's labels, noisy parity.

Local letters: B copies, N samples, F features, C = 4 clusters, I context ids.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from factotum.core.checks import UserError
from factotum.worlds.problems.problem import normal, uniform

CLUSTERS = 4
"""Two of either class."""

FLIPPED = 0.01
"""Share of the samples whose label is drawn anew."""


def clusters(
    batch: int, samples: int, features: int, separation: float, generator: torch.Generator
) -> tuple[Float[Tensor, "B N F"], Float[Tensor, "B N"]]:
    r"""Two classes of two Gaussian clusters each: $x = A_c z + \mu_c$, $z \sim N(0, I)$,
    $A_c \sim U(-1, 1)^{F \times F}$, $\mu_c$ four different random corners of the cube $\{-s, s\}^F$.

    Args:
        batch: B.
        samples: N, a multiple of 4.
        features: F, at least 2.
        separation: s.
        generator: source of all randomness.

    Returns:
        Samples, cluster by cluster, and their labels 0 or 1, of which 1 in 100 is drawn anew.

    Raises:
        UserError: another number of samples, or too few features.

    >>> x, label = clusters(3, 100, 5, 1.0, torch.Generator().manual_seed(0))
    >>> x.shape, label.unique().tolist()
    (torch.Size([3, 100, 5]), [0.0, 1.0])

    Guyon, 2003, Design of experiments for the NIPS 2003 variable selection benchmark; what scikit-learn's
    `make_classification` draws when all features are informative.

    Differs from scikit-learn: samples and features are not shuffled, which no minibatch drawn at random can tell;
    with more than 10 features the corners differ in the first 10 of them.
    """
    if samples % CLUSTERS or features < 2:
        raise UserError(f"clusters: expected N in fours and F >= 2, got N {samples} and F {features}")
    corners_BCF = separation * (2 * _corners(batch, features, generator) - 1)
    maps_BCFF = 2 * uniform((batch, CLUSTERS, features, features), generator) - 1
    rows = samples // CLUSTERS
    z_BCRF = normal((batch, CLUSTERS, rows, features), generator)
    x_BCRF = torch.matmul(z_BCRF, maps_BCFF).add_(corners_BCF[:, :, None])
    label_N = torch.arange(CLUSTERS, device=generator.device).repeat_interleave(rows) % 2
    anew_BN = uniform((batch, samples), generator) < 0.5
    label_BN = torch.where(uniform((batch, samples), generator) < FLIPPED, anew_BN, label_N.bool())
    return x_BCRF.flatten(1, 2), label_BN.float()


def _corners(batch: int, features: int, generator: torch.Generator) -> Float[Tensor, "B C F"]:
    """Four different corners of the unit cube."""
    bits = min(features, 10)
    number_BC = uniform((batch, 2**bits), generator).topk(CLUSTERS).indices
    places = torch.arange(bits, device=generator.device)
    first = (number_BC[..., None] >> places) & 1
    rest = uniform((batch, CLUSTERS, features - bits), generator) < 0.5
    return torch.cat([first, rest], -1).float()


def network_labels(
    batch: int, samples: int, features: int, generator: torch.Generator, layers: int = 6, width: int = 20
) -> tuple[Float[Tensor, "B N F"], Float[Tensor, "B N"]]:
    """Samples of N(0, 1), labelled 1 where the first output of a random ReLU network is positive.

    Args:
        batch: B.
        samples: N.
        features: F.
        generator: source of all randomness.
        layers: of the network; it has no biases.
        width: of each layer.

    Returns:
        Samples and labels; all labels of a copy may be the same.

    >>> x, label = network_labels(64, 100, 8, torch.Generator().manual_seed(0))
    >>> x.shape, bool(0.2 < label.mean() < 0.8)
    (torch.Size([64, 100, 8]), True)

    Wichrowska et al., 2017 (arXiv 1703.04813), released data set random_mlp.

    Differs from the released code: weights are scaled by each layer's own width, which changes no label.
    """
    x_BNF = normal((batch, samples, features), generator)
    y = x_BNF
    for _ in range(layers):
        fan_in = y.shape[-1]
        y = torch.bmm(y, normal((batch, fan_in, width), generator) * math.sqrt(2 / fan_in)).relu()
    return x_BNF, (y[..., 0] > 0).float()


def noisy_parity(
    batch: int, samples: int, ids: int, generator: torch.Generator, noise: float = 0.25
) -> tuple[Int[Tensor, "B N I"], Float[Tensor, "B N"]]:
    """Random bits, labelled by the parity of their sum, which is wrong with a probability.

    Args:
        batch: B.
        samples: N.
        ids: I, bits of a sample.
        generator: source of all randomness.
        noise: the probability of a wrong label.

    >>> bits, label = noisy_parity(1, 4, 5, torch.Generator().manual_seed(0), noise=0.0)
    >>> torch.equal(label, (bits.sum(-1) % 2).float())
    True

    Wichrowska et al., 2017 (arXiv 1703.04813), released data set noisy_parity_class.
    """
    bits_BNI = (uniform((batch, samples, ids), generator) < 0.5).long()
    wrong_BN = uniform((batch, samples), generator) < noise
    return bits_BNI, ((bits_BNI.sum(-1) + wrong_BN) % 2).float()
