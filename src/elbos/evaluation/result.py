"""Results of an evaluation as frozen dataclasses, which are stored in eval.json."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from elbos.base import files
from elbos.base.codec import Stored
from elbos.base.extras import shown_by
from elbos.evaluation.metrics import SAMPLE_METRICS, SampleMetric, Value, leading_distance
from elbos.validation import Curve, Estimate, Validation
from elbos.validation.result import NATS_PER_BIT

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MAX_Z = 4.0
"""The largest z score attributed to chance: one in 16,000 is larger."""


@dataclass(frozen=True, kw_only=True)
class TheoremCheck:
    """Test result on whether the weighted loss equals the mixture of ELBOs.

    Values are in nats per dimension. `difference_se` is the standard error of the paired
    difference, loss minus mixture, and `z` the difference divided by it. Monotone weightings never
    increase within the training's noise levels.
    """

    name: str
    is_monotone: bool
    loss: float
    mixture: float
    difference_se: float
    z: float

    @property
    def holds(self) -> bool:
        """Return whether the weighted loss and the mixture of ELBOs agree, within errors."""
        return abs(self.z) <= MAX_Z


@dataclass(frozen=True, kw_only=True)
class OdeLikelihood:
    """Likelihood of images under the probability-flow ODE, and the bound on the same images.

    Attributes:
        difference: Mean of ODE minus bound, with standard error `difference_se`.
        dequantization: Noise on discrete data; None for continuous data.
        num_evaluations: Largest number of function evaluations of any batch.
    """

    bits_per_dim: float
    standard_error: float
    bound_bits_per_dim: float
    difference: float
    difference_se: float
    num_images: int
    dequantization: str | None
    trace: str
    rtol: float
    num_evaluations: int


@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """Variational bound on the negative log-likelihood of images, its terms and integrand.

    Attributes:
        standard_error: Standard error for the distribution of images, in bits/dim.
        measurement_error: Standard error for this set of images, in bits/dim.
        sampling_error: The part of the standard error from the choice of images, in bits/dim.
        target_se: The requested standard error, or None; see `is_target_reached`.
        decoder_bpd, diffusion_bpd, prior_bpd: The terms of the bound, in bits/dim.
        curve, elbo: The loss at each noise level; the negative ELBO of data noised to each level.
        ode: The ODE likelihood; None if not measured.
        rounds: The losses of each image; None if read from a file, which does not hold them.
    """

    bits_per_dim: float
    standard_error: float
    measurement_error: float
    sampling_error: float
    target_se: float | None
    is_target_reached: bool | None
    decoder_bpd: float
    diffusion_bpd: float
    prior_bpd: float
    num_evaluations: int
    curve: Curve
    elbo: Curve
    weightings: tuple[TheoremCheck, ...] = ()
    ode: OdeLikelihood | None = None
    rounds: Validation | None = field(
        default=None, repr=False, compare=False, metadata={"is_stored": False}
    )


@dataclass(frozen=True, kw_only=True)
class SamplingProtocol:
    """Settings with which samples were generated and scored.

    Attributes:
        reference: Split of the real images, `num_reference` in number; the kernel distance uses at
            most 60,000 of them.
        num_evaluations: Network evaluations per sample.
        guidance: Guidance scale, 1 without guidance.
    """

    extractor: str
    reference: str
    num_reference: int
    num_features: int
    sampler: str
    grid: str
    num_steps: int
    num_evaluations: int
    guidance: float
    num_samples: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class SampleQuality:
    """Sample-quality scores of one model, and of real test images, by the metric's name.

    There are `num_baseline` test images; too few have no scores. `picture` is a PNG image of some
    samples; None if read from a file, which does not hold it.
    """

    protocol: SamplingProtocol
    scores: Mapping[str, Value]
    baseline: Mapping[str, Value]
    num_baseline: int
    picture: bytes | None = field(
        default=None, repr=False, compare=False, metadata={"is_stored": False}
    )

    @property
    def metrics(self) -> list[SampleMetric]:
        """Metrics that were computed for the samples, the primary distance first."""
        num = min(self.protocol.num_samples, self.num_baseline)
        leading = leading_distance(num, self.protocol.num_features)
        measured = [metric for metric in SAMPLE_METRICS if metric.name in self.scores]
        return sorted(measured, key=lambda metric: metric is not leading)

    def real(self, metric: SampleMetric) -> Value | None:
        """Return the score of real images, if it can be compared with that of the samples.

        A metric that depends on the number of images needs as many test images as samples.
        """
        is_comparable = self.num_baseline >= self.protocol.num_samples
        if metric.depends_on_num and not is_comparable:
            return None
        return self.baseline.get(metric.name)


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Settings with which a likelihood was measured.

    Attributes:
        num_levels: Number of pixel values that the decoder distinguishes; None for continuous data.
        scheduler: Class and settings of a diffusers scheduler, which define the network's input at
            each noise level; None for a run.
    """

    data: str
    data_sha256: str
    num_levels: int | None
    logsnr_min: float
    logsnr_max: float
    num_pilot_images: int
    precision: str
    seed: int
    device: str
    versions: Mapping[str, str]
    scheduler: str | None = None


@dataclass(frozen=True, kw_only=True)
class Evaluation(Stored):
    """Results of evaluating one model on a dataset.

    Attributes:
        run: The run directory, or the folder of the model.
        step: Training step of the checkpoint; None if unknown.
        trained: Settings of the training, as far as known.
        split: The split of the measured images, `num_images` in number.
        num_evaluations: Number of network evaluations for all likelihoods.
        results: Likelihoods by condition: "unconditional", "given_label", or both.
        quality: Sample quality; None if not measured.
    """

    run: str
    step: int | None
    trained: Mapping[str, str | int]
    split: str
    num_images: int
    num_evaluations: int
    results: Mapping[str, Likelihood]
    quality: SampleQuality | None
    protocol: Protocol

    def __repr__(self) -> str:
        bits = ", ".join(
            f"{name}: {bound.bits_per_dim:.4f} ± {bound.standard_error:.4f} bits/dim"
            for name, bound in self.results.items()
        )
        return f"Evaluation({self.run!r}, {self.num_images} images, {bits})"

    def difference(self, other: "Evaluation") -> dict[str, Estimate]:
        """Estimate the paired difference between the bounds of two models on the same images.

        It is `self` minus `other`, in bits/dim, for each condition that both have. How likely an
        image is under any model is common to both, so that most of the variance cancels.

        Raises:
            ValueError: If the images differ, or an evaluation was read from a file: evaluate again,
                which resumes.
        """
        images = [(e.split, e.num_images, e.protocol.data_sha256) for e in (self, other)]
        if images[0] != images[1]:
            raise ValueError("the two evaluations are of other images: evaluate on the same data.")
        differences = {}
        for name in (name for name in self.results if name in other.results):
            first, second = self.results[name].rounds, other.results[name].rounds
            if first is None or second is None:
                raise ValueError(
                    "a file does not hold the bound of each image: evaluate again, which resumes."
                )
            gaps = (first.bound.mean(1) - second.bound.mean(1)) / NATS_PER_BIT
            differences[name] = Estimate.from_rounds(gaps[:, None], is_lattice=False)
        return differences

    def difference_by_level(self, other: "Evaluation") -> dict[str, Curve]:
        """Estimate the paired difference of the losses, `self` minus `other`, by noise level.

        It is in nats/dim per unit of log-SNR, in 12 bins of the log-SNRs at which both were
        measured, for each condition that both have.

        Raises:
            ValueError: As `difference`.
        """
        curves = {}
        for name in self.difference(other):
            rounds = (evaluation.results[name].rounds for evaluation in (self, other))
            first, second = (each.measurements for each in rounds if each is not None)
            low = max(first.schedule.logsnr_min, second.schedule.logsnr_min)
            high = min(first.schedule.logsnr_max, second.schedule.logsnr_max)
            edges = torch.linspace(low, high, 13, dtype=torch.float64)
            middle, width = (edges[1:] + edges[:-1]) / 2, (high - low) / 12
            losses = (
                first.curve(level, width).mean(1) - second.curve(level, width).mean(1)
                for level in middle.tolist()
            )
            estimates = [Estimate.from_rounds(x[:, None], is_lattice=False) for x in losses]
            curves[name] = Curve.from_estimates(middle, estimates)
        return curves

    @classmethod
    def load(cls, path: Path | str) -> "Evaluation":
        """Read the evaluation stored by `elbos evaluate` as RUN/eval.json.

        Raises:
            OSError: If the file cannot be read.
            ValueError: If the file is not an evaluation of this version.
        """
        try:
            return cls.from_dict(files.read_value(Path(path)))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{path} is not an evaluation of this version ({error}): evaluate the run again."
            ) from error

    def plot(self) -> "Figure":
        """Plot the loss and the ELBO of noisy data over log-SNR."""
        figure: Figure = shown_by(self).curves_figure(self)
        return figure

    def to_html(self, path: Path | str, *, command: str | None = None) -> None:
        """Write the evaluation as a self-contained HTML page, with samples and the command line.

        Raises:
            OSError: If the page cannot be written; the message names `path`.
        """
        shown_by(self).page([self], command).write_html(path)

    def _repr_markdown_(self) -> str:
        text: str = shown_by(self).runs_table([self]).markdown()
        return text
