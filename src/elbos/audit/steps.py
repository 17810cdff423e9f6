r"""Coefficients of recorded steps, by least squares on the dot products of their vectors.

The vectors of a step are the data, the noisy data, the network's output, the gradient with respect
to it, and all normal draws (`record`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.audit import scatter
from elbos.audit.diagnostics import CentredNoise, Diagnostic
from elbos.audit.measure import NUM_BLOCKS, Samples
from elbos.audit.noise import Parts, of_the_draws, of_the_parts, of_the_target
from elbos.audit.refusals import REFUSAL, require_explained
from elbos.audit.scales import given_scale, process_of
from elbos.audit.scatter import Conditions

MIN_SAMPLES = 100
_MIN_OWN = 1e-7  # share of the output besides data and noise; less is rounding
_ROUNDING = 1e-6  # accumulated float32 error of a coefficient
_MAX_LEFT = 0.05  # largest unexplained share of the gradient of a squared error
_X, _Z, _OUTPUT, _GRADIENT, _FIRST_DRAW = range(5)  # places in a Gram matrix


@dataclass
class Step:
    """Dot products of the vectors of a training step, with random draws and network conditions."""

    gram: Float[Tensor, "b r r"]  # of x, z, output, gradient and draws, shared ones last
    shapes: Sequence[Sequence[int]]  # of the shared draws
    size: int  # of a sample
    axis: int | None  # along which the draws have no mean
    quantiles: list[Tensor]
    conditions: list[Tensor]  # numbers that the network is given

    def __len__(self) -> int:
        return len(self.gram)


def gram_of(vectors: list[Float[Tensor, "b d"]]) -> Float[Tensor, "b k k"]:
    stacked = torch.stack(vectors, dim=1)
    return (stacked @ stacked.mT).cpu()


def power_beside(
    gram: Float[Tensor, "n k k"], alpha: Float[Tensor, " n"], x: int, z: int
) -> Float[Tensor, " n"]:
    """Return the squared norm of the noise: noisy data minus `alpha` times data."""
    power = gram[:, z, z] - 2 * alpha * gram[:, x, z] + alpha**2 * gram[:, x, x]
    return power.clamp(min=1e-300)


def least_squares(
    gram: Float[Tensor, "n k k"], basis: list[int], of: int
) -> tuple[Float[Tensor, "n p"], Float[Tensor, " n"]]:
    """Regress one vector on others from dot products; return coefficients and unexplained share."""
    products, right = gram[:, basis][:, :, basis], gram[:, basis, of]
    factors = torch.linalg.lstsq(products, right[:, :, None]).solution[:, :, 0]
    left = 1 - (factors * right).sum(1) / gram[:, of, of].clamp(min=1e-300)
    return factors, left.clamp(min=0)


def _joined(steps: list[Step]) -> tuple[Float[Tensor, "n r r"], Sequence[Sequence[int]]]:
    """Concatenate the dot products of all steps, with zeros for missing draws.

    Returns:
        The dot products, and the shapes of the shared draws.
    """
    shapes = max((step.shapes for step in steps), key=len)
    num_whole = max(step.gram.shape[1] - len(step.shapes) for step in steps)
    grams = []
    for step in steps:
        own = step.gram.shape[1] - len(step.shapes)
        at = torch.tensor([*range(own), *range(num_whole, num_whole + len(step.shapes))])
        size = num_whole + len(shapes)
        gram = torch.zeros(len(step), size, size, dtype=torch.float64)
        gram[:, at[:, None], at] = step.gram
        grams.append(gram)
    return torch.cat(grams), shapes


def samples_of(
    steps: list[Step], data_scale: float | None, error: float, found: list[Diagnostic]
) -> Samples:
    """Solve for the coefficients of all recorded samples.

    Args:
        steps: The recorded steps.
        data_scale: As in `probe`.
        error: Rounding error of the coefficients of the target.
        found: Earlier findings.

    Raises:
        ValueError: In one line, if the gradient is no combination of data, noise and output.
    """
    gram, shapes = _joined(steps)
    sizes = [len(step) for step in steps]
    batch = torch.arange(len(steps), dtype=torch.float64).repeat_interleave(torch.tensor(sizes))
    num = min(len(step.quantiles) for step in steps)  # of draws recorded in every step
    quantiles = torch.cat(
        [
            torch.stack(step.quantiles[:num], 1) if num else torch.empty(len(step), 0)
            for step in steps
        ]
    )
    draws = list(range(_FIRST_DRAW, gram.shape[1]))
    own = least_squares(gram, [_X, *draws], _OUTPUT)[1]
    kept = (own > _MIN_OWN) & gram.isfinite().flatten(1).all(1)
    conditions = Conditions.from_batches([step.conditions for step in steps], sizes).at(kept)
    gram, batch, quantiles = gram[kept], batch[kept], quantiles[kept]
    if len(gram) < MIN_SAMPLES:
        raise ValueError(
            "The network's output is 0, or a combination of data and noise: record later steps."
        )

    # z = alpha x + sum of sigma_m eps_m
    powers = gram.diagonal(dim1=1, dim2=2)
    scales, left = least_squares(gram, [_X, *draws], _Z)
    alpha, of_draws = scales[:, 0], scales[:, 1:]
    noise_power = power_beside(gram, alpha, _X, _Z)
    unexplained = left * powers[:, _Z] / noise_power
    shares = of_draws**2 * powers[:, draws]
    parts = Parts.of_factors(of_draws, shares, noise_power, unexplained, shapes)
    if not parts.whole:
        raise ValueError(REFUSAL)
    axes = {step.axis for step in steps} - {None}
    found = [*found, *(CentredNoise(float(axis)) for axis in axes if axis)]
    if parts.shared or len(parts.whole) > 1:
        found.append(of_the_parts(parts))

    # g = 2 c (y_hat - a x - sum of b_m eps_m)
    factors, left = least_squares(gram, [_X, *draws, _OUTPUT], _GRADIENT)
    if left.nanmedian() > _MAX_LEFT:
        raise ValueError(
            "The gradient is no combination of data, noise and the network's output: the loss is "
            "no squared error with one coefficient per sample."
        )
    c = factors[:, -1] / 2
    y = torch.where(c[:, None] == 0, 0.0, -factors[:, :-1] / (2 * c[:, None]))
    a, of_target = y[:, 0], y[:, 1:]
    rest = torch.where(c == 0, 0.0, left * powers[:, _GRADIENT] / (4 * c**2))
    at = [_X, *draws]
    target_power = ((gram[:, at][:, :, at] @ y[:, :, None])[:, :, 0] * y).sum(1)
    drawn = gram[:, draws][:, :, draws]
    drawn_power = ((drawn @ of_target[:, :, None])[:, :, 0] * of_target).sum(1) + rest
    shares = of_target**2 * powers[:, draws]
    target = Parts.of_factors(
        of_target, shares, drawn_power, rest / drawn_power.clamp(min=1e-300), shapes
    )
    gamma = 0.0
    if target.whole and not (target.shared or parts.shared):
        mean_square = (target_power.sum() / (steps[0].size * len(gram))).item()
        found, gamma = of_the_draws(parts, target, mean_square, found)

    # the noise is the sum of draws in z, and b the coefficient of that sum in the target
    used = of_draws[:, parts.whole]
    sigma = used.norm(dim=1)
    b = (of_target[:, parts.whole] * used).sum(1) / sigma.clamp(min=1e-300)
    a, b = (
        torch.where(one.abs() < 5 * error * other.abs(), 0.0, one)
        for one, other in ((a, b), (b, a))
    )
    b, alpha = torch.where(alpha < 0, -b, b), alpha.abs()
    nominal = sigma / (1 + gamma**2) ** 0.5  # without the perturbation of the input
    scale = given_scale(2 * (alpha / sigma).log(), conditions.single)
    process = process_of(alpha, nominal, offset=0.0, rtol=0.0, given=scale)
    if data_scale is not None:
        process = process._replace(scale=data_scale)
    logsnr = process.logsnr(alpha, sigma)
    require_explained(unexplained, logsnr)
    factor = b - a * sigma / alpha
    if not any(one.is_fatal for one in found):
        has_target = logsnr.isfinite() & (c != 0)
        found += of_the_target((rest / target_power.clamp(min=1e-300))[has_target])
        found += scatter.of_the_target(logsnr[has_target], factor[has_target], error=0.0)
        found += conditions.diagnostics(logsnr, alpha, error=0.0)
        if error < _ROUNDING:
            found += scatter.of_the_coefficient(logsnr, c, noise_power / sigma**2)
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
        quantiles=quantiles,
        places=[None] * quantiles.shape[1],
        diagnostics=found,
    )
