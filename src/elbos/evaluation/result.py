"""Results of an evaluation, as frozen dataclasses: `to_dict` is the content of eval.json."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elbos.base import files
from elbos.base.pages import shown_by
from elbos.base.records import from_json, to_json
from elbos.evaluation.scores import SampleQuality, Sweep
from elbos.theory.floor import Floor
from elbos.training.config import Training
from elbos.validation import Curve

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MAX_Z = 4.0
"""The largest z score that is put down to chance: one in 16,000 is larger."""


@dataclass(frozen=True, kw_only=True)
class TheoremCheck:
    """The weighted loss and the mixture of ELBOs for one weighting, in nats per dimension.

    Attributes:
        name: The weighting.
        is_monotone: Whether it never increases with log-SNR, within the training's noise levels.
        loss: The weighted loss; `loss_se`, its standard error.
        mixture: The mixture of ELBOs; `mixture_se`, its standard error.
        difference_se: Standard error of their paired difference.
        z: The difference over its standard error.
    """

    name: str
    is_monotone: bool
    loss: float
    loss_se: float
    mixture: float
    mixture_se: float
    difference_se: float
    z: float

    @property
    def holds(self) -> bool:
        """Return whether the weighted loss equals the mixture of ELBOs within statistical error."""
        return abs(self.z) <= MAX_Z


@dataclass(frozen=True, kw_only=True)
class OdeLikelihood:
    """The likelihood under the probability-flow ODE, and the variational bound on the same images.

    Attributes:
        bits_per_dim: The mean negative log-likelihood; `standard_error`, over images.
        bound_bits_per_dim: The variational bound.
        difference: Mean of ODE minus bound; `difference_se`, of the paired difference.
        num_images: Images measured.
        dequantization: Noise on discrete data; None for continuous data.
        trace: "hutchinson" or "exact".
        precision: Of the network.
        rtol: Tolerance of a step of the solver, relative and absolute.
        num_evaluations: Function evaluations of the worst batch.
    """

    bits_per_dim: float
    standard_error: float
    bound_bits_per_dim: float
    difference: float
    difference_se: float
    num_images: int
    dequantization: str | None
    trace: str
    precision: str
    rtol: float
    num_evaluations: int


@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """The variational bound on a set of images, with its terms, and its integrand at every noise
    level.

    Attributes:
        bits_per_dim: The bound on the negative log-likelihood; `nats_per_dim`, in nats.
        standard_error: As an estimate for all images there could be, in bits/dim.
        measurement_error: As an estimate for these images, in bits/dim.
        floor: The standard error that these images have if they are measured without error.
        target_se: The standard error to be reached, if any, and `is_target_reached`.
        decoder_bpd, diffusion_bpd, prior_bpd: The terms of the bound, in bits/dim.
        num_rounds: Rounds of the measurement.
        num_evaluations: Network evaluations.
        curve: The loss by noise level.
        elbo: The loss of the ELBO of data noised to each level.
        exact_bits_per_dim: The exact value that the bound is above, where it is known.
        weightings: The theorem for some weightings.
        ode: The ODE likelihood, if measured.
    """

    bits_per_dim: float
    standard_error: float
    measurement_error: float
    floor: float
    target_se: float | None
    is_target_reached: bool | None
    nats_per_dim: float
    decoder_bpd: float
    diffusion_bpd: float
    prior_bpd: float
    num_rounds: int
    num_evaluations: int
    curve: Curve
    elbo: Curve
    exact_bits_per_dim: float | None = None
    weightings: tuple[TheoremCheck, ...] = ()
    ode: OdeLikelihood | None = None


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Source format, scheduler and latents of a model that another library trained.

    Its samples are made by the samplers of this library, between its ends of log-SNR, and not by
    its scheduler.

    Attributes:
        format: Whose folder it was read from.
        scheduler: The class and the settings of its scheduler, which say what the network sees at a
            noise level.
        latents: The class of the encoder whose latents the likelihood is of; None: of images.
    """

    format: str
    scheduler: str
    latents: str | None


def _origin_as_json(origin: Origin | None) -> dict[str, Any]:
    return {} if origin is None else {"origin": to_json(origin)}


def _origin_from_json(data: Mapping[str, Any]) -> Origin | None:
    found: Origin | None = from_json(Origin | None, data.get("origin"))
    return found


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Settings under which a likelihood was measured.

    Attributes:
        data: Name of the data; `data_sha256`, its digest.
        num_levels: Pixel values that the decoder distinguishes; None for continuous data.
        weights_relative_width: Of the averaged weights, as in EDM2; None if it is not known.
        logsnr_min, logsnr_max: Between these noise levels.
        num_pilot_images: Images in the first pass; `num_pilot_levels`, noise levels of each.
        num_round_levels: Noise levels of each image in a round.
        precision: Of the network.
        seed: Of noise and noise levels.
        device: "cpu" or "cuda".
        versions: Of elbos and torch.
        origin: How a model was taken that was trained elsewhere; None: it is a run.
    """

    data: str
    data_sha256: str
    num_levels: int | None
    weights_relative_width: float | None
    logsnr_min: float
    logsnr_max: float
    num_pilot_images: int
    num_pilot_levels: int
    num_round_levels: int
    precision: str
    seed: int
    device: str
    versions: Mapping[str, str]
    origin: Origin | None = field(
        default=None,
        metadata={"is_flat": True, "encode": _origin_as_json, "decode": _origin_from_json},
    )


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Results of evaluating one model: likelihoods, sample quality and settings.

    Attributes:
        run: The run directory, or the folder that the model was read from.
        step: Of the checkpoint; `images_seen`, in images. None if it is not known.
        trained: What it was trained with.
        split: The images that were measured; `num_images`, how many.
        num_evaluations: Network evaluations of all likelihoods.
        results: The likelihood "unconditional", "given_label", or both.
        quality: Of samples, if measured.
        sweep: The same by sampler and evaluations, if measured.
        protocol: How the likelihood was measured.
        floors: The least loss that the training images leave, for each condition, if computed.
    """

    run: str
    step: int | None
    images_seen: int | None
    trained: Training
    split: str
    num_images: int
    num_evaluations: int
    results: Mapping[str, Likelihood]
    quality: SampleQuality | None
    sweep: Sweep | None
    protocol: Protocol
    floors: Mapping[str, Floor] | None = None

    def __repr__(self) -> str:
        bits = ", ".join(
            f"{name}: {one.bits_per_dim:.4f} ± {one.standard_error:.4f} bits/dim"
            for name, one in self.results.items()
        )
        return f"Evaluation({self.run!r}, {self.num_images} images, {bits})"

    @property
    def is_of_latents(self) -> bool:
        """Return whether the likelihood is a density of latents, known only up to a constant."""
        return self.protocol.origin is not None and self.protocol.origin.latents is not None

    @classmethod
    def load(cls, path: Path | str) -> "Evaluation":
        """Load an evaluation from RUN/eval.json, the file that `elbos evaluate` writes.

        Raises:
            OSError: If it cannot be read.
            ValueError: If it is something else, or an earlier version's.
        """
        try:
            return cls.from_dict(files.read_json(Path(path)))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{path} is not an evaluation of this version ({error}): evaluate the run again."
            ) from error

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Evaluation":
        """Rebuild an evaluation from the output of `to_dict`.

        Raises:
            TypeError: If an entry is missing.
        """
        found: Evaluation = from_json(cls, data)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Convert the evaluation to JSON-compatible values."""
        found: dict[str, Any] = to_json(self)
        return found

    def plot(self) -> "Figure":
        """Plot the loss over log-SNR in a panel above the ELBO of noisy data."""
        figure: Figure = shown_by(self, "figures").curves_figure(self)
        return figure

    def to_html(
        self, path: Path | str, *, samples: bytes | None = None, command: str | None = None
    ) -> None:
        """Write the evaluation as a self-contained HTML page.

        Args:
            path: The file.
            samples: A picture of samples, as PNG.
            command: What to type to get the same again.

        Raises:
            OSError: If it cannot be written; it names `path`.
        """
        shown_by(self).write_page(self, Path(path), samples=samples, command=command)

    def _repr_html_(self) -> str:
        return "".join(table.html() for table in shown_by(self).evaluation_tables(self))
