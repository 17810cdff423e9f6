r"""Result of an audit: the weighting on a grid of noise levels, with all its components."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import scipy
import torch
from jaxtyping import Float
from torch import Tensor

from elbos.audit.convention import MAX_QUIET_ERROR, Convention
from elbos.audit.density.curves import spread
from elbos.audit.diagnostics import Diagnostic, Scattered, UnknownTarget
from elbos.audit.foreign import ConventionDenoiser, ConventionNetwork
from elbos.audit.names.matching import MonotoneFactor, Nearest, find_factor, monotone_weight
from elbos.audit.names.resemblance import LossCurves, NearestRecipe, Resemblance, resemblances
from elbos.audit.probing.measure import Samples
from elbos.base.arrays import Array
from elbos.base.checks import typed
from elbos.base.codec import Stored, decode, encode
from elbos.base.errors import flat, warn
from elbos.base.extras import shown_by
from elbos.models.calls import ForeignNetwork

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_CURVES = ("logsnr", "weight", "weight_error", "density", "coefficient", "a", "b")
Verdict = Literal["monotone", "not monotone", "undecided", "code error", "no weighting"]


class Distance(NamedTuple):
    """Relative difference between two curves and its standard error."""

    value: float
    error: float


class Undecided(NamedTuple):
    """Interval of log-SNR on which it is uncertain whether the weighting increases."""

    start: float
    end: float
    factor: float  # above 1


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Audit(Stored):
    r"""The implied weighting of a training loss.

    Curves are float64, on the grid `logsnr`. `print(audit)` shows the text of `elbos audit`.

    Attributes:
        title: Name of the loss.
        source: "measured" from code, or "declared" and hence exact.
        num_samples: Number of samples drawn; 0 for a declared loss.
        logsnr: Grid of $\lambda$, increasing.
        weight: $w(\lambda) \propto p(\lambda)\, k(\lambda)$, with geometric mean 1 under $p$.
        weight_error: Standard error of $\log w$, up to a constant.
        density: $p(\lambda)$, of the levels that are neither pure noise nor clean data.
        coefficient: $c(\lambda)$ of $\|\hat y - y\|^2$, with geometric mean 1 under $p$.
        a: Coefficient of the data in the target $y = a x + b\epsilon$.
        b: Coefficient of the noise in the target.
        schedule: Schedule that fits $p$, as code, or None.
        density_kind: "table", "named", "function" or "smooth" (`density`).
        num_steps: Number of steps if the levels are a table, pure noise and no noise included, or
            None.
        process: Diffusion process, in words, or None.
        data_scale: Factor on the data before diffusion. Log-SNR refers to the scaled data.
        data_offset: Number added to the data before scaling.
        parameterization: Prediction type: eps, x, v, score, flow, edm, or None.
        parameterization_factor: Constant factor on the target.
        time_sign: 1 if the network's time input runs from noise to data, -1 if from data to noise,
            0 if unknown.
        time_name: What the network is given for the noise level, as a formula, or None.
        sigma_data: EDM's $\sigma_d$, or None.
        coefficient_name: Formula of `coefficient`, or None.
        rising: Intervals on which $w$ increases significantly with $\lambda$.
        undecided: Intervals on which $w$ may increase by more than 5 % within the sampling error.
        closest: Nearest named weightings with their distances (`matching`), nearest first.
        share_pure_noise: Share of the samples at $\lambda = -\infty$.
        weight_pure_noise: Mean coefficient $c$ of pure noise relative to all samples, or 0.
        share_clean: Share of the samples at $\lambda = \infty$.
        hidden_share: Share of the gradient below which a further term of the loss, which is no
            squared error of the same target, may be unnoticed; 0 for a declared loss.
        diagnostics: Findings that the weighting does not show.
        samples: The measured samples, for `denoiser`; None for a declared loss, or one read from a
            file.
    """

    DERIVED = (
        "verdict",
        "is_monotone",
        "is_weighted_elbo",
        "recipe",
        "resembles",
        "negative_mass",
        "negative_share",
        "rising_share",
        "mass_at_max",
        "mixture_density",
        "central_half",
        "monotone_code",
    )

    title: str
    source: Literal["measured", "declared"]
    num_samples: int = 0
    logsnr: Float[Tensor, " g"]
    weight: Float[Tensor, " g"]
    weight_error: Float[Tensor, " g"]
    density: Float[Tensor, " g"]
    coefficient: Float[Tensor, " g"]
    a: Float[Tensor, " g"]
    b: Float[Tensor, " g"]
    schedule: str | None
    density_kind: Literal["table", "named", "function", "smooth"]
    num_steps: int | None = None
    process: str | None = None
    data_scale: float = 1.0
    data_offset: float = 0.0
    parameterization: str | None
    parameterization_factor: float = 1.0
    time_sign: int = 0
    time_name: str | None = None
    sigma_data: float | None
    coefficient_name: str | None
    rising: list[tuple[float, float]]
    undecided: list[Undecided] = field(default_factory=list)
    closest: list[Nearest]
    share_pure_noise: float = 0.0
    weight_pure_noise: float = 0.0
    share_clean: float = 0.0
    hidden_share: float = 0.0
    diagnostics: Sequence[Diagnostic] = ()
    samples: Samples | None = field(default=None, metadata={"is_stored": False})

    @property
    def verdict(self) -> Verdict:
        """Verdict on whether the training loss is a likelihood objective.

        "monotone": $w$ never increases. "not monotone": $w$ increases on `rising`. "undecided": an
        increase on `undecided` cannot be excluded. "code error": the code computes an unintended
        loss. "no weighting": no weighting describes the loss.
        """
        if not self.is_weighted_elbo:
            return "no weighting"
        if any(diagnostic.is_error for diagnostic in self.diagnostics):
            return "code error"
        if self.rising:
            return "not monotone"
        return "undecided" if self.undecided else "monotone"

    @property
    def is_monotone(self) -> bool | None:
        """True if the verdict is "monotone"; None for a loss that has no verdict, as an error."""
        return self.verdict == "monotone" if self.is_judged else None

    @property
    def is_weighted_elbo(self) -> bool:
        """True if the loss is a squared error of a network that is given noisy data."""
        return not any(diagnostic.is_fatal for diagnostic in self.diagnostics)

    @property
    def is_judged(self) -> bool:
        """True if the loss has a weighting and its code shows no error."""
        return self.verdict not in ("no weighting", "code error")

    @cached_property
    def recipe(self) -> str | None:
        """Name of the published recipe with the same weighting and noise levels as this loss."""
        is_equal = self._has_formulas and self.nearest_recipe.is_equal
        return self.nearest_recipe.name if is_equal else None

    @cached_property
    def nearest_recipe(self) -> NearestRecipe:
        """The published recipe that the loss equals, or is nearest to (`LossCurves`)."""
        return LossCurves(self).nearest_recipe()

    @cached_property
    def resembles(self) -> list[Resemblance]:
        """Published losses that this loss equals or nearly equals."""
        likenesses = resemblances(LossCurves(self)) if self.is_judged else []
        return [like for like in likenesses if like.change or self._has_formulas]

    @property
    def _has_formulas(self) -> bool:
        # a mean coefficient, or a target without a name, equals no published one
        inexact = (Scattered, UnknownTarget)
        return self.is_judged and not any(isinstance(d, inexact) for d in self.diagnostics)

    @cached_property
    def _log_weight(self) -> "scipy.interpolate.PchipInterpolator":
        return scipy.interpolate.PchipInterpolator(self.logsnr.numpy(), self.weight.log().numpy())

    def weighting(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        r"""Interpolate the weighting $w(\lambda)$, constant beyond the ends of the grid."""
        inside = logsnr.clamp(self.logsnr[0].item(), self.logsnr[-1].item())
        log_w = self._log_weight(inside.detach().double().cpu().numpy())
        return torch.as_tensor(log_w).exp().to(logsnr)

    @property
    def mixture_density(self) -> Float[Tensor, " g"]:
        r"""Density $-w'(\lambda) / w(\lambda_\min)$ of the mixture of ELBOs, beside the
        `mass_at_max`.
        """
        (slope,) = torch.gradient(self.weight, spacing=(self.logsnr,), edge_order=2)
        return -slope / self.weight[0]

    @property
    def mass_at_max(self) -> float:
        """Point mass of the ELBO mixture at the largest log-SNR."""
        return (self.weight[-1] / self.weight[0]).item()

    @property
    def negative_mass(self) -> float:
        r"""Total increase of $w$ relative to $w(\lambda_\min)$, as in `analysis.Mixture`."""
        ends = self.weighting(torch.tensor(self.rising, dtype=torch.float64).reshape(-1, 2))
        return ((ends[:, 1] - ends[:, 0]).sum() / self.weight[0]).item()

    @property
    def negative_share(self) -> float:
        r"""Share $\int (w')_+ d\lambda / \int |w'| d\lambda$ of negative mass in the mixture.

        0 for a likelihood objective, 1 if $w$ only increases; without the mass at $\lambda_\max$.
        """
        fall = 1 + self.negative_mass - self.mass_at_max
        total = self.negative_mass + max(fall, 0.0)
        return self.negative_mass / total if total else 0.0

    @property
    def rising_share(self) -> float:
        """Share of the training noise levels at which the weighting increases with log-SNR."""
        density = scipy.interpolate.PchipInterpolator(self.logsnr.numpy(), self.density.numpy())
        below = density.antiderivative()
        drawn = sum(float(below(end) - below(start)) for start, end in self.rising)
        return drawn / float(below(self.logsnr[-1].item()))

    @cached_property
    def central_half(self) -> tuple[float, float]:
        r"""Interval of log-SNR that contains the central 50 % of the expected loss.

        Its ends are the quartiles of $w(\lambda)\,\mathrm{sigmoid}(\lambda)$, the expected loss of
        the best network on standard normal data, for which $\mathbb E\|\hat\epsilon - \epsilon\|^2
        = \mathrm{sigmoid}(\lambda)$.
        """
        mass = (self.weight * torch.sigmoid(self.logsnr)).cumsum(0)
        at = torch.searchsorted(mass / mass[-1], torch.tensor([0.25, 0.75], dtype=torch.float64))
        low, high = self.logsnr[at].tolist()
        return low, high

    @cached_property
    def monotone_weight(self) -> Float[Tensor, " g"]:
        """Smallest curve nowhere below the weighting that does not increase on `rising`."""
        return monotone_weight(self.logsnr, self.weight, self.rising)

    @cached_property
    def factor(self) -> MonotoneFactor | None:
        """Least factor that gives a likelihood objective; None if it is 1 or infinite."""
        if not self.is_judged:
            return None
        curves = (self.logsnr, self.weight, self.weight_error)
        return find_factor(*curves, self.rising, self.closest[0])

    def monotone_factor(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """Compute per-sample loss factors that give the nearest likelihood objective.

        That is another objective, not a repair of a bug. The factor of a weighting without a
        significant increase is 1.

        Raises:
            ValueError: If no factor exists: no weighting describes the loss, the code of the loss
                has an error, or some noise levels have no weight.
        """
        if self.is_judged and not self.rising:
            return torch.ones_like(logsnr)
        if self.factor is None:
            raise ValueError(f"No factor makes {self.title} a likelihood objective.")
        return self.factor(logsnr)

    @property
    def monotone_code(self) -> str | None:
        """Python code that computes `monotone_factor`."""
        return self.factor.code if self.factor else None

    def distance(
        self, other: "Audit", curve: Literal["weight", "density"] = "weight"
    ) -> Distance | None:
        r"""Compute the distance between the weightings or noise-level densities of two losses.

        $$d = \operatorname{std}_{\lambda \sim \bar p}\,[\log w_1 - \log w_2],$$

        where $\bar p$ is the mean of their densities. A constant factor makes no difference.

        Returns:
            The distance and its standard error by sampling; None if the losses have no noise level
            in common.
        """
        levels, log_ratio, p = log_ratio_of(self, other, curve)
        if not len(levels):
            return None
        variance = sum(
            np.interp(levels, audit.logsnr.numpy(), audit.weight_error.numpy()) ** 2
            for audit in (self, other)
        )
        return Distance(spread(log_ratio, p), float(np.sqrt((p * variance).sum())))

    def denoiser(self, network: ForeignNetwork, *, is_discrete: bool = False) -> ConventionDenoiser:
        """Construct a denoiser for a network trained with the audited loss.

        The audit has measured how the loss calls its network: which argument is the noisy data and
        in what scale, which one the time and what time belongs to which noise level, and what the
        output is. See `elbos.audit.convention` for the formulas.

        Args:
            network: A network that the loss could be given, called exactly as the loss calls it.
            is_discrete: Whether times are rounded to whole numbers, for networks that look them up
                in a table. Default: fractional times, which networks embed by sines and cosines.

        Returns:
            The denoiser, for `Validator`, samplers and likelihoods. `denoiser.convention.error` is
            the largest error of its interpolations, 0 if all are formulas or steps of a table. Its
            log-SNR is that of the data that `probe` was given. `Objective.loss` trains the network
            as `denoiser.network`, with `denoiser.parameterization` for the objective's.

        Raises:
            ValueError: If the loss does not determine a denoiser: no weighting describes it, no
                argument of the network determines the noise level, its noise is not known, or the
                audit is declared or read from a file.

        Examples:
            >>> from elbos.audit import probe
            >>> def loss(network, x):  # rectified flow with uniform times, time first
            ...     t, eps = torch.rand(len(x), 1), torch.randn_like(x)
            ...     return (network(t, (1 - t) * x + t * eps) - (eps - x)).square().mean()
            >>> audit = probe(loss, torch.rand(64, 16), num_samples=2000)
            >>> denoiser = audit.denoiser(lambda t, z: torch.zeros_like(z))
            >>> x_hat, eps_hat = denoiser(torch.ones(1, 16), torch.tensor([0.0]))
            >>> x_hat[0, 0], denoiser.convention.error
            (tensor(0.7071), 0.0)
        """
        if self.samples is None:
            raise ValueError(f"{self.title} was not measured here: probe the loss for a denoiser.")
        convention = Convention.from_samples(self.samples, self.sigma_data)
        if convention.error > MAX_QUIET_ERROR:
            warn(
                f"the denoiser of {self.title} is interpolated with an error of "
                f"{convention.error:.2g} (in log-SNR, or relative): is the loss computed in half "
                "precision, or its time rounded?"
            )
        return ConventionDenoiser(ConventionNetwork(network, convention, is_discrete))

    def to_dict(self) -> dict[str, Any]:
        """Return the audit, with derived quantities, as JSON values; "inf" and "nan" as text."""
        diagnostics = [
            {"kind": item.kind, "values": encode(item.values), "is_fatal": item.is_fatal}
            for item in self.diagnostics
        ]
        return {**super().to_dict(), "diagnostics": diagnostics}

    @classmethod
    @typed
    def from_dict(cls, data: Mapping[str, Any]) -> "Audit":
        """Restore an audit from JSON values.

        Raises:
            ValueError: If the values are of a newer format, or are not those of an audit.
        """
        names = {"format", *(f.name for f in fields(cls))}  # others are for readers
        content = {name: value for name, value in data.items() if name in names}
        try:
            for name in _CURVES:
                curve = decode(tuple[float, ...], data[name], name)
                content[name] = torch.tensor(curve, dtype=torch.float64)
            content["diagnostics"] = [
                Diagnostic.from_values(item["kind"], item["values"]) for item in data["diagnostics"]
            ]
            audit = super().from_dict(content)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"this is not an audit ({flat(error)}): see to_dict.") from error
        lengths = {len(getattr(audit, name)) for name in _CURVES}
        if len(lengths) > 1 or min(lengths) < 2 or not audit.closest:
            raise ValueError("this is not an audit: its curves differ in length, or are empty.")
        return audit

    def to_json(self) -> str:
        """Return the audit as JSON text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def __repr__(self) -> str:
        return f"Audit({self.title!r}, {self.parameterization}, {self.verdict})"

    def __str__(self) -> str:
        try:
            report = shown_by(self)
        except ModuleNotFoundError:
            return repr(self)
        text: str = report.as_text([self])
        return text

    def plot(self, *audits: "Audit") -> "Figure":
        """Plot the weightings, noise-level densities and ELBO mixtures of this and other audits."""
        figure: Figure = shown_by(self, "figures").figure([self, *audits])
        return figure

    @typed
    def to_html(self, path: str | Path, *audits: "Audit") -> None:
        """Write a self-contained HTML page of this and other audits."""
        shown_by(self).write_page([self, *audits], Path(path))


def log_ratio_of(
    first: Audit, second: Audit, curve: str = "weight"
) -> tuple[Float[Array, " g"], Float[Array, " g"], Float[Array, " g"]]:
    r"""Compute log-SNRs, $\log w_1 - \log w_2$ with mean 0 (0 where both are 0) and probabilities;
    empty arrays without a common noise level.
    """
    low = max(audit.logsnr[0].item() for audit in (first, second))
    high = min(audit.logsnr[-1].item() for audit in (first, second))
    if low >= high:
        return np.empty(0), np.empty(0), np.empty(0)
    levels = np.linspace(low, high, len(first.logsnr))
    logs, p = [], np.zeros(len(levels))
    for audit in (first, second):
        grid = audit.logsnr.numpy()
        log = getattr(audit, curve).log().numpy()
        is_finite = np.isfinite(log)
        interpolated = scipy.interpolate.PchipInterpolator(grid[is_finite], log[is_finite])(levels)
        logs.append(np.where(np.interp(levels, grid, is_finite) == 1, interpolated, -np.inf))
        p += np.interp(levels, grid, audit.density.numpy())
    p /= p.sum()
    with np.errstate(invalid="ignore"):
        log_ratio = np.where(logs[0] == logs[1], 0.0, logs[0] - logs[1])
    is_finite = np.isfinite(log_ratio)
    return levels, log_ratio - (p * log_ratio)[is_finite].sum() / p[is_finite].sum(), p
