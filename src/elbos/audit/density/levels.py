r"""Independently sampled noise levels, and the discrete table from which a loss samples noise
levels.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import scipy
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from elbos.audit.density.curves import Splines, counts_by_block
from elbos.audit.diagnostics import Clamped, Diagnostic, OneLevelPerBatch, SharedLevels
from elbos.audit.probing.measure import Samples
from elbos.base.arrays import Array

_COLUMNS = ("logsnr", "error", "quantiles", "block")
_MIN_LEVELS = 8
_MIN_GAIN = 8.0  # in log-likelihood over equal steps; by chance in 3 of 2,000 tables


@dataclass(frozen=True)
class Levels:
    logsnr: Float[Array, " n"]  # finite
    error: Float[Array, " n"]  # rounding error
    quantiles: Float[Array, "n draws"]  # logits of the draws for each sample
    block: Float[Array, " n"]  # number of the independent block of samples
    has_infinite: tuple[bool, bool] = (False, False)  # pure noise, clean data were left out
    repeats: float = 1.0  # mean number of samples of a batch that share a level

    @classmethod
    def from_samples(cls, samples: Samples) -> "Levels":
        is_finite = samples.logsnr.isfinite()
        columns = (samples.logsnr, samples.rounding, samples.quantiles, samples.block)
        noise, clean = (bool((samples.logsnr == end).any()) for end in (-torch.inf, torch.inf))
        logsnr, error, quantiles, block = (column[is_finite].numpy() for column in columns)
        return cls(logsnr, error, quantiles, block, (noise, clean))

    def at(self, index: NDArray[np.int64]) -> "Levels":
        columns: dict[str, Any] = {name: getattr(self, name)[index] for name in _COLUMNS}
        return replace(self, **columns)

    def joined(self, other: "Levels") -> "Levels":
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in _COLUMNS}
        columns: dict[str, Any] = {name: np.concatenate(pair) for name, pair in pairs.items()}
        return replace(self, **columns)

    @cached_property
    def distinct(self) -> tuple[Float[Array, " t"], NDArray[np.int64]]:
        """Distinct noise levels, equal within rounding or far closer than neighbours, and their
        counts.
        """
        order = np.argsort(self.logsnr)
        ordered, error = self.logsnr[order], self.error[order]
        low, high = np.quantile(ordered, [0.25, 0.75])
        gaps = np.diff(ordered)
        inner = gaps[(ordered[1:] > low) & (ordered[1:] < high)]
        tiny = max(2e-6, 0.02 * (high - low) / max(len(inner), 1))
        if len(inner) == 0 or (inner < tiny).mean() > 0.4:
            wide = inner[inner >= tiny]
            tiny = np.median(wide) / 10 if len(wide) else 1e-4
        is_start = gaps > np.maximum(tiny, 8 * error[1:])
        starts = np.flatnonzero(np.concatenate([[True], is_start]))
        counts = np.diff(np.append(starts, len(ordered)))
        return np.add.reduceat(ordered, starts) / counts, counts


def independent_levels(samples: Samples) -> tuple[Levels, list[Diagnostic]]:
    """Select the independently sampled noise levels.

    Levels shared within a batch count once, and clamped levels are dropped. If shared levels form
    no table, all samples are returned: their number may differ between levels.

    Raises:
        ValueError: If there are too few noise levels for a curve.
    """
    is_finite = samples.logsnr.isfinite()
    levels = Levels.from_samples(samples)
    batch = samples.batch[is_finite].numpy()
    logsnr, num = levels.logsnr, len(is_finite)
    if len(logsnr) < 100:
        raise ValueError(
            f"Of {num} samples, all but {len(logsnr)} are pure noise or clean data: there is no "
            "weighting to measure."
        )
    if np.ptp(logsnr) < 1e-4:
        raise ValueError(
            f"The loss draws a single noise level, log-SNR {logsnr[0]:.2f}: there is no weighting "
            "to measure."
        )
    independent, diagnostics = _without_repetitions(levels, batch, samples.logsnr_error)
    values, _ = independent.distinct
    if len(values) < _MIN_LEVELS:
        raise ValueError(
            f"The loss draws only {len(values)} noise levels, at log-SNR "
            f"{', '.join(f'{value:.2f}' for value in values)}: too few for a curve."
        )
    return independent, diagnostics


def _without_repetitions(
    levels: Levels, batch: Array, logsnr_error: float
) -> tuple[Levels, list[Diagnostic]]:
    logsnr = levels.logsnr
    firsts = np.flatnonzero(np.diff(batch, prepend=-1))
    sizes = np.diff(np.append(firsts, len(batch)))
    spread = np.maximum.reduceat(logsnr, firsts) - np.minimum.reduceat(logsnr, firsts)
    if sizes.max() > 1 and (spread < 1e-4 + 8 * logsnr_error).all():
        return levels.at(firsts), [OneLevelPerBatch(len(firsts))]
    # Independent samples of a batch would seldom have equal levels.
    values, counts = levels.distinct
    place = np.searchsorted((values[1:] + values[:-1]) / 2, logsnr)
    _, apart = np.unique(batch * len(values) + place, return_index=True)
    probability = counts / counts.sum()
    expected = sum((1 - (1 - probability) ** size).sum() for size in sizes[:32])
    if np.isin(batch[apart], np.unique(batch)[:32]).sum() < 0.75 * expected:
        apart, shared = np.sort(apart), SharedLevels(len(apart))
        if Table.from_levels(levels.at(apart)):
            return levels.at(apart), [shared]
        return replace(levels, repeats=len(logsnr) / len(apart)), [shared]
    is_atom = counts > np.maximum(0.005 * len(logsnr), 20 * np.median(counts))
    is_table = np.median(counts) > 1
    if is_table or not is_atom.any() or is_atom.sum() > 5:
        return levels, []
    share = float(counts[is_atom].sum() / len(logsnr))
    clamped = Clamped(share=share, logsnr=values[is_atom].tolist())
    rest = np.abs(logsnr[:, None] - values[is_atom]).min(1) > 1e-5 + 8 * levels.error
    return levels.at(np.flatnonzero(rest)), [clamped]


@dataclass(frozen=True)
class Table:
    levels: Float[Array, " t"]  # drawn levels, increasing
    steps: Float[Array, " t"]  # indices in the table; levels never drawn leave gaps
    counts: NDArray[np.int64]  # number of samples at each level
    counts_by_block: Float[Array, "r s"]  # number of samples at all steps, by block

    @classmethod
    def from_levels(cls, levels: Levels) -> "Table | None":
        """Reconstruct the discrete table of noise levels; None if the levels look continuous."""
        values, counts = levels.distinct
        if len(values) < 3 or counts.mean() < 2 * levels.repeats:
            return None
        gaps = np.diff(values)
        usual = scipy.ndimage.median_filter(gaps, size=min(9, len(gaps)), mode="nearest")
        missing = np.clip(np.rint(gaps / usual), 1, 4) if counts.mean() < 30 else np.ones(len(gaps))
        steps = np.concatenate([[0.0], np.cumsum(missing)])
        place = np.searchsorted((values[1:] + values[:-1]) / 2, levels.logsnr)
        by_block = counts_by_block(steps[place].astype(int), levels.block, int(steps[-1]) + 1)
        return cls(values, steps, counts, by_block)

    def __len__(self) -> int:
        return int(self.steps[-1]) + 1

    @property
    def is_uniform(self) -> bool:
        """True if all time steps are equally likely."""
        mean = self.counts.sum() / len(self)
        num_never = len(self) - len(self.counts)
        chi2 = ((self.counts - mean) ** 2).sum() / mean + num_never * mean
        degrees = len(self) - 1
        if chi2 - degrees > 5 * (2 * degrees) ** 0.5:
            return False
        even = -float(self.counts.sum()) * np.log(len(self)) / self.spline.dispersion
        return bool(max(spline.score for spline in self.spline.splines) - even < _MIN_GAIN)

    @cached_property
    def spline(self) -> Splines:
        return Splines.of_counts(np.arange(len(self), dtype=np.float64), self.counts_by_block)


def table_log_density(
    levels: Float[Array, " t"],
    steps: Float[Array, " t"],
    log_probability: Float[Array, " t"],
    logsnr: Float[Array, " g"],
) -> tuple[Float[Array, " g"], Float[Array, " g"]]:
    """Compute the log-density of a table of noise levels, and its error: a quarter of a step's
    change.
    """
    log_p = log_probability - np.log(np.gradient(levels, steps))
    change = np.abs(np.diff(log_p)) / 4
    change = np.maximum(np.append(change, 0), np.append(0, change))
    interpolated = scipy.interpolate.PchipInterpolator(levels, log_p)(logsnr)
    return np.asarray(interpolated), np.interp(logsnr, levels, change)
