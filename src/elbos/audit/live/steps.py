r"""Least squares for the coefficients of recorded training steps (`record`).

The vectors of a step are the data $x$, the noisy data $z$, the network's output $\hat y$, the
gradient of the loss with respect to $\hat y$, and all normal draws. Their dot products suffice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from elbos.audit.calls.arguments import Arguments, Slot
from elbos.audit.diagnostics import CentredNoise, Diagnostic, ErrorDependent, ScaledSteps, scatter
from elbos.audit.diagnostics.scatter import Conditions, batch_factors, log_factors
from elbos.audit.probing.measure import NUM_BLOCKS, Samples
from elbos.audit.probing.noise import DrawFactors, of_the_draws, of_the_target
from elbos.audit.probing.refusals import REFUSAL, require_explained
from elbos.audit.probing.scales import given_scale, process_of
from elbos.audit.probing.squared_error import MAX_OTHER

MIN_SAMPLES = 100
_MIN_OWN = 1e-7  # share of the output that is not data or noise; less is rounding
_ROUNDING = 1e-6  # accumulated float32 error of a coefficient
_MAX_LEFT = 0.05  # largest unexplained share of the gradient of a squared error
_MIN_STEPS, _MIN_CHANGE, _MAX_RATIO = 20, 0.02, 0.5  # what a factor needs to be divided out
_MAX_VARIATION = 0.1  # variation of a loss that is divided by its own value
_X, _Z, _OUTPUT, _GRADIENT, _FIRST_DRAW = range(5)  # places in a Gram matrix


@dataclass
class Step:
    """Dot products recorded in one training step, of the most recent draw first."""

    gram: Float[Tensor, "b r r"]  # dot products of x, z, output, gradient, draws; shared ones last
    shapes: Sequence[Sequence[int]]  # shapes of the draws that many elements share
    size: int  # number of elements of a sample
    axis: int | None  # along which the draws are centred
    quantiles: Mapping[str, list[Float[Tensor, " b"]]]  # by sampling design (`rng.Draws`)
    conditions: list[Tensor]  # other arguments of the network, one row per sample
    inputs: Mapping[Slot, Tensor]  # those of one number per sample
    fingerprints: dict[str, str]  # digests of the random numbers and data

    def __len__(self) -> int:
        return len(self.gram)


def least_squares(
    gram: Float[Tensor, "n k k"], basis: list[int], of: int
) -> tuple[Float[Tensor, "n p"], Float[Tensor, " n"]]:
    """Regress one vector on several others, given their dot products."""
    products, right = gram[:, basis][:, :, basis], gram[:, basis, of]
    # Singular values are needed, because some draws are zero in some samples.
    factors = torch.linalg.lstsq(products, right[:, :, None], driver="gelsd").solution[:, :, 0]
    left = 1 - (factors * right).sum(1) / gram[:, of, of].clamp(min=1e-300)
    return factors, left.clamp(min=0)


def noisy_data_fit(
    gram: Float[Tensor, "n k k"], draws: list[int]
) -> tuple[Float[Tensor, "n p"], Float[Tensor, " n"], Float[Tensor, " n"]]:
    r"""Fit $z = \alpha x + \sum_m \sigma_m \epsilon_m$: the coefficients, the squared norm of
    $z - \alpha x$, and its share that no draw explains.
    """
    factors, left = least_squares(gram, [_X, *draws], _Z)
    alpha, square = factors[:, 0], gram[:, _Z, _Z]
    power = square - 2 * alpha * gram[:, _X, _Z] + alpha**2 * gram[:, _X, _X]
    power = power.clamp(min=1e-300)
    return factors, power, left * square / power


def _power(
    gram: Float[Tensor, "n k k"], places: list[int], factors: Float[Tensor, "n p"]
) -> Float[Tensor, " n"]:
    """Compute the squared norm of a linear combination of vectors of each sample."""
    image = gram[:, places][:, :, places] @ factors[:, :, None]
    return (image[:, :, 0] * factors).sum(1)


def step_factors(
    logsnr: Float[Tensor, " n"],
    c: Float[Tensor, " n"],
    error: Float[Tensor, " n"],
    step: NDArray[np.intp],
    num_elements: Sequence[int],  # size of a sample in each step
) -> tuple[Float[Tensor, " n"], bool]:
    r"""Estimate $s$ in $c = s_k f(\lambda)$ for step $k$ of each sample, and whether it is the
    inverse of the step's loss.

    The factors are 1 unless they change gradually, as those of a gradient scaler or of a weight
    that decays, with the numbers of samples or elements, as of a sum divided by a constant, with
    the loss, or without regard to the levels, as of tasks that alternate. A mean over the batch,
    which is an error in the code, follows from the levels.
    """
    log_s, sizes = log_factors(logsnr, c, step), np.bincount(step)
    # Half the mean square of successive differences is the variance if steps are independent.
    is_gradual = np.square(np.diff(log_s)).mean() / 2 < _MAX_RATIO * log_s.var()
    columns = np.log(np.stack([sizes, num_elements], axis=1))
    columns -= columns.mean(0)
    of_size = columns @ np.linalg.lstsq(columns, log_s, rcond=None)[0]
    is_of_size = (log_s - log_s.mean() - of_size).std() < _MAX_RATIO * of_size.std()
    if len(sizes) < _MIN_STEPS or np.ptp(log_s) < _MIN_CHANGE:
        return torch.ones_like(c), False

    def variation(values: Tensor) -> float:  # variation of a step's mean, relative to that of s
        means = np.bincount(step, values.nan_to_num().numpy()) / sizes
        changes = np.diff(np.log(np.maximum(means, 1e-300)), 2)
        return float(np.linalg.norm(changes) / np.linalg.norm(np.diff(log_s, 2)))

    # A loss divided by its value is constant; a mean is divided by a sum of weights, which then is.
    is_of_loss = not is_of_size and variation(c * error) < min(_MAX_VARIATION, variation(c))
    is_of_step = is_gradual or is_of_size or is_of_loss
    if not is_of_step and batch_factors(logsnr, c, torch.from_numpy(step)) != "others":
        return torch.ones_like(c), False
    return torch.from_numpy(np.exp(log_s - np.median(log_s))[step]), is_of_loss


@dataclass(frozen=True)
class _Joined:
    """The usable samples of all steps."""

    gram: Float[Tensor, "n r r"]
    shapes: Sequence[Sequence[int]]
    batch: Float[Tensor, " n"]  # number of the step
    quantiles: Float[Tensor, "n k"]
    conditions: Conditions
    is_usable: Tensor  # of all recorded samples

    @classmethod
    def from_steps(cls, steps: list[Step]) -> "_Joined":
        # A step that lacks draws of other steps gets zeros for them.
        shapes = max((step.shapes for step in steps), key=len)
        num_full = max(step.gram.shape[1] - len(step.shapes) for step in steps)
        size, grams = num_full + len(shapes), []
        for step in steps:
            num_own = step.gram.shape[1] - len(step.shapes)
            places = torch.tensor([*range(num_own), *range(num_full, num_full + len(step.shapes))])
            gram = torch.zeros(len(step), size, size, dtype=torch.float64)
            gram[:, places[:, None], places] = step.gram
            grams.append(gram)
        gram, sizes = torch.cat(grams), [len(step) for step in steps]
        batch = torch.arange(len(steps), dtype=torch.float64)
        batch = batch.repeat_interleave(torch.tensor(sizes))
        columns = [torch.empty(len(gram), 0)]
        for design in steps[0].quantiles:
            drawn = zip(*(step.quantiles.get(design, []) for step in steps), strict=False)
            columns += [torch.cat(same)[:, None] for same in drawn]
        is_finite = gram.isfinite().flatten(1).all(1)
        gram = gram.where(is_finite[:, None, None], 0.0)  # LAPACK refuses NaN
        own_share = least_squares(gram, [_X, *range(_FIRST_DRAW, size)], _OUTPUT)[1]
        # A last layer that starts at zero has no output at first.
        has_output = gram[:, _OUTPUT, _OUTPUT] > 0
        is_usable = (own_share > _MIN_OWN) & has_output & is_finite
        if is_usable.sum() < MIN_SAMPLES:
            raise ValueError(
                "The network's output is 0, or a combination of data and noise, as all are below 3 "
                "dimensions: record later steps."
            )
        conditions = Conditions([step.conditions for step in steps], sizes, is_usable)
        quantiles = torch.cat(columns, 1)[is_usable]
        return cls(gram[is_usable], shapes, batch[is_usable], quantiles, conditions, is_usable)


@dataclass(frozen=True)
class _Regression:
    r"""Gradient $g = 2 c\,(\hat y - y)$ and target $y = a x + \sum_m b_m \epsilon_m + r$."""

    c: Float[Tensor, " n"]
    y: Float[Tensor, "n p"]  # a, and the coefficient of each draw
    power: Float[Tensor, " n"]  # squared norm of the part of y that is not r
    drawn_power: Float[Tensor, " n"]  # that of the part that is not a x
    rest: Float[Tensor, " n"]  # squared norm of r

    @classmethod
    def from_gram(cls, gram: Float[Tensor, "n r r"], draws: list[int]) -> "_Regression":
        factors, left = least_squares(gram, [_X, *draws, _OUTPUT], _GRADIENT)
        square = gram[:, _GRADIENT, _GRADIENT]
        if not left[square > 0].nanmedian() <= _MAX_LEFT:  # or NaN, without a gradient
            raise ValueError(
                "The gradient is no combination of data, noise and the network's output: the loss "
                "is no squared error with one coefficient per sample."
            )
        c = factors[:, -1] / 2
        y = torch.where(c[:, None] == 0, 0.0, -factors[:, :-1] / (2 * c[:, None]))
        rest = torch.where(c == 0, 0.0, left * square / (4 * c**2))
        power = _power(gram, [_X, *draws], y)
        return cls(c, y, power, _power(gram, draws, y[:, 1:]) + rest, rest)

    def squared_error(
        self, gram: Float[Tensor, "n r r"], draws: list[int], logsnr: Float[Tensor, " n"]
    ) -> Float[Tensor, " n"]:
        r"""Return $\|\hat y - y\|^2$; $y$ is interpolated where no gradient tells it."""
        has_target = logsnr.isfinite() & (self.c != 0)
        order = logsnr.argsort()
        order = order[has_target[order]]
        factors = [-np.interp(logsnr, logsnr[order], part[order]) for part in self.y.T]
        both = torch.from_numpy(np.stack([*factors, np.ones(len(self.y))], axis=1))
        return _power(gram, [_X, *draws, _OUTPUT], both)


def samples_of(
    steps: list[Step],
    example: Arguments | None,
    error: float,  # rounding error of the target's coefficients
    diagnostics: list[Diagnostic],
) -> Samples:
    """Estimate the noise levels and coefficients of all recorded samples.

    Raises:
        ValueError: In one line, if the gradient is no combination of data, noise and output.
    """
    joined = _Joined.from_steps(steps)
    gram, batch, conditions = joined.gram, joined.batch, joined.conditions
    draws = list(range(_FIRST_DRAW, gram.shape[1]))

    # The input is z = alpha x + sum of sigma_m eps_m.
    powers = gram.diagonal(dim1=1, dim2=2)[:, draws]
    scales, noise_power, unexplained = noisy_data_fit(gram, draws)
    alpha, of_draws = scales[:, 0], scales[:, 1:]
    shares = of_draws**2 * powers
    parts = DrawFactors.from_powers(of_draws, shares, noise_power, unexplained, joined.shapes)
    if not parts.full:
        raise ValueError(REFUSAL)
    axes = {step.axis for step in steps} - {None}
    diagnostics = [*diagnostics, *(CentredNoise(float(axis)) for axis in axes if axis)]
    if parts.shared or len(parts.full) > 1:
        diagnostics.append(parts.diagnostic)

    regression = _Regression.from_gram(gram, draws)
    c, of_target, gamma = regression.c, regression.y[:, 1:], 0.0
    shares = of_target**2 * powers
    left = regression.rest / regression.drawn_power.clamp(min=1e-300)
    target = DrawFactors.from_powers(of_target, shares, regression.drawn_power, left, joined.shapes)
    if target.full and not (target.shared or parts.shared):
        mean_square = (regression.power.sum() / (steps[0].size * len(gram))).item()
        diagnostics, gamma = of_the_draws(parts, target, mean_square, diagnostics)

    # The noise is the sum of draws in z, and b the coefficient of that sum in the target.
    used = of_draws[:, parts.full]
    sigma = used.norm(dim=1)
    a = regression.y[:, 0]
    b = (of_target[:, parts.full] * used).sum(1) / sigma.clamp(min=1e-300)
    a, b = (
        torch.where(values.abs() < 5 * error * other.abs(), 0.0, values)
        for values, other in ((a, b), (b, a))
    )
    b, alpha = torch.where(alpha < 0, -b, b), alpha.abs()
    nominal = sigma / (1 + gamma**2) ** 0.5  # input perturbation is left out
    scale = given_scale(2 * (alpha / sigma).log(), conditions.single)
    process = process_of(alpha, nominal, offset=0.0, rtol=0.0, network_scale=scale)
    logsnr = process.logsnr(alpha, sigma)
    require_explained(unexplained, logsnr)

    squared = regression.squared_error(gram, draws, logsnr)
    numbers, place = np.unique(batch.numpy(), return_inverse=True)
    num_elements = [steps[int(number)].size for number in numbers]
    scales, is_of_loss = step_factors(logsnr, c, squared, place, num_elements)
    c = c / scales
    if is_of_loss:
        diagnostics.append(ErrorDependent())
    elif (scales != 1).any():
        diagnostics.append(ScaledSteps((scales.max() / scales.min()).item()))
    factor = b - a * sigma / alpha
    if not any(diagnostic.is_fatal for diagnostic in diagnostics):
        has_target = logsnr.isfinite() & (c != 0)
        strange = (regression.rest / regression.power.clamp(min=1e-300))[has_target]
        diagnostics += of_the_target(strange, is_exact=error < _ROUNDING)
        diagnostics += scatter.of_the_target(logsnr[has_target], factor[has_target], error=0.0)
        diagnostics += conditions.diagnostics(logsnr, alpha, error=0.0)
        if error < _ROUNDING:
            of_step = np.exp(log_factors(logsnr, squared, place))[place]
            relative = squared / torch.from_numpy(of_step)
            diagnostics += scatter.of_the_coefficient(logsnr, c, noise_power / sigma**2, relative)
    return Samples(
        logsnr=logsnr,
        a=a / process.scale,
        b=b,
        coefficient=c,
        eps_coefficient=c * factor**2,
        batch=batch,
        block=torch.floor(batch * NUM_BLOCKS / (batch.max() + 1)),
        process=process,
        data_offset=0.0,
        logsnr_error=error if error > _ROUNDING else 0.0,
        rounding=_ROUNDING * (1 / alpha + 1 / sigma),
        quantiles=joined.quantiles,
        places=[None] * joined.quantiles.shape[1],
        alpha=alpha,
        sigma=sigma,
        time_sign=scatter.time_sign(logsnr, conditions.single),
        hidden_share=MAX_OTHER[error >= _ROUNDING],
        inputs={
            slot: torch.cat([step.inputs[slot] for step in steps])[joined.is_usable]
            for slot in set.intersection(*(set(step.inputs) for step in steps))
        },
        example=example,
        diagnostics=diagnostics,
    )
