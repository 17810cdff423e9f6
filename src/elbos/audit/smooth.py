r"""A smooth log-density of noise levels, with its uncertainty.

$\log p$ is a natural cubic spline, linear beyond its outer knots, fitted to the counts in narrow
bins as a Poisson regression: a density without the trouble of kernels at the ends. Numbers of knots
are averaged over with Akaike's weights, and what they differ by counts as error.

References:
    Lindsey's method: Efron & Tibshirani (1996), https://doi.org/10.1214/aos/1032181161
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

Array = NDArray[np.float64]
_NUM_BINS = 1024
_NUM_KNOTS = (3, 4, 5, 6, 8, 10, 13, 16, 20, 26)


@dataclass(frozen=True)
class _LogSpline:
    """A log-spline of probabilities over places, by Poisson regression of counts."""

    knots: Float[Array, " k"]
    coefficients: Float[Array, " k"]
    inverse_information: Float[Array, "k k"]
    mean: Float[Array, " k"]
    log_normalizer: float
    log_likelihood: float

    @classmethod
    def fit(cls, places: Float[Array, " m"], counts: NDArray[Any], num: int) -> "_LogSpline":
        """The most likely one, by Newton's method; `num` is the number of knots."""
        share = np.cumsum(counts) / counts.sum()
        low, high = places[np.searchsorted(share, [0.005, 0.995])]
        knots = np.linspace(low, high, num)
        basis = _natural_basis(knots, places)
        total = counts.sum()
        theta = np.zeros(len(knots))
        for _ in range(50):
            log_p = basis @ theta
            p = np.exp(log_p - log_p.max())
            p /= p.sum()
            mean = p @ basis
            information = total * ((basis.T * p) @ basis - np.outer(mean, mean))
            information += 1e-8 * total * np.eye(len(knots))  # a constant changes nothing
            step = np.linalg.solve(information, counts @ basis - total * mean)
            theta += step * min(1.0, 2.0 / np.abs(step).max())
            if np.abs(step).max() < 1e-8:
                break
        log_p = basis @ theta
        log_normalizer = float(np.logaddexp.reduce(log_p))
        log_likelihood = float(counts @ (log_p - log_normalizer))
        inverse = np.linalg.inv(information)
        return cls(knots, theta, inverse, mean, log_normalizer, log_likelihood)

    def log_p(self, places: Array) -> Array:
        """Log-probabilities, per place of the regression."""
        log_p = _natural_basis(self.knots, places) @ self.coefficients
        return np.asarray(log_p - self.log_normalizer)

    def covariance(self, places: Array) -> Array:
        centered = _natural_basis(self.knots, places) - self.mean
        return np.asarray(centered @ self.inverse_information @ centered.T)


@dataclass(frozen=True)
class LogSplines:
    r"""Log-splines of several numbers of knots, averaged with Akaike's weights.

    What they differ by is part of the covariance, since the number of knots is a guess, too.

    Attributes:
        splines: The candidates.
        weights: $\propto e^{-\mathrm{AIC}/2}$, summing to 1.
    """

    splines: list[_LogSpline]
    weights: Float[Array, " s"]

    @classmethod
    def fit(cls, places: Float[Array, " m"], counts: NDArray[Any]) -> "LogSplines":
        splines = [_LogSpline.fit(places, counts, num) for num in _NUM_KNOTS]
        scores = np.array([spline.log_likelihood - len(spline.knots) for spline in splines])
        weights = np.exp(scores - scores.max())
        return cls(splines, weights / weights.sum())

    def log_p(self, places: Array) -> Array:
        return np.asarray(self.weights @ [spline.log_p(places) for spline in self.splines])

    @property
    def log_likelihood(self) -> float:
        return float(self.weights @ [spline.log_likelihood for spline in self.splines])

    @property
    def penalized_log_likelihood(self) -> float:
        """The best, less its number of parameters, as Akaike's criterion has it."""
        return max(spline.log_likelihood - (len(spline.knots) - 1) for spline in self.splines)

    def covariance(self, places: Array) -> Array:
        mean = self.log_p(places)
        total = np.outer(self._extrapolated(places), self._extrapolated(places))
        for weight, spline in zip(self.weights, self.splines, strict=True):
            away = spline.log_p(places) - mean
            total += weight * (spline.covariance(places) + np.outer(away, away))
        return np.asarray(total)

    def _extrapolated(self, places: Array) -> Array:
        """How far off straight lines beyond the outer knots are, of a curve that bends there as
        much as it does anywhere between them.
        """
        low, high = self.splines[0].knots[[0, -1]]
        inside = np.linspace(low, high, 100)
        bend = np.abs(np.gradient(np.gradient(self.log_p(inside), inside), inside)).max()
        return np.asarray(bend / 2 * (places - np.clip(places, low, high)) ** 2)


@dataclass(frozen=True)
class Smooth:
    """The density of levels without a table: a log-spline over narrow bins."""

    spline: LogSplines
    width: float
    num: int

    @classmethod
    def fit(cls, logsnr: Float[Array, " n"]) -> "Smooth":
        counts, edges = np.histogram(logsnr, bins=_NUM_BINS)
        spline = LogSplines.fit((edges[1:] + edges[:-1]) / 2, counts)
        return cls(spline, float(edges[1] - edges[0]), len(logsnr))

    def log_p(self, logsnr: Array) -> Array:
        return np.asarray(self.spline.log_p(logsnr) - np.log(self.width))

    @property
    def log_likelihood(self) -> float:
        return self.spline.log_likelihood - self.num * float(np.log(self.width))

    def covariance(self, logsnr: Array) -> Array:
        return self.spline.covariance(logsnr)


def _natural_basis(knots: Float[Array, " k"], at: Float[Array, " m"]) -> Float[Array, "m k"]:
    """Natural cubic splines that are 1 at one knot and 0 at the others; linear beyond the ends."""
    spline = CubicSpline(knots, np.eye(len(knots)), bc_type="natural")
    inside = np.clip(at, knots[0], knots[-1])
    beyond = (at - inside)[:, None]
    return np.asarray(spline(inside) + beyond * spline(inside, 1))
