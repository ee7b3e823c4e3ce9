"""A Gaussian process over the configurations that were measured: what is expected of the others, and how surely."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

DRAWS = 64  # hyperparameters that are drawn from their prior
ROUNDS, CHILDREN = 3, 24  # of improving the likeliest of them by small changes
KEPT = 8  # hyperparameters that predictions are averaged over
CHANGE = 0.4  # standard deviation of those changes, in the units of the prior's
ADDITIVE = 0.8  # share of the variance that is a sum of effects of single coordinates, the rest being interactions
LENGTH = 0.7  # median of the prior of a length scale, as a share of a coordinate's range
NOISE = math.exp(-5.0)  # median of the prior of the noise's variance, as a share of the values' variance
NOISE_SPREAD = 1.5  # standard deviation of its logarithm
JITTER = 1e-6


class Prediction(NamedTuple):
    """Means and standard deviations of shape (hyperparameters, points), and the weights of the hyperparameters."""

    means: Array
    deviations: Array
    weights: Array

    @property
    def expected(self) -> Array:
        """The mean over hyperparameters, of shape (points,)."""
        mean: Array = self.weights @ self.means
        return mean


@dataclass(frozen=True, slots=True)
class Metric:
    """How far apart two points are in each coordinate, 0 to 1: the difference of numbers, or whether kinds differ."""

    ordered: tuple[bool, ...]

    def distances(self, one: Array, other: Array) -> Array:
        """Return distances of shape (coordinates, len(one), len(other)) between two lists of points."""
        apart: Array = np.abs(one.T[:, :, None] - other.T[:, None, :])
        kinds = ~np.asarray(self.ordered, dtype=bool)
        apart[kinds] = apart[kinds] > 0
        return apart


class Surrogate:
    """Expectations of one quantity, learnt from few noisy values.

    Matérn 5/2 with a length scale for each coordinate, most of the variance a sum of one-dimensional
    effects: in the logarithm of a throughput the effects of settings mostly add. Instead of one best
    guess of the hyperparameters, predictions are averaged over several that explain the values about
    as well: with twenty values the best guess is often wrong (Snoek, Larochelle and Adams, "Practical
    Bayesian Optimization of Machine Learning Algorithms", NIPS 2012, section 3.2). They are found by
    drawing from a log-normal prior and improving the likeliest; equal arguments, equal results.
    """

    def __init__(self, metric: Metric, points: Array, values: Array, chance: np.random.Generator) -> None:
        """Learn from values of shape (n,) at points of shape (n, coordinates); n is at least 1."""
        self._metric = metric
        self._points = points
        self._mean = float(values.mean())
        self._scale = float(values.std()) or 1.0
        self._targets = (values - self._mean) / self._scale
        self._own = metric.distances(points, points)
        self._thetas, self._weights = self._explain(chance)
        self._condition()

    def predict(self, points: Array) -> Prediction:
        """Return what is expected at points of shape (n, coordinates), without the noise of a measurement."""
        cross = _kernel(self._thetas, self._metric.distances(self._points, points))
        means = np.einsum("kn,knm->km", self._alpha, cross)
        half = np.linalg.solve(self._lower, cross)
        deviations = np.sqrt(np.maximum(1.0 - np.einsum("knm,knm->km", half, half), 1e-9))
        return Prediction(means * self._scale + self._mean, deviations * self._scale, self._weights)

    def believe(self, points: Array) -> None:
        """Take what is expected at points for measured there: nothing more is then to be learnt at them.

        That keeps parallel trials apart (Ginsbourger, Le Riche and Carraro, "Kriging is well-suited to
        parallelize optimization", 2010: the kriging believer).
        """
        if len(points) == 0:
            return
        expected = (self.predict(points).expected - self._mean) / self._scale
        self._points = np.concatenate((self._points, points))
        self._targets = np.concatenate((self._targets, expected))
        self._own = self._metric.distances(self._points, self._points)
        self._condition()

    def _condition(self) -> None:
        self._lower = self._cholesky(self._thetas)
        targets = np.broadcast_to(self._targets, (len(self._thetas), len(self._targets)))[..., None]
        half = np.linalg.solve(self._lower, targets)
        self._alpha: Array = np.linalg.solve(np.swapaxes(self._lower, -1, -2), half)[..., 0]

    def _explain(self, chance: np.random.Generator) -> tuple[Array, Array]:
        """Return the hyperparameters that explain the values best, with their weights."""
        thetas = chance.normal(0.0, 1.0, (DRAWS, self._points.shape[1] + 1))
        thetas[0] = 0.0
        scores = self._posterior(thetas)
        for _ in range(ROUNDS):
            parents = thetas[np.argsort(-scores, kind="stable")[:KEPT]]
            chosen = parents[chance.integers(len(parents), size=CHILDREN)]
            children = chosen + chance.normal(0.0, CHANGE, chosen.shape)
            thetas = np.concatenate((thetas, children))
            scores = np.concatenate((scores, self._posterior(children)))
        best = np.argsort(-scores, kind="stable")[:KEPT]
        weights = np.exp(scores[best] - scores[best[0]])
        normalised: Array = weights / weights.sum()
        return thetas[best], normalised

    def _posterior(self, thetas: Array) -> Array:
        """Return the logarithm of likelihood times prior of each, but for a constant."""
        lower = self._cholesky(thetas)
        targets = np.broadcast_to(self._targets, (len(thetas), len(self._targets)))[..., None]
        half = np.linalg.solve(lower, targets)[..., 0]
        fit = -0.5 * np.einsum("kn,kn->k", half, half) - np.log(np.einsum("kii->ki", lower)).sum(axis=1)
        prior: Array = -0.5 * np.einsum("kd,kd->k", thetas, thetas)
        posterior: Array = fit + prior
        return posterior

    def _cholesky(self, thetas: Array) -> Array:
        kernel = _kernel(thetas, self._own)
        here = np.arange(len(self._points))
        kernel[:, here, here] += NOISE * np.exp(NOISE_SPREAD * thetas[:, -1:]) + JITTER
        lower: Array = np.linalg.cholesky(kernel).astype(np.float64, copy=False)
        return lower


def _kernel(thetas: Array, distances: Array) -> Array:
    """Return the correlations of shape (hyperparameters, n, m) at distances of shape (coordinates, n, m).

    `thetas` are standard normal: the logarithm of each length scale, then that of the noise.
    """
    coordinates = len(distances)
    lengths = LENGTH * np.exp(thetas[:, :-1])
    squares = np.square(distances)
    inverse = 1.0 / np.square(lengths)
    # Points of many coordinates are far apart: as far as points of four, whatever their number.
    joint = np.einsum("kd,dnm->knm", inverse / max(1.0, coordinates / 4), squares)
    kernel: Array = (1.0 - ADDITIVE) * _matern(joint)
    # A coordinate whose length scale is long hardly matters: its share of the sum is small.
    shares = ADDITIVE / lengths / (1.0 / lengths).sum(axis=1, keepdims=True)
    for coordinate in range(coordinates):
        effect = _matern(inverse[:, coordinate, None, None] * squares[coordinate])
        kernel += shares[:, coordinate, None, None] * effect
    return kernel


def _matern(squares: Array) -> Array:
    """Return the Matérn 5/2 correlation at a distance whose square is given, for length scales of 1."""
    distance = math.sqrt(5.0) * np.sqrt(squares)
    value: Array = (1.0 + distance + distance * distance / 3.0) * np.exp(-distance)
    return value
