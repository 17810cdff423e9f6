r"""Tests that the target, the coefficient and the network's conditioning are functions of the noise
level.

A weighting $w(\lambda)$ describes a loss if the noise level determines the target, and the
network's time input the noise level. A coefficient may be random if it is independent of the noise:
then its mean is the weight. The tests compare values at sorted levels with the mean of their two
neighbours.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import scipy
import torch
from jaxtyping import Float
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor

from elbos.audit import diagnostics as kinds
from elbos.audit.diagnostics import Diagnostic
from elbos.base.arrays import Array

_MIN_SCATTER = 0.1  # in log-SNR
_MIN_DISTINCT = 20  # values of a time
_MIN_CORRELATION = 0.5  # rank correlation of log-SNR and a time
_NORMAL = 0.6745 * 1.5**0.5  # the median deviation of independent normal values
_MAX_COLUMNS = 64  # tested columns of a condition such as an embedding
_NUM_ERRORS = 5.0  # above which a column depends on the level
_MIN_BATCH = 16  # samples; smaller batches are pooled
_GROUP = 8  # samples of neighbouring levels
_MAX_ELEMENTS = 1024
_MAX_RATIO = 4.0  # variance between groups over chance; exceeded in 10^-9 of cases
_MIN_CHANGE = 0.01  # change of an element's share in the coefficient
_WRONG, _MAX_WRONG = 0.5, 0.01  # distance in log-SNR from the level of a time; share of samples
_MIN_EQUAL = 3  # samples of one time
_MIN_BATCHES = 4  # least number with samples at one level
_MIN_OFF = 64  # samples that show what a coefficient depends on
_MAX_LEFT = 0.1  # share of the scatter of coefficients that is left by factors of the batches
_MIN_FACTORS = 20  # batches whose factors are compared with their levels
_MAX_EVEN = 0.3, 1.5  # variance of a batch's mean level over that of independent, of even ones
_EDGES = [0.002, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99, 0.998]  # quantiles: weights have tails
_MAX_CELLS = 64  # cells with equal shares of the levels
_MAX_UNEXPLAINED, _MAX_CHANCE = 0.5, 1e-3  # bounds for factors that are sums over levels
_NUM_NEIGHBOURS, _NUM_ROUNDS = 101, 8  # neighbours in noise level; rounds of alternating medians
_MIN_AGREEMENT = 0.5  # of signs; hard data may have a weight of their own, too


class Conditions:
    """Conditioning inputs of the network, such as times or labels, of the used `rows`."""

    def __init__(
        self,
        batches: Sequence[Sequence[Tensor]],
        sizes: Sequence[int],
        rows: Tensor | slice = slice(None),
    ) -> None:
        together = zip(*batches, strict=False)
        joined = [
            torch.cat(some)[rows] for some in together if len({c.shape[1] for c in some}) == 1
        ]
        batch = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))[rows].numpy()
        _, self.batch = np.unique(batch, return_inverse=True)  # numbers without gaps
        columns = torch.cat([torch.empty(len(batch), 0), *joined], dim=1)
        self.columns = columns.nan_to_num().numpy()
        # conditions that are one number per sample
        self.single = [column[:, 0] for column in joined if column.shape[1] == 1]

    def diagnostics(
        self, logsnr: Float[Tensor, " n"], alpha: Float[Tensor, " n"], *, error: float
    ) -> list[Diagnostic]:
        """Return a diagnostic if the conditioning inputs, or else `alpha`, do not fix log-SNR."""
        if not self.depend_on(logsnr):
            return [kinds.NoLevel()]
        is_mixed = logsnr.isfinite() & (logsnr.abs() < 30)
        level, columns = logsnr[is_mixed], [column[is_mixed] for column in self.single]
        coarse = [_spread_at_equal(c, level) for c in columns if _is_time(c, level, min_distinct=2)]
        if coarse and min(coarse) > _MIN_SCATTER:
            return [kinds.RoundedTimes(min(coarse))]
        times = [column for column in columns if _is_time(column, level)]
        if not times and alpha.std() > 1e-3 * alpha.mean():
            times = [alpha[is_mixed]]
        if not times or len(level) < 100:
            return []
        rising, place = level.sort()  # so that levels are monotone among equal times
        signs = [np.sign(_rank_correlation(time, level)) for time in times]
        orders = [
            (sign * time[place]).argsort(stable=True)
            for sign, time in zip(signs, times, strict=True)
        ]
        scatter = min(_deviations(rising[order]).abs().median().item() for order in orders)
        spacing = (level.max() - level.min()).item() / len(level)
        if scatter / _NORMAL >= max(_MIN_SCATTER, 3 * spacing) + 2 * error:
            return [kinds.UntoldLevels(scatter / _NORMAL)]
        return of_the_times(level, times, error=error)

    def depend_on(self, logsnr: Float[Tensor, " n"]) -> bool:
        """Test whether the conditioning inputs depend on log-SNR."""
        level = logsnr.nan_to_num(0.0).clamp(-40, 40).numpy()
        columns, batch = self.columns, self.batch
        firsts = np.flatnonzero(np.diff(batch, prepend=-1))
        spread = np.maximum.reduceat(level, firsts) - np.minimum.reduceat(level, firsts)
        if (spread < 1e-4).all():
            level, columns, batch = level[firsts], columns[firsts], 0 * firsts
            if len(level) < 2 * _MIN_BATCH:
                return bool((columns != columns[:1]).any())
        elif len(batch) < _MIN_BATCH * len(firsts):
            batch = 0 * batch
        order = np.lexsort((level, batch))
        ranks = scipy.stats.rankdata(columns[order], axis=0)
        firsts = np.flatnonzero(np.diff(batch[order], prepend=-1))
        means = np.add.reduceat(ranks, firsts) / np.diff(np.append(firsts, len(ranks)))[:, None]
        variance = ((ranks - means[batch[order]]) ** 2).sum(0)
        is_same = np.diff(batch[order]) == 0
        steps = (np.diff(ranks, axis=0)[is_same] ** 2).sum(0)
        excess = 1 - steps[variance > 0] / variance[variance > 0] / 2
        return bool((excess > _NUM_ERRORS / is_same.sum() ** 0.5).any())


def numbers(value: object, num: int) -> Iterator[Float[Tensor, "n k"]]:
    """Yield all numbers contained in network arguments."""
    if isinstance(value, Mapping):
        value = list(value.values())
    is_plain = isinstance(value, bool | int | float | np.ndarray | np.number)
    if isinstance(value, list | tuple):
        is_plain = len(value) == num and all(isinstance(item, int | float) for item in value)
    if is_plain and np.asarray(value).dtype.kind in "biuf":
        value = torch.as_tensor(np.asarray(value))
    if isinstance(value, Tensor) and value.numel():
        value = torch.view_as_real(value) if value.is_complex() else value
        is_by_sample = value.ndim > 0 and num in (len(value), value.numel())
        flat = value.detach().cpu().double().reshape(num if is_by_sample else 1, -1)
        columns = torch.linspace(0, flat.shape[1] - 1, min(flat.shape[1], _MAX_COLUMNS)).long()
        yield flat[:, columns].expand(num, -1).clone()
    elif isinstance(value, list | tuple):
        for item in value:
            yield from numbers(item, num)
    elif hasattr(value, "__dict__") and not callable(value):
        parts = vars(value).values()
        plain = [
            item for item in parts if isinstance(item, Tensor) or not hasattr(item, "__dict__")
        ]
        yield from numbers(plain, num)


def of_the_times(
    logsnr: Float[Tensor, " n"], inputs: Iterable[Float[Tensor, " n"]], *, error: float
) -> list[Diagnostic]:
    """Return a diagnostic if levels at some times are not between those at neighbouring times."""
    is_mixed = logsnr.isfinite() & (logsnr.abs() < 30)
    level = logsnr[is_mixed]
    times = [time[is_mixed] for time in inputs]
    wrong = [_wrong(time, level, 4 * error) for time in times if _is_time(time, level)]
    share, is_wrong = min(wrong, default=(0.0, False))
    return [kinds.WrongTimes(share)] if is_wrong else []


def of_the_target(
    logsnr: Float[Tensor, " n"], factor: Float[Tensor, " n"], *, error: float
) -> list[Diagnostic]:
    """Return a diagnostic if the target coefficients are not functions of log-SNR."""
    order = logsnr.argsort()
    is_off = _relative_deviations(logsnr[order], factor[order]).abs() > 0.1 + 3 * error
    share = is_off.double().mean().item()
    return [kinds.ScatteredTarget(share)] if share > 0.05 else []


def of_the_elements(logsnr: Float[Tensor, " n"], share: Float[Tensor, "n d"]) -> list[Diagnostic]:
    """Return a diagnostic if the mean `share` of an element in the coefficient changes with log-
    SNR.
    """
    is_used = logsnr.isfinite() & share.isfinite().all(1)
    num = int(is_used.sum()) // _GROUP * _GROUP
    if num < 4 * _GROUP:
        return []
    some = torch.randperm(share.shape[1], generator=torch.Generator().manual_seed(0))
    ordered = share[is_used][logsnr[is_used].argsort()[:num]][:, some[:_MAX_ELEMENTS]]
    groups = ordered.reshape(-1, _GROUP, ordered.shape[1])
    by_chance = groups.var(1).mean(0) / _GROUP  # variance of the means of groups
    variance = groups.mean(1).var(0)
    change = (variance - by_chance).clamp(min=0).sqrt()
    is_clear = (variance > _MAX_RATIO * by_chance) & (change > _MIN_CHANGE)
    return [kinds.UnevenLevels(change.max().item())] if is_clear.any() else []


def of_the_coefficient(
    logsnr: Float[Tensor, " n"],
    c: Float[Tensor, " n"],
    power: Float[Tensor, " n"],
    error: Float[Tensor, " n"] | None = None,
) -> list[Diagnostic]:
    """Return a diagnostic if, at fixed log-SNR, the coefficient depends on the noise's `power` or
    the squared `error` of the network.
    """
    is_used = (c >= 0) & logsnr.isfinite()
    order = logsnr[is_used].argsort()

    def deviations(values: Tensor) -> Tensor:
        return _relative_deviations(logsnr[is_used][order], values[is_used][order])

    is_off = deviations(c).abs() > 1e-3
    num = int(is_off.sum())
    if num < max(_MIN_OFF, 0.1 * len(is_off)):
        return []

    def agreement(values: Tensor) -> float:  # agreement of the deviations' signs; 0 if independent
        return abs((deviations(c) * deviations(values)).sign()[is_off].mean().item())

    by_noise, by_error = agreement(power), 0.0 if error is None else agreement(error)
    is_of_noise = by_noise > 6 / num**0.5
    if by_error > (by_noise if is_of_noise else _MIN_AGREEMENT):
        return [kinds.ErrorDependent()]
    return [kinds.NoiseDependent()] if is_of_noise else []


def changes_with_time(
    logsnr: Float[Tensor, " n"], c: Float[Tensor, " n"], batch: Float[Tensor, " n"]
) -> bool:
    """Test whether the coefficient at fixed log-SNR varies less within fifths of the batches."""
    rows = logsnr.isfinite().nonzero()[:, 0]
    batches = batch[rows].unique()  # type: ignore[no-untyped-call]
    within = [
        _scatter(logsnr[some], c[some])
        for fifth in batches.tensor_split(5)
        if len(fifth) >= _MIN_BATCHES
        for some in [rows[(batch[rows] >= fifth[0]) & (batch[rows] <= fifth[-1])]]
    ]
    return bool(within) and bool(np.median(within) < _scatter(logsnr, c) / 3)


def log_factors(
    logsnr: Float[Tensor, " n"], values: Float[Tensor, " n"], step: NDArray[np.intp]
) -> Float[Array, " k"]:
    r"""Estimate $\log s_k$ of values $s_k f(\lambda)$ in step $k$."""
    order = np.argsort(logsnr.numpy())
    order = order[((values > 0) & logsnr.isfinite()).numpy()[order]]
    log, at, log_s = np.log(values.numpy()[order]), step[order], np.zeros(step.max() + 1)
    for _ in range(_NUM_ROUNDS):
        f = scipy.ndimage.median_filter(log - log_s[at], _NUM_NEIGHBOURS, mode="nearest")
        log_s = scipy.ndimage.median(log - f, at, np.arange(len(log_s)))
    return log_s


def batch_factors(
    logsnr: Float[Tensor, " n"], c: Float[Tensor, " n"], batch: Float[Tensor, " n"]
) -> Literal["none", "of levels", "others"]:
    """Tell whether the coefficient is a function of log-SNR times a factor of the batch, and
    whether the factor follows from the batch's levels, as where weights are averaged over it.
    """
    levels, batches = logsnr.numpy(), batch.numpy()
    logsnr, c, batch = (values[c > 0] for values in (logsnr, c, batch))
    numbers, place = np.unique(batch.numpy(), return_inverse=True)
    # Where one draw decides all levels of a batch, as if they are evenly spaced, neighbours have
    # nearly the same factor: it is divided out before the function of log-SNR can absorb it.
    means = np.bincount(place, c.log().numpy()) / np.bincount(place)
    rest = c / torch.from_numpy(np.exp(means)[place])
    log_s = log_factors(logsnr, rest, place)
    left = _scatter(logsnr, rest / torch.from_numpy(np.exp(log_s)[place])) / _scatter(logsnr, c)
    if left >= _MAX_LEFT or len(c) <= 2 * len(numbers):  # fewer would explain anything
        return "none"
    rows = np.isin(batches, numbers)
    is_of_levels = _follows_levels(
        log_s + means, levels[rows], np.searchsorted(numbers, batches[rows])
    )
    return "of levels" if is_of_levels else "others"


def _follows_levels(
    log_s: Float[Array, " k"], level: Float[Array, " n"], batch: NDArray[np.intp]
) -> bool:
    """Test whether factors of batches are a sum over their levels; True if that cannot be told."""
    num, sizes = len(log_s), np.bincount(batch)
    ranks = scipy.stats.rankdata(level) / len(level)
    means = np.bincount(batch, ranks) / sizes
    # The variance of a mean of independent ranks is 1 / 12b, of evenly spaced ones 1 / 12b**2.
    even = 1 / sizes.mean()
    is_even = means.var() * 12 / even < min(_MAX_EVEN[0], _MAX_EVEN[1] * even)
    if num < _MIN_FACTORS or is_even:
        return True
    cells = np.linspace(0, 1, min(num // 8, _MAX_CELLS))
    edges = np.unique(np.concatenate([_EDGES, cells]))
    place = np.searchsorted(edges, ranks)
    shares = np.zeros((num, len(edges) + 1))
    np.add.at(shares, (batch, place), 1 / sizes[batch])
    # Of an unbounded weight, the largest in the batch decides.
    level = np.nan_to_num(level).clip(-40, 40)  # pure noise or clean data are infinite
    ends = [scipy.ndimage.maximum(sign * level, batch, np.arange(num)) for sign in (-1, 1)]
    columns = np.column_stack([shares, *ends])
    fit, _, rank, _ = np.linalg.lstsq(columns, log_s, rcond=None)
    left = (log_s - columns @ fit).var() / log_s.var()
    degrees = rank - 1, num - rank
    by_chance = scipy.stats.f.sf((1 - left) / left * degrees[1] / degrees[0], *degrees)
    return bool(left * (num - 1) / degrees[1] < _MAX_UNEXPLAINED or by_chance < _MAX_CHANCE)


def _scatter(logsnr: Tensor, values: Tensor) -> float:
    rows = logsnr.argsort()
    rows = rows[logsnr[rows].isfinite()]
    return _relative_deviations(logsnr[rows], values[rows]).abs().mean().item()


def time_sign(logsnr: Float[Tensor, " n"], times: Sequence[Float[Tensor, " n"]]) -> int:
    """Return 1 if the time input rises from noise to data, -1 if it falls, 0 without one."""
    time = next((candidate for candidate in times if _is_time(candidate, logsnr)), None)
    return 0 if time is None else int(_rank_correlation(time, logsnr) > 0) * 2 - 1


def _wrong(time: Tensor, level: Tensor, error: float) -> tuple[float, bool]:
    """Compute the share of samples whose level is not between those of neighbouring times, and
    whether that is more than by chance, as are the samples of one time.
    """
    rising = time.numpy() * np.sign(_rank_correlation(time, level))
    values, place, nums = np.unique(rising, return_inverse=True, return_counts=True)
    middles = scipy.ndimage.median(level.numpy(), place, np.arange(len(values)))
    triples = sliding_window_view(np.concatenate([[-np.inf], middles, [np.inf]]), 3)
    is_off = np.abs(middles - np.median(triples, axis=1)) > _WRONG + error
    share = float(nums[is_off].sum() / nums.sum())
    return share, share > _MAX_WRONG or bool((nums[is_off] >= _MIN_EQUAL).any())


def _spread_at_equal(time: Tensor, logsnr: Tensor) -> float:
    level = logsnr.numpy()
    values, place = np.unique(time.numpy(), return_inverse=True)
    middles = scipy.ndimage.median(level, place, np.arange(len(values)))
    return float(np.median(np.abs(level - middles[place])))


def _is_time(time: Tensor, logsnr: Tensor, min_distinct: int = _MIN_DISTINCT) -> bool:
    if len(time) != len(logsnr) or len(set(time.tolist())) < min_distinct:
        return False
    return abs(_rank_correlation(time, logsnr)) > _MIN_CORRELATION


def _rank_correlation(first: Tensor, second: Tensor) -> float:
    ranks = torch.stack([values.argsort().argsort().double() for values in (first, second)])
    return float(torch.corrcoef(ranks)[0, 1].item())


def _deviations(ordered: Tensor) -> Tensor:
    return ordered[1:-1] - (ordered[:-2] + ordered[2:]) / 2


def _relative_deviations(levels: Tensor, values: Tensor) -> Tensor:
    gaps = levels[2:] - levels[:-2]
    share = ((levels[1:-1] - levels[:-2]) / gaps).nan_to_num(0.5)
    middle = torch.lerp(values[:-2], values[2:], share)
    return ((values[1:-1] - middle) / (values[1:-1] + middle)).nan_to_num(0.0) * 2
