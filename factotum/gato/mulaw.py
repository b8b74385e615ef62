"""Numbers to bins and back: the mu-law codec (arXiv 2205.06175, section 2.1, appendix B)."""

from __future__ import annotations

import numpy as np

from factotum.gato.config import Vocabulary


def compand(x: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    r"""Mu-law: $F(x) = \mathrm{sgn}(x) \log(\mu|x| + 1) / \log(\mu M + 1)$, clipped to [-1, 1].

    >>> compand(np.array([0.01, 1.0, 256.0]), Vocabulary()).round(3).tolist()
    [0.068, 0.455, 1.0]
    """
    scaled = np.log(np.abs(x) * vocabulary.mu + 1.0) / np.log(vocabulary.mu * vocabulary.maximum + 1.0)
    return np.clip(np.sign(x) * scaled, -1.0, 1.0)


def expand(y: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """The inverse of `compand`.

    >>> expand(compand(np.array([-3.5]), Vocabulary()), Vocabulary()).round(6).tolist()
    [-3.5]
    """
    magnitude = np.expm1(np.abs(y) * np.log(vocabulary.mu * vocabulary.maximum + 1.0)) / vocabulary.mu
    return np.sign(y) * magnitude


def to_bins(y: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """Numbers in [-1, 1] to ids of the continuous range, by uniform bins.

    >>> to_bins(np.array([-1.0, 0.0, 1.0]), Vocabulary()).tolist()
    [32000, 32512, 33023]
    """
    bins = np.floor((np.clip(y, -1.0, 1.0) + 1.0) / 2.0 * vocabulary.bins).astype(np.int64)
    return np.minimum(bins, vocabulary.bins - 1) + vocabulary.continuous_start


def from_bins(ids: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """Bin centres in [-1, 1]."""
    return (np.asarray(ids) - vocabulary.continuous_start + 0.5) / vocabulary.bins * 2.0 - 1.0
