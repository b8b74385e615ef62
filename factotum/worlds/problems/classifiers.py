"""Classifiers of two classes on random data: logistic regression, small sigmoid networks, noisy parity.

Local letters: B copies, N samples (of all data or a minibatch), F features.
"""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import embedding, one_hot, softplus

from factotum.worlds.problems.datasets import clusters, network_labels, noisy_parity
from factotum.worlds.problems.problem import Data, Parameters, Problem, Shape, normal, picked_rows
from factotum.worlds.problems.quadratics import noise_suffix

SAMPLES = 1000
PENALTY = 1e-3
"""Of the mean over tensors of their sums of squares."""


class _Classifier(Problem):
    r"""$f = \mathrm{mean}_i\, [\log(1 + e^{z_i}) - y_i z_i] + 10^{-3}\, \mathrm{mean}_k \lVert \theta_k \rVert^2$

    with the logit $z_i$ the *first* of the two outputs, so that label 1 is a large first output and the second
    output is only penalised, as in the released code. Data: inputs and labels; start N(0, 1.44 / rows).
    """

    def __init__(
        self,
        name: str,
        family: str,
        shapes: Sequence[Shape],
        noise: float,
        samples: int,
        batch: int,
        width: int,
    ) -> None:
        self.samples, self.samples_a_batch = samples, batch
        data_shapes = {"input": (samples, width), "label": (samples,)}
        super().__init__(name, family, shapes, None, noise, data_shapes)

    def start(self, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        return tuple(
            normal((batch, *shape), generator) * (1.2 / math.sqrt(shape[0])) for shape in self.shapes
        )

    def minibatch(self, data: Data, generator: torch.Generator) -> Data:
        if self.samples_a_batch >= self.samples:
            return data
        rows = picked_rows(self.samples_a_batch, self.samples, data["label"], generator)
        return {"input": data["input"][rows], "label": data["label"][rows]}

    def loss(self, parameters: Parameters, data: Data) -> Float[Tensor, " B"]:
        logit_BN = self.logit(parameters, data["input"])
        error_B = (softplus(logit_BN) - data["label"] * logit_BN).mean(-1)
        squares = [part.flatten(1).square().sum(-1) for part in parameters]
        return error_B + PENALTY * torch.stack(squares).mean(0)

    @abstractmethod
    def logit(self, parameters: Parameters, inputs: Tensor) -> Float[Tensor, "B N"]: ...


class SmallNetwork(_Classifier):
    """A sigmoid network that learns the labels of a random ReLU network.

    Args:
        features: F.
        hidden: units of each hidden layer.
        batch: samples of a minibatch.

    >>> SmallNetwork(8, (8, 5), 10).shapes
    ((8, 8), (8,), (8, 5), (5,), (5, 2), (2,))

    Wichrowska et al., 2017 (arXiv 1703.04813), released class FullyConnected on data set random_mlp.

    Differs from the released code: minibatches are drawn with replacement.
    """

    def __init__(self, features: int, hidden: Sequence[int], batch: int) -> None:
        self.features = features
        widths = [features, *hidden, 2]
        shapes = [shape for i, o in itertools.pairwise(widths) for shape in ((i, o), (o,))]
        name = "mlp-" + "-".join(str(width) for width in widths[:-1])
        super().__init__(name, "mlp", shapes, 0.0, SAMPLES, batch, features)

    def data(self, batch: int, generator: torch.Generator) -> Data:
        """Inputs of N(0, 1) and a random network's labels."""
        inputs, label = network_labels(batch, SAMPLES, self.features, generator)
        return {"input": inputs, "label": label}

    def logit(self, parameters: Parameters, inputs: Tensor) -> Float[Tensor, "B N"]:
        """The first output."""
        h_BFN = inputs.mT
        for weight, bias in zip(parameters[:-2:2], parameters[1:-2:2], strict=True):
            h_BFN = torch.baddbmm(bias[..., None], weight.mT, h_BFN).sigmoid()
        return first_output(h_BFN, *parameters[-2:])


class SoftmaxRegression(_Classifier):
    """Logistic regression on clusters at random corners of a cube.

    Args:
        features: F.
        separation: half the side of the cube.
        batch: samples of a minibatch.
        noise: standard deviation on the gradient, beside the minibatch's.

    >>> SoftmaxRegression(10, 2.0, 100, noise=0.5).name
    'softmax-10-noise-0.5'

    Wichrowska et al., 2017 (arXiv 1703.04813), released class SoftmaxRegression on scikit-learn's
    make_classification.

    Differs from the released code: each copy has its own data (there one seed for all), and minibatches are
    drawn with replacement.
    """

    def __init__(self, features: int, separation: float, batch: int, noise: float = 0.0) -> None:
        self.features, self.separation = features, separation
        name = f"softmax-{features}{noise_suffix(noise)}"
        super().__init__(name, "softmax", [(features, 2), (2,)], noise, SAMPLES, batch, features)

    def data(self, batch: int, generator: torch.Generator) -> Data:
        """Clusters, see `datasets.clusters`."""
        inputs, label = clusters(batch, SAMPLES, self.features, self.separation, generator)
        return {"input": inputs, "label": label}

    def logit(self, parameters: Parameters, inputs: Tensor) -> Float[Tensor, "B N"]:
        """The first output."""
        return first_output(inputs.mT, *parameters)


class NoisyParity(_Classifier):
    """Noisy parity of five bits, seen in five samples: embeddings of the bits are summed, then classified.

    Args:
        one_hot: look embeddings up by a product with one-hot vectors, not by index: the same function.

    >>> NoisyParity().shapes
    ((2, 5), (5, 2), (2,))

    Wichrowska et al., 2017 (arXiv 1703.04813), released classes SparseSoftmaxRegression and
    OneHotSparseSoftmaxRegression on noisy_parity_class(5); its batch of 23 is all of the 5 samples.

    Differs from the released code: gradients of the embeddings are dense.
    """

    BITS = 5

    def __init__(self, one_hot: bool = False) -> None:
        self.one_hot = one_hot
        name = f"noisy-parity-{'one-hot' if one_hot else 'embedding'}"
        shapes = [(2, self.BITS), (self.BITS, 2), (2,)]
        super().__init__(name, "parity", shapes, 0.0, samples=5, batch=23, width=self.BITS)

    def data(self, batch: int, generator: torch.Generator) -> Data:
        """Bits and their noisy parity."""
        bits, label = noisy_parity(batch, self.samples, self.BITS, generator)
        return {"input": bits, "label": label}

    def logit(self, parameters: Parameters, inputs: Tensor) -> Float[Tensor, "B N"]:
        """The first output."""
        table, weight, bias = parameters
        if self.one_hot:
            counts = one_hot(inputs, 2).sum(2).to(table)
            return first_output((counts @ table).mT, weight, bias)
        # one table a copy: its rows follow one another in one long table
        offset = 2 * torch.arange(len(table), device=table.device)[:, None, None]
        summed = embedding(inputs + offset, table.flatten(0, 1)).sum(2)
        return first_output(summed.mT, weight, bias)


def first_output(h_BFN: Tensor, weight: Tensor, bias: Tensor) -> Float[Tensor, "B N"]:
    """The first of a linear layer's outputs; the loss depends on no other.

    Samples come last, because one row times a matrix is several times faster than a matrix times one column.

    >>> first_output(torch.ones(1, 2, 1), torch.ones(1, 2, 2), torch.zeros(1, 2)).tolist()
    [[2.0]]
    """
    return torch.baddbmm(bias[:, :1, None], weight[..., :1].mT, h_BFN).squeeze(1)
