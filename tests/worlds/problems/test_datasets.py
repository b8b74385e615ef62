"""Random data sets have the statistics that they claim."""

import pytest
import torch

from factotum.core.checks import UserError
from factotum.worlds.problems.datasets import clusters, network_labels, noisy_parity


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("features", "separation"), [(3, 1.0), (10, 2.0), (40, 1.5)])
def test_clusters_have_their_moments(features, separation):
    x, label = clusters(16, 4000, features, separation, seeded())
    assert (x.shape, label.shape) == ((16, 4000, features), (16, 4000))
    blocks = x.view(16, 4, 1000, features)
    corners = blocks.mean(2)
    # a coordinate of A z has variance F / 3 in expectation, so a mean of 1000 is off by sqrt(F / 3000)
    assert ((corners.abs() - separation).abs() < 6 * (features / 3000) ** 0.5 + 0.05).all()
    spread = (blocks - corners[:, :, None]).square().mean()
    assert spread.item() == pytest.approx(features / 3, rel=0.15)
    signs = corners.sign()
    for one, other in ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)):
        assert (signs[:, one] != signs[:, other]).any(-1).all()  # four different corners


def test_cluster_labels_are_balanced_and_one_in_two_hundred_is_wrong():
    _, label = clusters(64, 1000, 5, 1.0, seeded())
    of_cluster = label.view(64, 4, 250)
    expected = torch.tensor([0.0, 1.0, 0.0, 1.0])[None, :, None]
    assert (of_cluster != expected).double().mean().item() == pytest.approx(0.005, rel=0.3)


def test_clusters_look_like_scikit_learn_s():
    datasets = pytest.importorskip("sklearn.datasets")
    n, features, separation = 1000, 10, 2.0

    def moments(x, y):
        x = x - x.mean(0)
        gap = x[y == 1].mean(0) - x[y == 0].mean(0)
        return torch.stack([x.square().mean(), gap.square().mean(), y.mean()])

    theirs = []
    for seed in range(40):
        x, y = datasets.make_classification(
            n, features, n_informative=features, n_redundant=0, class_sep=separation, random_state=seed
        )
        theirs.append(moments(torch.tensor(x), torch.tensor(y).double()))
    ours = [
        moments(x.double(), y.double())
        for x, y in zip(*clusters(40, n, features, separation, seeded()), strict=True)
    ]
    mean, spread = torch.stack(theirs).mean(0), torch.stack(theirs).std(0)
    assert ((torch.stack(ours).mean(0) - mean).abs() < 4 * spread * (2 / 40) ** 0.5 + 1e-9).all()


def test_network_labels_are_of_a_function_of_the_input():
    x, label = network_labels(200, 50, 8, seeded())
    assert x.std().item() == pytest.approx(1.0, rel=0.02)
    assert label.unique().tolist() == [0.0, 1.0]
    # without biases the sign does not change along a ray, and copies have networks of their own
    assert 0.3 < label.mean().item() < 0.7
    assert label.mean(1).std().item() > 0.2


def test_parity_is_noisy_in_a_quarter():
    bits, label = noisy_parity(500, 20, 5, seeded())
    assert set(bits.unique().tolist()) == {0, 1}
    wrong = label != bits.sum(-1) % 2
    assert wrong.double().mean().item() == pytest.approx(0.25, rel=0.05)


def test_sizes_that_cannot_be_are_refused():
    with pytest.raises(UserError, match="N in fours and F >= 2, got N 10 and F 3"):
        clusters(1, 10, 3, 1.0, seeded())
