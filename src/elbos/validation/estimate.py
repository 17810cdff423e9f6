"""Estimate of a mean over samples, with standard errors."""

import math
from dataclasses import dataclass

import scipy
import torch
from jaxtyping import Float
from torch import Tensor

# Measurement errors of these fractions of the sampling error add 12 % and 0.1 % to the standard
# error. LITTLE stops the rounds where none can reach the target; NOTHING avoids hundreds of rounds
# without effect.
LITTLE, NOTHING = 0.5, 0.05


@dataclass(frozen=True)
class Estimate:
    """Sample mean and its standard error.

    Attributes:
        mean: The estimate.
        standard_error: Standard error of the mean as an estimate of the population mean: from the
            choice of samples, the noise and the noise levels.
        measurement_error: Standard error of the mean as an estimate of the mean over these samples:
            from noise and noise levels only. NaN for a single round.
        num: Number of samples.
        skewness: Skewness of the samples' values; with 0, the default, intervals are Student's.
    """

    mean: float
    standard_error: float
    measurement_error: float
    num: int
    skewness: float = 0.0

    @classmethod
    def from_rounds(cls, values: Float[Tensor, "n r"], *, is_lattice: bool) -> "Estimate":
        r"""Estimate the mean of $n \ge 2$ samples and its errors from repeated measurements.

        If the noise levels form a lattice over all samples, give the samples in its order: the
        contribution of the noise levels is then nearly equal for neighbours and nearly cancels in
        the mean. So errors follow from the differences of neighbours,
        $\tfrac1{2n}\overline{(v_{i+1} - v_i)^2}$, as for any systematic sample, and the skewness
        from $v_i - \tfrac12(v_{i-1} + v_{i+1})$, whose second and third cumulants are
        $\tfrac32$ and $\tfrac34$ of those of $v$. Otherwise, for example for a subset of the
        samples, they follow from the variance and the deviations from the mean.

        References:
            Wolter (2007), Introduction to Variance Estimation, section 8.2
        """
        num, num_rounds = values.shape
        per_sample = values.mean(1)
        residual, within = values - per_sample[:, None], torch.tensor(math.nan)
        if is_lattice:
            total, among_rounds = (
                v.diff(dim=0).square().mean() / 2 for v in (per_sample, residual)
            )
            apart, of_second, of_third = -per_sample.diff(n=2) / 2, 1.5, 0.75
        else:
            total, among_rounds = per_sample.var(), residual.square().mean()
            apart, of_second, of_third = per_sample - per_sample.mean(), 1.0, 1.0
        second, third = apart.square().mean() / of_second, apart.pow(3).mean() / of_third
        if num_rounds > 1:
            within = among_rounds / (num_rounds - 1)
        return cls(
            mean=per_sample.mean().item(),
            standard_error=math.sqrt(total.item() / num),
            measurement_error=math.sqrt(within.item() / num),
            num=num,
            skewness=(third / second**1.5).nan_to_num(0, 0, 0).item(),
        )

    @property
    def interval(self) -> tuple[float, float]:
        r"""95 % confidence interval of the population mean.

        It is Student's, longer on the side of the skewness $g$ by
        $g\,(1 + 2t^2)/(6\sqrt n)$ standard errors, since few samples seldom have the large values
        of a long tail. Of 40 lognormal values it covers 92 %, Student's alone 89 %; of 200, 95 %.
        Two thirds of the degrees of freedom count, since neighbouring differences share a sample.

        References:
            Johnson (1978), Modified t tests and confidence intervals for asymmetrical populations
        """
        t = scipy.stats.t.ppf(0.975, max(1.0, 2 * (self.num - 1) / 3))
        longer = self.skewness * (1 + 2 * t**2) / (6 * math.sqrt(self.num))
        below, above = t - min(longer, 0.0), t + max(longer, 0.0)
        return self.mean - below * self.standard_error, self.mean + above * self.standard_error

    @property
    def sampling_error(self) -> float:
        """Standard error due to the choice of samples."""
        return math.sqrt(max(self.standard_error**2 - self.measurement_error**2, 0.0))

    def is_enough(self, target: float | None) -> bool:
        """Return whether no further measurements are needed.

        True if the target standard error is None, or reached, or out of reach of further
        measurements on these samples.
        """
        if target is None or math.isnan(self.standard_error) or self.standard_error <= target:
            return True
        share = LITTLE if self.sampling_error > target else NOTHING
        return self.measurement_error < share * self.sampling_error

    def __truediv__(self, divisor: float) -> "Estimate":
        errors = self.standard_error / divisor, self.measurement_error / divisor
        return Estimate(self.mean / divisor, *errors, self.num, self.skewness)
