"""A Gaussian process over variants: predicted scores and their uncertainty.

The covariance of two scores is ``exp(-d / l)`` for a Hamming distance of d slots (an exponential kernel on a graph of
categories; see Kondor & Lafferty, ICML 2002). A large length scale l makes the process nearly additive, a small one
allows for interactions. Length scale and noise maximise the marginal likelihood on a grid; mean and scale of the scores
have closed forms (Rasmussen & Williams, Gaussian Processes for Machine Learning, 2006, sections 2.7 and 5.4).
"""

from __future__ import annotations

import math

import numpy as np
from scipy.linalg import cho_solve, cholesky, eigh, solve_triangular

from nas.samplers.encoding import Codes
from nas.study.objective import Array

_LENGTHS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
_RATIOS = (1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
"""Variance of the noise over that of the process."""
_PER_DOUBLING = 0.5
"""Prior on the length scale: log-density added when it doubles. It favours additivity, about which the scores of single
swaps say nothing."""
_MAX_FOR_GRID = 100
"""Scores that the grid is evaluated on: with more, its maximum hardly moves, and it would cost as much as a step."""


class GaussianProcess:
    """A fitted process; its posterior is that of the noise-free score."""

    def __init__(self, codes: Codes, scores: Array, error: float | None = None) -> None:
        """Fit.

        Args:
            codes: (n, slots), the index of each slot's choice; equal rows are repeated trainings. At least one row.
            scores: (n,).
            error: Standard deviation of the noise where it has been measured; None estimates it.
        """
        self._codes, self._centre = codes, float(scores.mean())
        self._scale = float(scores.std()) or 1.0
        standard = (scores - self._centre) / self._scale
        some = np.unique(np.linspace(0, len(codes) - 1, min(len(codes), _MAX_FOR_GRID)).astype(int))
        error = error and error / self._scale
        self._length, ratio = _maximise_likelihood(distances(codes[some], codes[some]), standard[some], error)
        covariance = np.exp(-distances(codes, codes) / self._length)
        covariance[np.diag_indices(len(codes))] += ratio
        self._root: Array = cholesky(covariance, lower=True, check_finite=False)
        ones = np.ones(len(codes))
        weighted: Array = cho_solve((self._root, True), ones, check_finite=False)
        self._mean = float(weighted @ standard / weighted.sum())
        self._weights: Array = cho_solve((self._root, True), standard - self._mean, check_finite=False)
        self._variance = max(float((standard - self._mean) @ self._weights) / len(codes), 1e-12)

    def predict(self, codes: Codes) -> tuple[Array, Array]:
        """Return mean and standard deviation for (m, slots) codes, (m,) each."""
        across = np.exp(-distances(codes, self._codes) / self._length)
        mean = self._mean + across @ self._weights
        explained = solve_triangular(self._root, across.T, lower=True, check_finite=False)
        remaining = np.maximum(1.0 - (explained**2).sum(0), 1e-9)
        return mean * self._scale + self._centre, np.sqrt(self._variance * remaining) * self._scale


def distances(a: Codes, b: Codes) -> Array:
    """Return the Hamming distances between the rows of (n, slots) and of (m, slots), (n, m)."""
    most = int(max(a.max(initial=0), b.max(initial=0))) + 1
    flat = [np.eye(most, dtype=np.float32)[codes].reshape(len(codes), -1) for codes in (a, b)]
    shared: Array = (flat[0] @ flat[1].T).astype(np.float64)
    apart: Array = a.shape[1] - shared
    return apart


def _maximise_likelihood(apart: Array, scores: Array, error: float | None) -> tuple[float, float]:
    """Return the length scale and noise ratio with the highest marginal likelihood of standardised scores.

    A measured error gives the noise a log-normal prior around it, with a factor of 1.6 as its standard deviation.
    """
    n = len(scores)
    best, found = -math.inf, (_LENGTHS[0], _RATIOS[-1])
    for length in _LENGTHS:
        values, vectors = eigh(np.exp(-apart / length), check_finite=False)
        ones, turned = vectors.T @ np.ones(n), vectors.T @ scores
        for ratio in _RATIOS:
            variances = np.maximum(values, 0.0) + ratio
            mean = (ones * turned / variances).sum() / (ones**2 / variances).sum()
            scale = max(float(((turned - mean * ones) ** 2 / variances).sum()) / n, 1e-12)
            likelihood = -0.5 * float(n * math.log(scale) + np.log(variances).sum())
            likelihood += _PER_DOUBLING * math.log2(length)
            if error:
                likelihood -= 0.5 * (math.log(scale * ratio / error**2) / (2 * math.log(1.6))) ** 2
            if likelihood > best:
                best, found = likelihood, (length, ratio)
    return found
