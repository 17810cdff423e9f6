"""Result of a validation: the losses of every sample, and all quantities derived from them."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.base import codec, files
from elbos.base.checks import typed
from elbos.base.errors import flat
from elbos.base.extras import shown_by
from elbos.theory.schedules import Schedule
from elbos.theory.weightings import weights_at
from elbos.validation.estimate import Estimate
from elbos.validation.measurements import NUM_BINS, ControlVariate, Measurements

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

NATS_PER_BIT = math.log(2)
_VERSION, _STATE = 1, "schedule."  # of the JSON values; prefix of a schedule's tensors
NUMS_OF_BINS = (NUM_BINS, 24, 12, 6, 3)  # chosen by the number of measured levels
LEVELS_PER_BIN = 20  # mean; the emptiest bin of a tuned density has a tenth of it


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Estimates and their errors as a function of the noise level.

    Attributes:
        logsnr: The noise levels.
        nats_per_dim: The estimates; those of a loss are also per unit of log-SNR.
        standard_error: Standard errors as estimates of the population mean.
        measurement_error: Standard errors as estimates of the mean over the measured samples.
    """

    logsnr: tuple[float, ...]
    nats_per_dim: tuple[float, ...]
    standard_error: tuple[float, ...]
    measurement_error: tuple[float, ...]

    def __repr__(self) -> str:
        ends = f"log-SNR {self.logsnr[0]:g} to {self.logsnr[-1]:g}"
        return f"Curve({len(self.logsnr)} estimates, {ends})"

    @classmethod
    def from_estimates(cls, logsnr: Float[Tensor, " k"], estimates: list[Estimate]) -> "Curve":
        return cls(
            logsnr=tuple(logsnr.tolist()),
            nats_per_dim=tuple(estimate.mean for estimate in estimates),
            standard_error=tuple(estimate.standard_error for estimate in estimates),
            measurement_error=tuple(estimate.measurement_error for estimate in estimates),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Validation:
    r"""The variational bound of each sample of a dataset.

    $$-\log p(x) \le \text{decoder} + \int \ell(\lambda)\,d\lambda + \text{prior}.$$

    Attributes:
        measurements: The losses $\ell$ at noise levels of each sample.
        prior: KL divergence from the prior; nats per dimension.
        decoder: Loss of the decoder in each round; nats per dimension.
        num_levels: $K$ of discrete data. None for continuous data: the bound is then on a density,
            in the units of the data; for latents it is known up to a constant, and only differences
            are meaningful.
        precision: Coarsest floating-point type in the denoiser's arithmetic; bfloat16, of weights
            or under autocast, moves the bound by thousandths of a bit/dim.
    """

    measurements: Measurements
    prior: Float[Tensor, " n"]
    decoder: Float[Tensor, "n r"]
    num_levels: int | None
    precision: str

    def __repr__(self) -> str:
        bits = self.bits
        return (
            f"Validation({bits.mean:.4f} ± {bits.standard_error:.4f} bits/dim, {bits.num} samples, "
            f"{self.num_evaluations} evaluations in {self.precision})"
        )

    @property
    def diffusion(self) -> Float[Tensor, "n r"]:
        """Diffusion term of each sample's bound, in a column for each independent round."""
        return self.measurements.integral(torch.ones_like)

    @property
    def bound(self) -> Float[Tensor, "n r"]:
        """Bound on each sample's negative log-likelihood, in a column for each round."""
        return self.diffusion + self.decoder + self.prior[:, None]

    @property
    def nats(self) -> Estimate:
        """Mean variational bound and its errors in nats per dimension."""
        return self.measurements.estimate(self.bound)

    @property
    def bits(self) -> Estimate:
        """Mean variational bound and its errors in bits per dimension."""
        return self.nats / NATS_PER_BIT

    @property
    def bits_per_dim(self) -> float:
        """Mean variational bound in bits per dimension."""
        return self.bits.mean

    @property
    def standard_error(self) -> float:
        """Standard error of the mean variational bound in bits per dimension."""
        return self.bits.standard_error

    @property
    def num_evaluations(self) -> int:
        """Total number of function evaluations of the denoiser."""
        return self.measurements.loss.numel()

    @property
    def by_level(self) -> Curve:
        """Mean loss in up to 48 bins of log-SNR, in nats per dimension and unit of log-SNR."""
        return self.curve(NUM_BINS)

    def curve(self, max_num_bins: int) -> Curve:
        """Return the loss by noise level in at most `max_num_bins` even bins of log-SNR."""
        return self._curve(self.measurements.curve, max_num_bins)

    def _curve(self, loss: Callable[[float, float], Tensor], max_num_bins: int) -> Curve:
        edges = self._edges(max_num_bins)
        middle, width = (edges[1:] + edges[:-1]) / 2, (edges[1] - edges[0]).item()
        losses = [self.measurements.estimate(loss(level, width)) for level in middle.tolist()]
        return Curve.from_estimates(middle, losses)

    @property
    def elbo_by_level(self) -> Curve:
        """Negative ELBO of noisy data at the edges of the bins of `by_level`."""
        measurements, edges = self.measurements, self._edges(NUM_BINS)
        elbos = (measurements.elbo(level, self.prior) for level in edges.tolist())
        return Curve.from_estimates(edges, list(map(measurements.estimate, elbos)))

    def _edges(self, max_num_bins: int) -> Float[Tensor, " k"]:
        # two rounds at most: rounds that a target error adds leave the bins as they are
        schedule, num_levels = self.measurements.schedule, self.measurements.loss[:, :2].numel()
        most = min(max_num_bins, num_levels // LEVELS_PER_BIN)
        num_bins = max(num for num in NUMS_OF_BINS if num <= most or num < 4)
        return torch.linspace(
            schedule.logsnr_min, schedule.logsnr_max, num_bins + 1, dtype=torch.float64
        )

    @typed
    def weighted(
        self, weighting: Callable[[Tensor], Tensor], minus: "Validation | None" = None
    ) -> Estimate:
        r"""Estimate the weighted loss $\int w\,\ell\,d\lambda$ in nats per dimension.

        Args:
            weighting: $w$, such as `elbos.weightings.Sigmoid(k=2.0)`.
            minus: A validation whose weighted loss is subtracted, sample by sample. Default: none.

        Raises:
            ValueError: If the function does not return one weight for each noise level, finite and
                not below 0; the validations differ in samples, noise levels or noise.
        """
        w = partial(weights_at, weighting)
        loss = self.measurements.integral(w)
        if minus is not None:
            self.difference(minus)  # raises if samples, noise levels or noise differ
            loss = loss - minus.measurements.integral(w)
        return self.measurements.estimate(loss)

    @typed
    def difference(self, other: "Validation") -> Estimate:
        """Estimate the paired difference between the mean variational bounds of two denoisers.

        Samples and noise are shared, so that most of the variance cancels.

        Raises:
            ValueError: If the validations differ in samples, noise levels or noise.
        """
        first, second = self.measurements, other.measurements
        if first.logsnr.shape != second.logsnr.shape or not torch.equal(
            first.logsnr, second.logsnr
        ):
            raise ValueError(
                "the noise levels differ: compare results of one Validator with equal rounds."
            )
        if self.num_levels != other.num_levels:
            raise ValueError(
                f"the two validations are of num_levels={self.num_levels} and {other.num_levels}: "
                "a probability is not compared with a density."
            )
        atol = 1e-6 * math.exp(first.schedule.logsnr_min)
        if not torch.allclose(self.prior, other.prior, rtol=1e-4, atol=atol):
            raise ValueError("the two validations are of other samples: give the same data.")
        return first.estimate((self.bound - other.bound) / NATS_PER_BIT)

    def difference_by_level(self, other: "Validation") -> Curve:
        """Estimate the paired difference of the losses, `self` minus `other`, by noise level.

        It is in nats per dimension and unit of log-SNR. There are at most 12 bins, since the
        scatter in a bin is larger than that of the bound.

        Raises:
            ValueError: If the validations differ in samples, noise levels or noise.
        """
        self.difference(other)  # raises if they do
        first, second = self.measurements, other.measurements
        return self._curve(lambda *bin_: first.curve(*bin_) - second.curve(*bin_), 12)

    def save(self, path: Path | str) -> None:
        """Write the validation to a file, as JSON.

        The file is replaced atomically; links are not followed.

        Raises:
            OSError: If the file cannot be written; the error names `path`.
            ValueError: If the noise schedule is not a class of elbos.
        """
        content = json.dumps(self.to_dict()).encode()
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        files.write(Path(path), content)

    @classmethod
    def load(cls, path: Path | str) -> "Validation":
        """Load a validation from a file, without executing code.

        Raises:
            OSError: If the file cannot be read; the error names `path`.
            ValueError: If the file is damaged, of another version, or not a validation.
        """
        try:
            return cls.from_dict(files.read_value(Path(path)))
        except ValueError as error:
            raise ValueError(f"{path} is not a readable validation: {flat(error)}.") from error

    def to_dict(self) -> dict[str, Any]:
        """Return the validation as JSON values.

        Raises:
            ValueError: If the noise schedule is not a class of elbos.
        """
        measurements, schedule = self.measurements, self.measurements.schedule
        control = measurements.control
        tensors = {
            "logsnr": measurements.logsnr,
            "loss": measurements.loss,
            "prior": self.prior,
            "decoder": self.decoder,
            **({} if control is None else {"control.logsnr": control.logsnr}),
            **({} if control is None else {"control.loss": control.loss}),
            **{_STATE + name: state for name, state in schedule.state_dict().items()},
        }
        content = {
            "version": _VERSION,
            "num_levels": self.num_levels,
            "precision": self.precision,
            "is_lattice": measurements.is_lattice,
            "schedule": codec.encode(schedule),
            "tensors": {name: tensor.tolist() for name, tensor in tensors.items()},
        }
        try:
            is_readable = codec.decode(Schedule, content["schedule"]) == schedule
        except ValueError:
            is_readable = False
        if not is_readable:
            raise ValueError(
                f"{schedule!r} is not a schedule of elbos and cannot be written: use another one."
            )
        return content

    @classmethod
    @typed
    def from_dict(cls, data: Mapping[str, Any]) -> "Validation":
        """Restore a validation from JSON values.

        Raises:
            ValueError: If something is missing, or does not fit the rest.
            TypeError: If tensors are not of numbers.
        """
        if not (isinstance(data, Mapping) and isinstance(data.get("tensors"), Mapping)):
            raise ValueError("this is not a validation: give the result of to_dict.")
        if data.get("version") != _VERSION:
            raise ValueError(f"it is not of version {_VERSION}")
        tensors = {n: torch.tensor(v, dtype=torch.float64) for n, v in data["tensors"].items()}
        state = {n.removeprefix(_STATE): v for n, v in tensors.items() if n.startswith(_STATE)}
        try:
            schedule = codec.decode(Schedule, data["schedule"], "schedule")
            schedule.load_state_dict(state)
            control = None
            if "control.loss" in tensors:
                control = ControlVariate(tensors["control.logsnr"], tensors["control.loss"])
            logsnr, loss = tensors["logsnr"], tensors["loss"]
            return cls(
                measurements=Measurements(schedule, logsnr, loss, control, data["is_lattice"]),
                prior=tensors["prior"],
                decoder=tensors["decoder"],
                num_levels=data["num_levels"],
                precision=data["precision"],
            )
        except KeyError as error:
            raise ValueError(f"it lacks {error}") from error

    def plot(self) -> "Figure":
        """Plot the loss by noise level and the ELBO of noisy data."""
        curves = {"loss": (self.by_level, self.elbo_by_level)}
        figure: Figure = shown_by(self, "figures").by_level_figure(curves)
        return figure

    def _repr_markdown_(self) -> str:
        text: str = shown_by(self).results_table(self).markdown()
        return text
