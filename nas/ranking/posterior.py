"""The posterior of the additive model at one ratio of variances, computed over assignments or over swaps."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from nas.ranking.grouped_scores import GroupedScores, Indices, Pairs
from nas.study.objective import Array

MOST_LEVELS = 24
"""Number of different variances of rows that are told apart over swaps."""


class Basis(Protocol):
    """The posterior at one ratio of interactions to effects, for every point of the grid of variances.

    Attributes:
        evidence: Logarithm of the marginal likelihood, (grid,).
    """

    evidence: Array

    def means(self) -> Array:
        """Return the posterior means of the coefficients, (coefficients, grid)."""

    def covariance(self, weights: Array) -> Array:
        """Return the weighted sum over the grid of the coefficients' posterior covariances."""

    def left_out(self, rows: Indices, points: Indices) -> tuple[Array, Array]:
        """Return the errors of predicting each row from all others, and their precisions, (rows, points) each.

        Both are in the scale of a row, which is weighted by the root of its number of observations.
        """


class RotatedBasis:
    """A basis over assignments: the data are rotated so that all variances of the grid have a closed form.

    Rows are weighted by the root of their number of observations; `vectors` span what is orthogonal to the baseline.
    `cross` and `sizes` are the covariances of the coefficients with the data, and their variances, over an effect's.
    """

    def __init__(self, data: GroupedScores, learnt: Pairs, ratio: float) -> None:
        columns = np.hstack([data.rows, data.rows[:, learnt[:, 0]] * data.rows[:, learnt[:, 1]]]) * data.root[:, None]
        self.sizes: Array = np.repeat([1.0, ratio], [data.rows.shape[1], len(learnt)])
        gram = columns * self.sizes @ columns.T
        np.fill_diagonal(gram, data.root**2 * (data.swapped + ratio * data.swapped * (data.swapped - 1) / 2))
        # A reflection takes the baseline's direction to the first axis; what is orthogonal to it are the other axes.
        mirror = data.root / np.linalg.norm(data.root)
        mirror[0] += 1.0
        mirror /= np.linalg.norm(mirror)
        half = np.outer(mirror, gram @ mirror - (mirror @ gram @ mirror) * mirror)
        values, turned = np.linalg.eigh((gram - 2 * (half + half.T))[1:, 1:])
        self.vectors: Array = np.vstack([np.zeros(len(values)), turned]) - 2 * np.outer(mirror, mirror[1:] @ turned)
        self.seen: Array = (self.vectors.T @ (data.root * data.scores))[:, None]
        self.effect = data.effect
        self.variance: Array = np.outer(np.maximum(values, 0.0), data.effect) + data.noise
        fits = (np.log(self.variance) + self.seen**2 / self.variance).sum(0)
        self.evidence: Array = -0.5 * (fits + data.spare * np.log(data.noise) + data.within / data.noise)
        self.cross: Array = self.vectors.T @ (columns * self.sizes)

    def means(self) -> Array:
        """Return as `Basis.means`."""
        means: Array = self.cross.T @ (self.seen * self.effect / self.variance)
        return means

    def covariance(self, weights: Array) -> Array:
        """Return as `Basis.covariance`."""
        known = (weights * self.effect**2 / self.variance).sum(1)
        found: Array = weights @ self.effect * np.diag(self.sizes) - self.cross.T * known @ self.cross
        return found

    def left_out(self, rows: Indices, points: Indices) -> tuple[Array, Array]:
        """Return as `Basis.left_out`."""
        vectors, variance = self.vectors[rows], self.variance[:, points]
        precision = np.maximum(vectors**2 @ (1 / variance), 1e-99)  # a single assignment: nothing is known without it
        return vectors @ (self.seen / variance) / precision, precision


class SpectralBasis:
    """A basis over swaps where all rows have the same variance beyond the learnt effects: one rotation, of the swaps.

    `vectors` are those of `RotatedBasis` that the effects reach, and `rest` is what the others, whose `values` are 0,
    have of each row's square.
    """

    def __init__(self, data: GroupedScores, learnt: Pairs, ratio: float) -> None:
        columns, extra = design_of(data, learnt, ratio)
        assert np.ptp(extra) == 0, "rows of different variance need NormalEquations"
        self.scale: Array = np.sqrt(np.repeat([1.0, ratio], [data.rows.shape[1], len(learnt)]))
        self.effect, self.noise = data.effect, data.noise + data.effect * extra[0]
        base = data.root / np.linalg.norm(data.root)
        columns = (columns - np.outer(base, base @ columns)) * self.scale
        values, turned = np.linalg.eigh(columns.T @ columns)
        reached = values > 1e-12 * max(values.max(initial=0.0), 1e-300)
        self.values, self.turned = values[reached], turned[:, reached]
        self.vectors: Array = columns @ (self.turned / np.sqrt(self.values))
        scores = data.root * (data.scores - data.scores.mean())
        scores = scores - base * (base @ scores)
        self.seen: Array = (self.vectors.T @ scores)[:, None]
        self.unseen: Array = scores - self.vectors @ self.seen[:, 0]
        self.rest: Array = np.maximum(1 - base**2 - (self.vectors**2).sum(1), 0.0)
        self.variance: Array = np.outer(self.values, self.effect) + self.noise
        others = len(scores) - 1 - len(self.values)
        fits = (np.log(self.variance) + self.seen**2 / self.variance).sum(0)
        fits = fits + others * np.log(self.noise) + (self.unseen**2).sum() / self.noise
        self.evidence: Array = -0.5 * (fits + data.spare * np.log(data.noise) + data.within / data.noise)

    def means(self) -> Array:
        """Return as `Basis.means`."""
        weights = self.seen * np.sqrt(self.values)[:, None] * self.effect / self.variance
        means: Array = self.scale[:, None] * (self.turned @ weights)
        return means

    def covariance(self, weights: Array) -> Array:
        """Return as `Basis.covariance`."""
        known = ((weights * self.effect**2 / self.variance).sum(1)) * self.values
        turned = self.scale[:, None] * self.turned
        found: Array = weights @ self.effect * np.diag(self.scale**2) - turned * known @ turned.T
        return found

    def left_out(self, rows: Indices, points: Indices) -> tuple[Array, Array]:
        """Return as `Basis.left_out`."""
        vectors, variance, noise = self.vectors[rows], self.variance[:, points], self.noise[points]
        precision = np.maximum(vectors**2 @ (1 / variance) + np.outer(self.rest[rows], 1 / noise), 1e-99)
        return (vectors @ (self.seen / variance) + np.outer(self.unseen[rows], 1 / noise)) / precision, precision


def design_of(data: GroupedScores, learnt: Pairs, ratio: float) -> tuple[Array, Array]:
    """Return the columns of swaps and learnt pairs, and each row's variance of other pairs over an effect's.

    Of more than `MOST_LEVELS` different variances, each is rounded to one of so many.
    """
    pairs = data.rows[:, learnt[:, 0]] * data.rows[:, learnt[:, 1]]
    beyond = data.swapped * (data.swapped - 1) / 2 - pairs.sum(1)
    extra = np.round(ratio * data.root**2 * beyond, 12)
    if len(np.unique(extra)) > MOST_LEVELS:
        step = np.ptp(extra) / (MOST_LEVELS - 1)
        extra = extra.min() + step * np.round((extra - extra.min()) / step)
    return np.hstack([data.rows, pairs]) * data.root[:, None], extra


def basis_over_swaps(data: GroupedScores, learnt: Pairs, ratio: float) -> Basis:
    """Return the basis over swaps that these data need."""
    even = np.ptp(design_of(data, learnt, ratio)[1]) == 0
    return SpectralBasis(data, learnt, ratio) if even else NormalEquations(data, learnt, ratio)


class NormalEquations:
    """A basis over swaps, for many assignments: their number enters linearly.

    The covariance of the data is ``effect * (X @ diag(sizes) @ X.T + diag(extra) + t * I)`` with ``t = noise /
    effect``; `extra` is the variance of pairs that are not learnt. By Woodbury's identity all that is needed of it
    follows from the inverse of ``diag(1 / sizes) + X.T @ diag(1 / (extra + t)) @ X``, where X has a first column for
    the baseline, whose prior is flat. Rows of the same `extra` are summed up once, and each different t is solved once.
    """

    def __init__(self, data: GroupedScores, learnt: Pairs, ratio: float) -> None:
        columns, extra = design_of(data, learnt, ratio)
        self.size = 1 + columns.shape[1]
        self.effect = data.effect
        columns = columns if ratio else columns[:, : data.rows.shape[1]]
        self.columns: Array = np.hstack([data.root[:, None], columns])
        self.scores: Array = data.root * (data.scores - data.scores.mean())
        levels, self.level = np.unique(extra, return_inverse=True)
        self.level = self.level.reshape(-1)
        penalties = np.ones(self.columns.shape[1])
        penalties[0] = 0.0
        penalties[1 + data.rows.shape[1] :] = 1 / ratio if ratio else 1.0
        every = [self.level == k for k in range(len(levels))]
        grams = np.array([self.columns[own].T @ self.columns[own] for own in every])
        shares = np.array([self.columns[own].T @ self.scores[own] for own in every])
        counts = np.bincount(self.level)

        ratios = np.log(data.noise / data.effect)
        _, first, self.at = np.unique(np.round(ratios, 9), return_index=True, return_inverse=True)
        self.at = self.at.reshape(-1)
        self.variances: Array = levels + np.exp(ratios[first])[:, None]
        self.matrices: list[Array] = []
        self._inverses: dict[int, Array] = {}
        found = []
        for variance in self.variances:
            matrix = np.tensordot(1 / variance, grams, 1) + np.diag(penalties)
            mean = np.linalg.solve(matrix, (1 / variance) @ shares)
            self.matrices.append(matrix)
            log = counts @ np.log(variance) + 2 * np.log(np.diag(np.linalg.cholesky(matrix))).sum()
            errors = self.scores - self.columns @ mean
            found.append((mean, log, errors**2 @ (1 / variance)[self.level] + mean**2 @ penalties))
        self.mean: Array = np.array([mean for mean, *_ in found])
        sizes = -np.log(penalties[1:]).sum() - np.log((data.root**2).sum())
        logs = np.array([log for _, log, _ in found]) + sizes
        fits = np.array([fit for *_, fit in found])
        free = len(data.root) - 1
        likelihood = free * np.log(data.effect) + logs[self.at] + fits[self.at] / data.effect
        self.evidence: Array = -0.5 * (likelihood + data.spare * np.log(data.noise) + data.within / data.noise)

    def means(self) -> Array:
        """Return as `Basis.means`."""
        means = np.zeros((self.size - 1, len(self.at)))
        means[: self.mean.shape[1] - 1] = self.mean[:, 1:].T[:, self.at]
        return means

    def covariance(self, weights: Array) -> Array:
        """Return as `Basis.covariance`."""
        found = np.zeros((self.size - 1, self.size - 1))
        known = self.mean.shape[1] - 1
        every = np.bincount(self.at, weights * self.effect)
        for k in np.flatnonzero(every > 1e-16 * every.sum()):
            found[:known, :known] += every[k] * self._inverse(int(k))[1:, 1:]
        return found

    def _inverse(self, k: int) -> Array:
        if k not in self._inverses:
            self._inverses[k] = np.asarray(np.linalg.inv(self.matrices[k]), dtype=np.float64)
        return self._inverses[k]

    def left_out(self, rows: Indices, points: Indices) -> tuple[Array, Array]:
        """Return as `Basis.left_out`."""
        columns, scores = self.columns[rows], self.scores[rows]
        misses, precisions = np.empty((2, len(rows), len(self.variances)))
        needed = np.unique(self.at[points])
        for k in needed:
            weight = 1 / self.variances[k][self.level[rows]]
            leverage = weight * np.einsum("ij,ij->i", columns @ self._inverse(int(k)), columns)
            precisions[:, k] = weight * np.maximum(1 - leverage, 1e-15)
            misses[:, k] = weight * (scores - columns @ self.mean[k]) / precisions[:, k]
        at = self.at[points]
        return misses[:, at], precisions[:, at] / self.effect[points]
