"""Checks of data and denoiser for mistakes that the value of a validation would not reveal."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from elbos.base.checks import require_scaled
from elbos.base.conditions import Condition, cond_at, map_tensors
from elbos.base.errors import flat, warn
from elbos.base.items import Items
from elbos.theory.denoiser import Denoise, Denoiser, estimate
from elbos.theory.parameterizations import Flow
from elbos.theory.process import diffuse
from elbos.validation.estimate import Estimate
from elbos.validation.execution import mean
from elbos.validation.result import Validation

NUM_READ_TWICE = 8  # samples: a flip of half of them is missed once in 256
NUM_CHECKED = 4  # samples on which the denoiser is called again; at most a batch
_OTHER_DEVICE = "same device", "expected device", "torch.cuda."  # parts of torch's messages
MAX_CHANGE = 1e-3  # change of a repeated estimate: GPUs vary the order of additions
COUPLED_LOGSNR = -5.0  # for data of unit variance
MAX_SCATTER = 1.5  # below 1 of an exact denoiser, 2 / (1 + exp(-5 / 2))^2 = 1.7 of transport
MAX_MISFIT = 0.05  # relative to z: rounding to bfloat16 and to the nearest of 1,000 steps


class TimeIgnoredWarning(UserWarning):
    """Warning: the network returns the same output at both ends of the log-SNR range."""


class RandomDataWarning(UserWarning):
    """Warning: the dataset returns different samples when it is read again."""


class InconsistentEstimatesWarning(UserWarning):
    """Warning: the denoiser's estimates of data and noise do not add up to the noisy data."""


class CoupledNoiseWarning(UserWarning):
    """Warning: the estimates of much noised data are worse than their own mean."""


class WorseThanUniformWarning(UserWarning):
    """Warning: the bound is above that of uniform pixel values, or of Gaussian continuous data."""


class TargetMissedWarning(UserWarning):
    """Warning: the requested standard error cannot be reached with this number of samples."""


class VaryingEstimatesWarning(UserWarning):
    """Warning: the denoiser's estimates change when a batch is evaluated again."""


@contextmanager
def explained_types(x: Tensor, cond: Condition) -> Iterator[None]:
    """Convert torch's dtype and device errors to a helpful ValueError."""
    try:
        yield
    except RuntimeError as error:
        if any(part in str(error) for part in _OTHER_DEVICE):
            raise ValueError(
                f"the network does not take data on {x.device} ({flat(error)}): give its device, "
                "as in validator(denoiser, device='cuda')."
            ) from error
        if "type" not in str(error):
            raise
        types = {f"z of {x.dtype}": None}  # in order, each once
        map_tensors(lambda part: types.setdefault(f"cond of {part.dtype}"), cond)
        raise ValueError(
            f"the network does not take {' and '.join(types)} ({flat(error)}): convert them, as in "
            "lambda z, logsnr, cond: network(z.to(torch.bfloat16), logsnr, cond.long())."
        ) from error


class _CoarsestType(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Record the coarsest floating-point type of all results within the `with` block."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtype = torch.float64

    def __torch_dispatch__(
        self, func: Callable[..., Any], _: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for part in tree_leaves(result):
            if isinstance(part, Tensor) and part.is_floating_point():
                self.dtype = max(self.dtype, part.dtype, key=lambda kind: torch.finfo(kind).eps)
        return result


def check_data(items: Items) -> None:
    """Test the scale of a few samples; warn if they are others when they are read again."""
    rows = torch.linspace(0, len(items) - 1, NUM_READ_TWICE).long()  # they may be sorted
    first: list[Tensor] = []
    second: list[Tensor] = []
    for read in (first, second):
        x, cond = items.batch(rows)
        map_tensors(read.append, {"x": x, "cond": cond})
    require_scaled(x)
    if not all(
        torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)
        for a, b in zip(first, second, strict=True)
    ):
        warn(
            "the dataset returns other samples when it is read again, as with random crops, flips "
            "or latents: validate the data without them.",
            RandomDataWarning,
        )


@torch.no_grad()
def check(
    denoiser: Denoise,
    x: Float[Tensor, "b *d"],
    cond: Condition,
    mask: Bool[Tensor, "b *d"] | None,
    eps: Float[Tensor, "b *d"],
    ends: tuple[float, float],
    batch_size: int,
) -> str:
    """Test a denoiser on samples spread over the data; return the precision of its arithmetic.

    Raises an error or warns if the validation would be wrong.
    """
    few = torch.arange(min(NUM_CHECKED, batch_size)) * (len(x) // NUM_CHECKED)
    x_few, cond_few = x[few], cond_at(cond, few)
    logsnr = torch.linspace(*ends, len(few) + 2)[1:-1].to(x)
    z = diffuse(x_few, eps[few], logsnr)
    coupled_level = COUPLED_LOGSNR - x.var(0).mean().log().item()
    is_flow = isinstance(getattr(denoiser, "parameterization", None), Flow)
    may_be_coupled = is_flow and ends[0] < coupled_level < ends[1]
    if may_be_coupled:
        coupled_logsnr = torch.full((len(x),), coupled_level).to(x)
        coupled_z = diffuse(x, eps, coupled_logsnr)

    def estimates(z: Tensor, logsnr: Tensor, cond: Condition, size: int) -> tuple[Tensor, Tensor]:
        parts = torch.split(torch.arange(len(z)), size)
        pairs = [estimate(denoiser, z[i].clone(), logsnr[i], cond_at(cond, i)) for i in parts]
        x_hat, eps_hat = (torch.cat(each) for each in zip(*pairs, strict=True))
        return x_hat, eps_hat

    with explained_types(x, cond):
        with _CoarsestType() as coarsest:
            x_hat, eps_hat = estimates(z, logsnr, cond_few, len(z))
        _, again = estimates(z, logsnr, cond_few, len(z))
        _, in_halves = estimates(z, logsnr, cond_few, max(1, len(z) // 2))
        if may_be_coupled:
            coupled, _ = estimates(coupled_z, coupled_logsnr, cond, batch_size)
        if isinstance(denoiser, Denoiser):
            levels = (torch.full((len(few),), end).to(x) for end in ends)
            low, high = (denoiser.output(x_few, level, cond_few) for level in levels)
    _warn_if_varying(eps_hat, again, in_halves)
    if not isinstance(denoiser, Denoiser):
        _require_consistent(x_hat, eps_hat, z, logsnr)
    elif ends[0] < ends[1] and torch.equal(low, high) and low.any():
        warn(
            "the network ignores its second argument: its output is the same at both ends.",
            TimeIgnoredWarning,
        )
    if may_be_coupled:
        _warn_if_coupled(coupled, x, mask, coupled_level)
    return str(coarsest.dtype).removeprefix("torch.")


def _warn_if_varying(eps_hat: Tensor, again: Tensor, in_halves: Tensor) -> None:
    """Warn if estimates of a batch differ the second time, as by dropout, or in halves, as by
    batch norm.
    """
    for other, how, most in ((again, "again", MAX_CHANGE), (in_halves, "in halves", MAX_MISFIT)):
        deviation = float((other - eps_hat).norm() / eps_hat.norm().clamp(min=1e-30))
        if deviation > most:
            warn(
                f"the denoiser's estimates are {100 * deviation:.2g} % off when a batch is given "
                f"{how}, as those of a network in training mode: the validator sets evaluation "
                "mode only of modules reachable from the denoiser; call network.eval() for others.",
                VaryingEstimatesWarning,
            )
            return


def _require_consistent(
    x_hat: Float[Tensor, "b *d"],
    eps_hat: Float[Tensor, "b *d"],
    z: Float[Tensor, "b *d"],
    logsnr: Float[Tensor, " b"],
) -> None:
    """Test whether the estimates of data and noise add up to the noisy data."""

    def misfit(first: Tensor, second: Tensor) -> float:
        error = (diffuse(first, second, logsnr) - z).flatten(1).norm(dim=1)
        return float((error / z.flatten(1).norm(dim=1)).max())

    error = misfit(x_hat, eps_hat)
    if not error > MAX_MISFIT:
        return
    if misfit(eps_hat, x_hat) < MAX_MISFIT:
        raise ValueError("the denoiser returns (eps_hat, x_hat): it has to be (x_hat, eps_hat).")
    warn(
        f"alpha x_hat + sigma eps_hat of the denoiser is {100 * error:.0f} % off z, as where x_hat "
        "is clipped: the bound is that of eps_hat alone.",
        InconsistentEstimatesWarning,
    )


def _warn_if_coupled(x_hat: Tensor, x: Tensor, mask: Tensor | None, logsnr: float) -> None:
    r"""Warn if $\hat x$ is further from $x$ than the mean of all $\hat x$ is.

    If $\hat x = \mathbb E[x \mid z]$, what varies with $z$ brings it closer. A network of noise
    that was chosen for the data estimates some $x$ for every noise, which adds its variance.
    """
    error, of_mean = (mean((y - x) ** 2, mask).mean() for y in (x_hat, x_hat.mean(0)))
    # An exact denoiser of broader data scatters more than these data do.
    is_broader = x_hat.var(0).mean() > MAX_SCATTER * x.var(0).mean()
    if error > MAX_SCATTER * of_mean and not is_broader:
        warn(
            f"at log-SNR {logsnr:.1f} the error of x_hat is {error / of_mean:.1f} times that of "
            "its mean: the network is hardly trained, or on noise coupled to the data (optimal "
            "transport), for which likelihood.flow_likelihood is right, and this bound is not.",
            CoupledNoiseWarning,
        )


def warn_if_poor(result: Validation) -> None:
    r"""Warn if the bound is above that of uniform pixels, or of continuous data that are Gaussian.

    The variance is $\mathbb E x^2$: the prior's loss is $\tfrac12\alpha^2\,\mathbb E x^2$ at
    $\lambda_\min$, to order $\alpha^4$.
    """
    bits, schedule = result.bits, result.measurements.schedule
    low, high = torch.tensor([schedule.logsnr_min, schedule.logsnr_max], dtype=torch.float64)
    variance = 2 * result.prior.mean() / low.sigmoid() + torch.exp(-high)
    limit, what = (2 * math.pi * math.e * variance).log2().item() / 2, "a Gaussian"
    if result.num_levels is not None:
        limit, what = math.log2(result.num_levels), "uniform pixels"
    if bits.mean - 2 * bits.standard_error > limit:
        warn(
            f"{bits.mean:.2f} bits/dim are worse than the {limit:.2f} of {what}: is the network "
            "trained, data scaled as in training ([-1, 1]), time not reversed, both ends of "
            "log-SNR those of the training? A training that gives clean levels almost no weight, "
            "as a v loss on the cosine schedule does, causes it, too: see the loss by noise level.",
            WorseThanUniformWarning,
        )


def warn_if_missed(bits: Estimate, target_se: float, num_evaluations: int) -> None:
    if bits.standard_error > 1.01 * target_se:
        needed = math.ceil(bits.num * (bits.standard_error / target_se) ** 2)
        warn(
            f"target_se={target_se:g} is out of reach: after {num_evaluations} evaluations of each "
            f"sample the error is {bits.standard_error:.3g}, of which the scatter between "
            f"{bits.num} samples leaves {bits.sampling_error:.3g}. Measure {needed} samples.",
            TargetMissedWarning,
        )


def require_finite_losses(loss: Float[Tensor, "n m"], logsnr: Float[Tensor, "n m"]) -> None:
    """Raise a ValueError that names the first sample whose loss is not finite."""
    bad = (~loss.isfinite()).nonzero()
    if len(bad):
        row, level = bad[0].tolist()
        raise ValueError(
            f"{len(bad)} of {loss.numel()} losses are NaN or infinity, the first of sample {row} "
            f"at log-SNR {logsnr[row, level].item():.2f}: check the data and the network."
        )
