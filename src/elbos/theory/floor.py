r"""The irreducible loss: the least loss that any denoiser can have on given data, at each noise
level.

The loss $\tfrac12\mathbb E\|\hat\epsilon - \epsilon\|^2$ is least for the posterior mean, and is
then, with $s = \alpha / \sigma = e^{\lambda/2}$ and $\hat x = \mathbb E[x \mid z]$,

$$\ell^*(\lambda) = \tfrac12 s^2\,\mathbb E\|x - \hat x\|^2.$$

**Of a finite set**, $x$ is one of its $n$ points, drawn uniformly, and so is a second point $x'$
that is drawn from the posterior given $z$: the two are independent given $z$, hence
$\mathbb E\|x - x'\|^2 = 2\,\mathbb E\|x - \hat x\|^2$. With $d_j = x - x_j$,

$$\ell^*(\lambda) = \tfrac14 s^2\, \mathbb E \sum_j p_j \|d_j\|^2, \qquad
  p_j \propto \exp(-s\,\epsilon\cdot d_j - \tfrac12 s^2 \|d_j\|^2).$$

So no mean has to be formed. The products $x\cdot x_j$ and $\epsilon\cdot x_j$ serve all noise
levels, and the estimate is the mean of $\tfrac12 s^2\|x - \hat x\|^2$ and its own expectation given
$z$: it has the smaller variance. The point's own logit is 0, the others are at most
$(\epsilon\cdot d_j / \|d_j\|)^2 / 2$, half the square of a normal variable: nothing overflows.

Two facts about it, both of which the tests check:

- The area under it is an entropy, $\int \ell^* d\lambda = \ln n$ for $n$ different points (I-MMSE:
  Guo, Shamai and Verdú, 2005): what it takes to say which of them an image is, and all that a model
  pays that has memorized them.
- The irreducible loss of a random subset is below that of the set, on average. $\ell^*$ is, as a
  function of the distribution, an infimum over denoisers of losses that are linear in it, hence
  concave; the average of a random subset's distribution is the set's; and so Jensen's inequality
  says it. For the same reason the irreducible loss of a training set is, on average over training
  sets, below that of the distribution that the set was drawn from: no model's loss on held-out data
  is below it, either.

Everything is in nats per dimension.

See docs/theory.md, section 6.
"""

import math
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor
from torch.nn.functional import threshold

from elbos.base.checks import diagnosed
from elbos.theory.oracles import FiniteSet, GaussianMixture
from elbos.theory.process import alpha_sigma

NUM_ROWS, NUM_COLUMNS = 512, 1024  # size of a block of pairs that fits in a processor's cache
NUM_NOISED = 1024  # points between two reports of progress
NO_WEIGHT = -60.0  # least logit: a weight of e^-60 relative to the point itself is negligible
NO_LOSS = 1e-15  # smaller losses are set to 0: they come from negligible weights
ROUNDING = 1e-12  # rounding of the squared distance of equal points, relative to their norms
SAME = 0.05  # relative difference of irreducible losses that count as equal
REACH, STEP = 9.0, 1 / 6  # range and step of the quadrature, in standard deviations


@dataclass(frozen=True, kw_only=True)
class Floor:
    """Irreducible loss of a dataset at each noise level.

    It is in nats per dimension.

    Attributes:
        logsnr: The noise levels.
        loss: The least loss.
        standard_error: Standard error over points and noise, which all noise levels share: errors
            of neighbouring levels are correlated. 0 if the loss was integrated. If all points were
            noised it is an upper estimate, as it includes the scatter of the points. At the clean
            end the loss comes from the few points with near neighbours, and the error is unreliable
            if few of those were noised.
        num_noised: Points that were noised, or None if the loss was integrated.
        num_points: Points of the set, or None of a mixture.
        bias: "none", or "lower bound" for a random subset: on average below the irreducible loss of
            all points.
        tenth: The irreducible loss of a random tenth of the points, if computed. Where the two
            agree, more points would hardly raise the loss.
    """

    logsnr: tuple[float, ...]
    loss: tuple[float, ...]
    standard_error: tuple[float, ...]
    num_noised: int | None
    num_points: int | None
    bias: Literal["none", "lower bound"] = "none"
    tenth: tuple[float, ...] | None = None

    @property
    def num_resolved(self) -> int:
        """Number of noise levels at which the irreducible loss is reliable.

        From the first of these levels to the last, the irreducible loss of a random tenth agrees
        with that of all points to within 5 %.
        """
        pairs = zip(self.tenth or (), self.loss, strict=False)
        return len(list(takewhile(lambda pair: pair[0] > (1 - SAME) * pair[1], pairs)))

    @classmethod
    def from_losses(
        cls,
        logsnr: Float64[Tensor, " m"],
        losses: Float64[Tensor, "n m"],
        num_points: int,
        *,
        is_subset: bool = False,
    ) -> "Floor":
        """Average the irreducible losses of individual data points.

        Two points or more give standard errors.
        """
        error = losses.std(0) / math.sqrt(len(losses))
        return cls(
            logsnr=tuple(logsnr.tolist()),
            loss=tuple(losses.mean(0).tolist()),
            standard_error=tuple(error.tolist()),
            num_noised=len(losses),
            num_points=num_points,
            bias="lower bound" if is_subset else "none",
        )


@diagnosed
def finite_set_floor(
    data: FiniteSet,
    logsnr: Float[Tensor, " m"],
    *,
    num_noised: int | None = None,
    given_label: bool = False,
    is_subset: bool = False,
    generator: torch.Generator | None = None,
) -> Floor:
    r"""Estimate the irreducible loss of a finite dataset.

    Noise is added to all points or a random subset. Every noised point is compared with all points
    of the set, so that the result is unbiased. It costs $4 n n' d$ operations for $n'$ noised
    points, in float64, and little for each noise level: 60,000 images of 28x28 pixels take some
    minutes on two cores.

    Args:
        data: The set.
        logsnr: Noise levels $\lambda$, any number.
        num_noised: Points that are noised, 2 or more, chosen at random. Default: all.
        given_label: The denoiser is conditioned on the class.
        is_subset: The set is a random subset of the data of interest: the result is then a lower
            bound, on average.
        generator: Source of the noise and of the choice of points, on the CPU.

    Examples:
        Two points far apart are confused in noise only:

        >>> data = FiniteSet(torch.tensor([[-1.0], [1.0]]).expand(1000, 2, 1).reshape(2000, 1))
        >>> g = torch.Generator().manual_seed(0)
        >>> floor = finite_set_floor(data, torch.tensor([-20.0, 0.0, 20.0]), generator=g)
        >>> [round(loss, 1) for loss in floor.loss]
        [0.0, 0.2, 0.0]
    """
    num = len(data) if num_noised is None else num_noised
    if not 2 <= num <= len(data):
        raise ValueError(f"{num} of {len(data)} points are to be noised: give 2 or more of them.")
    rows = torch.randperm(len(data), generator=generator)[:num]
    losses = [
        floor_losses(data, some, logsnr, given_label=given_label, generator=generator)
        for some in torch.split(rows, NUM_NOISED)
    ]
    return Floor.from_losses(logsnr.double(), torch.cat(losses), len(data), is_subset=is_subset)


@diagnosed
@torch.no_grad()
def floor_losses(
    data: FiniteSet,
    rows: Int[Tensor, " n"],
    logsnr: Float[Tensor, " m"],
    *,
    given_label: bool = False,
    generator: torch.Generator | None = None,
) -> Float64[Tensor, "n m"]:
    r"""Compute an unbiased estimate of the irreducible loss for each data point.

    Each point has one noise vector for all noise levels. The estimate is $\tfrac14 s^2 \sum_j p_j
    \|d_j\|^2$.

    Args:
        data: The set; it is computed where its points are.
        rows: Which of its points are noised.
        logsnr: Noise levels $\lambda$.
        given_label: The denoiser is conditioned on the class: comparisons are with points of the
            same class only.
        generator: Source of the noise, on the CPU.

    Returns:
        Nats per dimension, on the CPU.
    """
    eps = torch.randn(len(rows), data.num_dims, dtype=torch.float64, generator=generator)
    losses = torch.empty(len(rows), len(logsnr), dtype=torch.float64)
    x, rows = data.points(rows.to(data.x.device)), rows.cpu()
    if not given_label:
        groups = [(data, torch.arange(len(rows)))]
    elif data.labels is None:
        raise ValueError("given_label is true, but the set has no labels.")
    else:
        label = data.labels.cpu()[rows]
        groups = [(data.only(c), (label == c).nonzero()[:, 0]) for c in sorted(set(label.tolist()))]
    for candidates, members in groups:
        for some in torch.split(members, NUM_ROWS):
            x_some = x[some.to(x.device)]
            losses[some] = _block(candidates, x_some, eps[some].to(x.device), logsnr).cpu()
    return losses


def _block(
    data: FiniteSet, x: Float64[Tensor, "b d"], eps: Float64[Tensor, "b d"], logsnr: Tensor
) -> Float64[Tensor, "b m"]:
    total, square = torch.zeros(2, len(x), len(logsnr), dtype=torch.float64, device=x.device)
    norm, eps_x = x.square().sum(1), (eps * x).sum(1)
    for rows in data.chunks(NUM_COLUMNS):
        points = data.points(rows)
        x_others, eps_others = (torch.cat([x, eps]) @ points.mT).tensor_split(2)
        distance = norm[:, None] + points.square().sum(1) - 2 * x_others
        distance = threshold(distance, ROUNDING * norm.max().item(), 0.0).float()
        _add(total, square, distance, (eps_x[:, None] - eps_others).float(), logsnr)
    losses = logsnr.to(total).exp() / 4 * square / total / data.num_dims
    return threshold(losses, NO_LOSS, 0.0)


def _add(
    total: Float64[Tensor, "b m"],
    square: Float64[Tensor, "b m"],
    distance: Float[Tensor, "b c"],
    eps_d: Float[Tensor, "b c"],
    logsnr: Float[Tensor, " m"],
) -> None:
    r"""Add a chunk of data points to the sums in a posterior expectation.

    The sums are $\sum_j p_j$ and $\sum_j p_j \|d_j\|^2$, from noisy to clean levels. A logit
    $-s(\epsilon\cdot d_j + \frac12 s \|d_j\|^2)$ below 0 falls as $s$ grows, so that no cleaner
    level has to be looked at once all of a chunk are far below.
    """
    p = torch.empty_like(distance)
    for level in logsnr.argsort().tolist():
        s = math.exp(logsnr[level].item() / 2)
        torch.mul(distance, -s * s / 2, out=p).add_(eps_d, alpha=-s)
        if p.max() < NO_WEIGHT:
            break
        total[:, level] += p.clamp_(min=NO_WEIGHT).exp_().sum(1)  # denormal numbers are slow
        square[:, level] += p.mul_(distance).sum(1)


@diagnosed
def mixture_floor(data: GaussianMixture, logsnr: Float[Tensor, " m"]) -> Floor:
    r"""Compute the irreducible loss of a Gaussian mixture by quadrature.

    The mixture has one or two dimensions.

    $\tfrac12(1 - \mathbb E\|\hat\epsilon^*\|^2 / d)$, by the trapezoidal rule in each component's
    own coordinates, in steps that the narrowest of the noisy components resolves.

    Args:
        data: The mixture.
        logsnr: Noise levels $\lambda$.

    Examples:
        >>> one = torch.ones(1)
        >>> floor = mixture_floor(GaussianMixture(one, torch.zeros(1, 1), one), torch.zeros(1))
        >>> round(floor.loss[0], 6)  # half of sigmoid(0)
        0.25
    """
    num_dims = data.means.shape[1]
    if num_dims > 2:
        raise ValueError(
            f"the mixture has {num_dims} dimensions, and quadrature takes 1 or 2: average "
            "likelihood.eps_loss(mixture, x, logsnr) over samples x of it."
        )
    exact = GaussianMixture(data.weights.double(), data.means.double(), data.stds.double())
    return Floor(
        logsnr=tuple(logsnr.tolist()),
        loss=tuple(0.5 * (1 - _mean_square(exact, level) / num_dims) for level in logsnr.double()),
        standard_error=(0.0,) * len(logsnr),
        num_noised=None,
        num_points=None,
    )


def _mean_square(data: GaussianMixture, logsnr: Float64[Tensor, ""]) -> float:
    r"""Compute $\mathbb E\|\hat\epsilon^*\|^2$ of the optimal denoiser at one noise level."""
    alpha, sigma = alpha_sigma(logsnr)
    stds = (alpha**2 * data.stds**2 + sigma**2).sqrt()
    mean = 0.0
    for weight, mu, std in zip(data.weights, data.means, stds, strict=True):
        half = math.ceil(REACH / STEP * (std / stds.min()).item())
        line = torch.linspace(-REACH, REACH, 2 * half + 1, dtype=torch.float64)
        u = torch.cartesian_prod(*[line] * len(mu)).view(-1, len(mu))
        p = (-0.5 * u.square().sum(1)).exp()
        _, eps_hat = data(alpha * mu + std * u, logsnr[None])
        mean += (weight * (p / p.sum() * eps_hat.square().sum(1)).sum()).item()
    return mean
