r"""The noise levels that a loss draws, and what it does at each: `probe`'s measurement.

After the first look (`pilot`), batch after batch is asked the same questions: the gradient at
answer 0, at another answer, and at answer 0 of other data; of a plain loss, whose noise is known,
only the second. Per sample they give the coefficient $c$, the target's $(a, b)$ and
$\alpha, \sigma$, and with them

$$\lambda = \log\frac{\alpha^2}{\sigma^2}, \qquad
  k = c\,\Bigl(b - a\,\frac{\sigma}{\alpha}\Bigr)^2,$$

the noise level and the coefficient of $\|\hat\epsilon - \epsilon\|^2$ there.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from elbos.audit.algebra import solve
from elbos.audit.ask import glanced, grams, some_elements
from elbos.audit.oddity import Oddity
from elbos.audit.pilot import Pilot, first_look
from elbos.audit.randomness import spread, untouched_randomness
from elbos.audit.reference import REFUSAL
from elbos.audit.scaling import Process, process_of
from elbos.audit.watch import LossFunction

_ONE_AT_A_TIME = threading.RLock()  # random states are those of the process
_PURE = 30.0  # beyond this log-SNR float32 holds no signal, or no noise


@dataclass(frozen=True, kw_only=True)
class Samples:
    r"""What a loss did to each of the samples drawn from it, float64, `[n]`.

    Attributes:
        logsnr: $\lambda$; $\pm\infty$ for pure noise and clean data.
        a: Coefficient of the data in the target, the data in the scale of the process.
        b: Coefficient of the noise in the target.
        coefficient: $c$ of $\|\hat y - y\|^2$.
        eps_coefficient: $k$ of $\|\hat\epsilon - \epsilon\|^2$.
        batch: Which batch each sample came in.
        process: The process, and the scale of the data.
        data_offset: What is added to the data before they are scaled.
        logsnr_error: Standard error of a single `logsnr`, where the noise is not known.
        rounding: Error of each `logsnr` by rounding.
        quantiles: Numbers that the loss drew for each sample, `[n, draws]`; see `randomness`.
        oddities: What was found besides.
    """

    logsnr: Float[Tensor, " n"]
    a: Float[Tensor, " n"]
    b: Float[Tensor, " n"]
    coefficient: Float[Tensor, " n"]
    eps_coefficient: Float[Tensor, " n"]
    batch: Float[Tensor, " n"]
    process: Process
    data_offset: float
    logsnr_error: float
    rounding: Float[Tensor, " n"]
    quantiles: Float[Tensor, "n draws"]
    oddities: list[Oddity]


def measure(
    loss_fn: LossFunction,
    x: Float[Tensor, "b *d"],
    num_samples: int,
    seed: int,
    data_scale: float | None = None,
    advance: Callable[[int], None] | None = None,
) -> Samples:
    """Draw samples from a loss, and take each apart; arguments as `probe`'s.

    Raises:
        ValueError: If that cannot be done; in one line.
    """
    _require_usable(x, num_samples, seed)
    with _ONE_AT_A_TIME, untouched_randomness():
        first_seed = spread(seed)
        pilot = first_look(loss_fn, x, first_seed)
        drawn = _Drawn.of(pilot, num_samples, first_seed, advance or (lambda _: None))
    is_whole = drawn.is_whole()
    if not is_whole.any():
        raise ValueError("The loss is not finite: its gradient is NaN for every sample.")
    oddities = list(pilot.oddities)
    if not is_whole.all():
        share = 1 - is_whole.double().mean().item()
        text = f"The loss is NaN or infinite for {share:.2%} of the samples, which are left out."
        oddities.append(Oddity("not-finite", text))
    return _samples_of(pilot, drawn.at(is_whole), data_scale, oddities)


@dataclass(frozen=True)
class _Drawn:
    """What the calls of a loss gave, a row per sample.

    Attributes:
        products: Dot products (`algebra`).
        coefficient: $c$.
        batch: Which batch each sample came in.
        quantiles: As in `Samples`.
    """

    products: Float[Tensor, "n r r"]
    coefficient: Float[Tensor, " n"]
    batch: Float[Tensor, " n"]
    quantiles: Float[Tensor, "n draws"]

    @classmethod
    def of(cls, pilot: Pilot, num: int, seed: int, advance: Callable[[int], None]) -> "_Drawn":
        """Batch after batch, until there are `num` samples."""
        reading_of = _plain_readings if pilot.is_plain else _readings
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        draws: list[list[Tensor]] = []
        size = len(pilot.asker.x)
        for i in range(num):
            for products, coefficient, drawn in reading_of(pilot, seed + i):
                batch = torch.full((size,), float(i), dtype=torch.float64)
                parts.append((products, coefficient.cpu(), batch))
                draws.append([*drawn, torch.zeros(size)])
                advance(size)
            if len(parts) * size >= num:
                break
        num_draws = min(map(len, draws)) - 1  # those that are drawn in every batch
        quantiles = torch.cat([torch.stack([*some[:num_draws], some[-1]], 1) for some in draws])
        products, coefficients, batches = map(torch.cat, zip(*parts, strict=True))
        return cls(products[:num], coefficients[:num], batches[:num], quantiles[:num, :num_draws])

    def is_whole(self) -> Bool[Tensor, " n"]:
        """Whether the gradients of each sample are finite."""
        return self.products.isfinite().flatten(1).all(1) & self.coefficient.isfinite()

    def at(self, index: Tensor) -> "_Drawn":
        """Some of the samples."""
        columns = (self.products, self.coefficient, self.batch, self.quantiles)
        return _Drawn(*(column[index] for column in columns))


def _samples_of(
    pilot: Pilot, drawn: _Drawn, data_scale: float | None, oddities: list[Oddity]
) -> Samples:
    """The coefficients of samples, in the scale of their process."""
    solved, c = solve(drawn.products, is_noise_known=pilot.is_noise_known), drawn.coefficient
    rtol = 0.0 if pilot.is_noise_known else (2 / pilot.asker.x[0].numel()) ** 0.5
    process = process_of(solved.alpha, solved.sigma, offset=solved.offset, rtol=rtol)
    if data_scale is not None:
        process = process._replace(scale=data_scale)
    logsnr = 2 * (torch.log(solved.alpha / process.scale) - solved.sigma.log())
    logsnr = torch.where(logsnr < -_PURE, -torch.inf, logsnr)
    logsnr = torch.where(logsnr > _PURE, torch.inf, logsnr)
    is_strange = (solved.strange_noise > 0.05) & (logsnr.abs() < 4)
    is_exact = pilot.is_noise_known and pilot.reference[0] is pilot.asker.x
    if is_exact and is_strange.double().mean() > 1e-3:
        raise ValueError(REFUSAL)  # as where a coin flips whole batches, none of the first ones
    strange = solved.strange_target[logsnr.isfinite() & (c != 0)].median().item()
    if strange > 1e-3 and not any(oddity.is_fatal for oddity in oddities):
        text = (
            f"{strange:.1%} of the target is no combination of the data and the noise: the loss "
            "has a term besides the error, or a target of its own."
        )
        oddities = [*oddities, Oddity("strange-target", text)]
    return Samples(
        logsnr=logsnr,
        a=solved.a / process.scale,
        b=solved.b,
        coefficient=c,
        eps_coefficient=c * (solved.b - solved.a * solved.sigma / solved.alpha) ** 2,
        batch=drawn.batch,
        process=process,
        data_offset=solved.offset,
        logsnr_error=rtol,
        rounding=solved.rounding,
        quantiles=drawn.quantiles,
        oddities=oddities,
    )


_Reading = tuple[Tensor, Tensor, list[Tensor]]  # dot products, c, quantiles


def _readings(pilot: Pilot, seed: int) -> Iterator[_Reading]:
    """One batch, from three or four calls of the loss."""
    for look in pilot.asker.looks(seed, with_other_moved=pilot.with_other_moved):
        products = grams(look, pilot.reference, is_uneven=pilot.is_uneven)
        yield products, look.coefficient(), look.quantiles


def _plain_readings(pilot: Pilot, seed: int) -> Iterator[_Reading]:
    """One batch, from one call."""
    x, _ = pilot.reference
    elements = some_elements(x)
    for glance in pilot.asker.glances(seed):
        yield *glanced(glance, x, pilot.offset, elements), glance.quantiles


def _require_usable(x: Tensor, num_samples: int, seed: int) -> None:
    if not x.is_floating_point() or x.ndim < 2 or x.numel() == 0:
        raise ValueError(
            f"The data have shape {list(x.shape)} and type {x.dtype}: give floating-point data, "
            "[batch, ...]."
        )
    if not x.isfinite().all():
        raise ValueError("The data are not finite: give data without NaN or infinity.")
    if num_samples < 100:
        raise ValueError(f"num_samples is {num_samples}: give at least 100.")
    if not 0 <= seed < 2**31:
        raise ValueError(f"seed is {seed}: give a number from 0 to 2**31 - 1.")
