r"""Sample quality: distances between the features of generated and of real images.

With means $\mu$ and covariances $\Sigma$ of the features, the squared Fréchet distance (the FID, if
the features are Inception's) is that between two Gaussians,

$$d^2 = \|\mu_1 - \mu_2\|^2 + \mathrm{tr}\left(\Sigma_1 + \Sigma_2
  - 2 (\Sigma_1^{1/2} \Sigma_2 \Sigma_1^{1/2})^{1/2}\right).$$

It is biased upwards, less so for more samples. The kernel distance (KID) is an unbiased estimate of
the squared maximum mean discrepancy,

$$\mathrm{MMD}^2 = E\,k(x, x') + E\,k(y, y') - 2 E\,k(x, y), \qquad
  k(x, y) = \left(x^\top y / d + 1\right)^3,$$

for any numbers of samples: the U-statistic over all pairs of two different samples $x_i$, all pairs
of two different reference features $y_j$, and all mixed pairs. Its standard error is from the
jackknife over samples. The reference is fixed: its own sampling error is shared by all models that
are compared with it, and not included.

References:
    Heusel et al. (2017), https://arxiv.org/abs/1706.08500
    Binkowski et al. (2018), https://arxiv.org/abs/1801.01401
    Salimans et al. (2016), https://arxiv.org/abs/1606.03498
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from elbos.base.errors import warn

_CHUNK = 1_000


@dataclass(frozen=True)
class Statistics:
    r"""Mean $\mu$ and covariance $\Sigma$, over $n - 1$, of feature vectors, in float64."""

    mean: Float64[Tensor, " d"]
    covariance: Float64[Tensor, "d d"]
    num: int

    @staticmethod
    def from_features(features: Float[Tensor, "n d"]) -> "Statistics":
        """Compute mean and covariance, and warn unless there are more vectors than dimensions."""
        num, dim = features.shape
        if num <= dim:
            warn(
                f"{num} samples have a singular covariance in {dim} dimensions, which biases the "
                f"Fréchet distance upwards: take more than {dim}"
            )
        mean = features.mean(0, dtype=torch.float64)
        scatter = torch.zeros(dim, dim, dtype=torch.float64, device=features.device)
        for chunk in torch.split(features, _CHUNK):
            centered = chunk.double() - mean
            scatter += centered.mT @ centered
        return Statistics(mean, scatter / (num - 1), num)


def frechet_distance(a: Statistics, b: Statistics) -> float:
    r"""Return the squared Fréchet distance between two Gaussians.

    Numerically stable where covariances are singular: with $\Sigma_1 = R R^\top$ from symmetric
    eigenvalues, the trace of the root is $\sum_i \sqrt{\lambda_i}$ over the eigenvalues of the
    symmetric $R^\top \Sigma_2 R$, and no root of an unsymmetric matrix is taken.
    """
    eigenvalues, eigenvectors = torch.linalg.eigh(a.covariance)
    root = eigenvectors * eigenvalues.clamp(min=0).sqrt()
    product = torch.linalg.eigvalsh(root.mT @ b.covariance @ root)
    distance = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace()
    distance -= 2 * product.clamp(min=0).sqrt().sum()
    return distance.clamp(min=0).item()


def kernel_distance(
    samples: Float[Tensor, "n d"],
    reference: Float[Tensor, "m d"],
    *,
    reference_kernel: float | None = None,
) -> tuple[float, float]:
    r"""Return the unbiased kernel distance (squared MMD) and its standard error.

    The distance may be negative. The standard error is of the draw of other samples against the
    same reference. If both sets have the same distribution it is up to $\sqrt2$ too large; on
    average it is never too small. Computed in float64, in chunks that take 50 MB;
    `reference_kernel` is `mean_kernel(reference)`, if known.
    """
    n, m = len(samples), len(reference)
    within = _kernel_sums(samples, samples) - _kernel_diagonal(samples)  # r_i, over all others
    between = _kernel_sums(samples, reference) / m
    reference_kernel_mean = mean_kernel(reference) if reference_kernel is None else reference_kernel
    total = within.sum()
    distance = total / (n * (n - 1)) + reference_kernel_mean - 2 * between.mean()
    left_out = (total - 2 * within) / ((n - 1) * (n - 2)) + reference_kernel_mean
    left_out -= 2 * (between.sum() - between) / (n - 1)
    variance = (left_out - left_out.mean()).square().sum() * (n - 1) / n
    return distance.item(), variance.sqrt().item()


def mean_kernel(x: Float[Tensor, "n d"]) -> float:
    r"""Return the mean kernel $E\,k(x, x')$ over all pairs of different feature vectors."""
    num, chunks = len(x), torch.split(x, _CHUNK)
    total = sum((_kernel(a, a).sum() - _kernel_diagonal(a).sum()).item() for a in chunks)
    total += 2 * sum(_kernel(a, b).sum().item() for i, a in enumerate(chunks) for b in chunks[:i])
    return total / (num * (num - 1))


def _kernel_sums(x: Tensor, y: Tensor) -> Float64[Tensor, " n"]:
    chunks = torch.split(y, _CHUNK)
    sums = [[_kernel(rows, chunk).sum(1) for chunk in chunks] for rows in torch.split(x, _CHUNK)]
    return torch.cat([torch.stack(each).sum(0) for each in sums])


def _kernel(x: Tensor, y: Tensor) -> Float64[Tensor, "n m"]:
    return (x.double() @ y.double().mT / x.shape[1] + 1) ** 3


def _kernel_diagonal(x: Tensor) -> Float64[Tensor, " n"]:
    return (x.double().square().sum(1) / x.shape[1] + 1) ** 3


def inception_score(logits: Float[Tensor, "n k"], *, num_splits: int = 10) -> float:
    r"""Return the mean Inception score over random splits.

    The score is $\exp E\,\mathrm{KL}(p(y|x) \,\|\, p(y))$ of logits in random order. This is the
    Inception score if they are those of Inception; scores from other classifiers are not
    comparable. The score is at most the number of classes, and biased downwards for small splits;
    ten are the authors' choice.
    """
    scores = []
    for log_p in logits.double().log_softmax(1).tensor_split(num_splits):
        log_marginal = log_p.logsumexp(0) - math.log(len(log_p))
        scores.append((log_p.exp() * (log_p - log_marginal)).sum(1).mean().exp())
    return torch.stack(scores).mean().item()
