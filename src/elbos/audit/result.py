r"""What an audit finds, on a grid of noise levels."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from elbos.audit.names import Nearest
from elbos.audit.oddity import Oddity
from elbos.audit.verdict import monotone_code, verdict

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


@dataclass(frozen=True, kw_only=True)
class Audit:
    r"""What a loss asks for: its implied weighting, and how it comes about.

    Curves are float64, on the grid `logsnr`. The weighting counts up to a constant and is given
    with a geometric mean of 1 under $p$.

    Attributes:
        title: What was audited.
        source: "measured" from code, or "declared" and hence exact.
        num_samples: How many samples were drawn; 0 for a declared loss.
        logsnr: The grid $\lambda$, increasing, from the noisiest level seen to the cleanest.
        weight: $w(\lambda) \propto p(\lambda)\, k(\lambda)$.
        weight_error: Standard error of $\log w$, up to a constant.
        density: $p(\lambda)$, of the levels that are neither pure noise nor clean data.
        coefficient: $c(\lambda)$ of $\|\hat y - y\|^2$, relative.
        a: Coefficient of the data in the target $y = a x + b\epsilon$.
        b: Coefficient of the noise in the target.
        schedule: The schedule that fits $p$, as code, or None.
        density_kind: "table", "named", "function" or "smooth"; see `density`.
        num_steps: Size of the table that the levels come from, or None.
        process: The process that the loss runs, in words, or None.
        data_scale: What the data are multiplied with first. Log-SNR is that of the data after it.
        data_offset: What is added to them before that.
        parameterization: What the network predicts: eps, x, v, score, flow, edm, or None.
        parameterization_factor: Constant that the target is multiplied with.
        sigma_data: EDM's $\sigma_d$, or None.
        coefficient_name: A formula for `coefficient`, or None.
        rising: Where $w$ rises with $\lambda$, beyond the sampling error.
        closest: The nearest named weightings and their distances (`names`), nearest first.
        share_pure_noise: Share of the samples at $\lambda = -\infty$.
        weight_pure_noise: Their mean coefficient $c$ over that of all samples; 0 if there are none.
        share_clean: Share of the samples at $\lambda = \infty$.
        oddities: Whatever the weighting does not tell.
    """

    title: str
    source: Literal["measured", "declared"]
    num_samples: int
    logsnr: Float[Tensor, " g"]
    weight: Float[Tensor, " g"]
    weight_error: Float[Tensor, " g"]
    density: Float[Tensor, " g"]
    coefficient: Float[Tensor, " g"]
    a: Float[Tensor, " g"]
    b: Float[Tensor, " g"]
    schedule: str | None
    density_kind: Literal["table", "named", "function", "smooth"]
    num_steps: int | None
    process: str | None
    data_scale: float
    data_offset: float
    parameterization: str | None
    parameterization_factor: float
    sigma_data: float | None
    coefficient_name: str | None
    rising: list[tuple[float, float]]
    closest: list[Nearest]
    share_pure_noise: float
    weight_pure_noise: float
    share_clean: float
    oddities: list[Oddity]

    @property
    def is_monotone(self) -> bool:
        """Whether the loss is a likelihood objective: $w$ never rises, and describes the loss."""
        return not self.rising and self.is_weighted_elbo

    @property
    def is_weighted_elbo(self) -> bool:
        """Whether the loss is a squared error in normal noise, so that a weighting describes it."""
        return not any(oddity.is_fatal for oddity in self.oddities)

    @cached_property
    def _log_weight(self) -> PchipInterpolator:
        return PchipInterpolator(self.logsnr.numpy(), self.weight.log().numpy())

    def weighting(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        r"""$w(\lambda)$ between the points of the grid; beyond its ends, as at them."""
        inside = logsnr.clamp(self.logsnr[0].item(), self.logsnr[-1].item())
        log_w = self._log_weight(inside.detach().double().cpu().numpy())
        return torch.as_tensor(log_w).exp().to(logsnr)

    @cached_property
    def monotone_weight(self) -> Float[Tensor, " g"]:
        """The least weighting that is nowhere below $w$ and does not rise where $w$ is `rising`.

        That is `Monotone` of $w$ without its sampling error: above the last rise it is $w$ itself.
        """
        lifted = self.weight
        for start, end in self.rising:
            first, after = torch.searchsorted(self.logsnr, self.logsnr.new_tensor([start, end]))
            top = self.weight[first : after + 1].max()  # it may lie between two points
            lifted = torch.where(self.logsnr <= end, lifted.clamp(min=top), lifted)
        return lifted

    @property
    def mixture_density(self) -> Float[Tensor, " g"]:
        r"""$-w'(\lambda) / w(\lambda_\min)$: how much of the ELBO at each noise level is mixed in.

        With the mass `mass_at_max` on the ELBO of clean data it adds up to 1.
        """
        (slope,) = torch.gradient(self.weight, spacing=(self.logsnr,), edge_order=2)
        return -slope / self.weight[0]

    @property
    def mass_at_max(self) -> float:
        r"""The mass on the ELBO at the clean end, $w(\lambda_\max) / w(\lambda_\min)$."""
        return (self.weight[-1] / self.weight[0]).item()

    @property
    def negative_mass(self) -> float:
        r"""Total rise of $w$, over $w(\lambda_\min)$, as in `analysis.Mixture`."""
        ends = self.weighting(torch.tensor(self.rising, dtype=torch.float64).reshape(-1, 2))
        return ((ends[:, 1] - ends[:, 0]).sum() / self.weight[0]).item()

    @property
    def negative_share(self) -> float:
        """The negative mass over the positive one: 0 for a likelihood objective, always below 1.

        It is that of the noise levels on the grid: a wider range can have more of either.
        """
        return self.negative_mass / (1 + self.negative_mass)

    @cached_property
    def effort(self) -> tuple[float, float]:
        r"""The quartiles of $w(\lambda)\,\mathrm{sigmoid}(\lambda)$.

        Half of the loss that the best network has left lies between them if the data are standard
        normal, for which $\mathbb E\|\hat\epsilon - \epsilon\|^2 = \mathrm{sigmoid}(\lambda)$.
        """
        mass = (self.weight * torch.sigmoid(self.logsnr)).cumsum(0)
        at = torch.searchsorted(mass / mass[-1], torch.tensor([0.25, 0.75], dtype=torch.float64))
        low, high = self.logsnr[at].tolist()
        return low, high

    @property
    def verdict(self) -> str:
        """What the loss maximizes, where it spends its effort, and what it falls short of."""
        return verdict(self)

    @property
    def monotone_code(self) -> str | None:
        """Code for the factor that makes the nearest likelihood objective of a loss that is none.

        That is another objective, not a repair of a bug.
        """
        return monotone_code(self)

    def to_dict(self) -> dict[str, Any]:
        """Everything, as what JSON has: numbers, lists and strings; None for what is no number."""
        content = {field.name: getattr(self, field.name) for field in fields(self)}
        derived = {
            "is_monotone": self.is_monotone,
            "is_weighted_elbo": self.is_weighted_elbo,
            "negative_mass": self.negative_mass,
            "negative_share": self.negative_share,
            "mass_at_max": self.mass_at_max,
            "mixture_density": self.mixture_density,
            "effort": self.effort,
            "verdict": self.verdict,
            "monotone_code": self.monotone_code,
        }
        return {name: _plain(value) for name, value in (content | derived).items()}

    def to_json(self) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def plot(self, *others: "Audit") -> "Figure":
        """The weighting, the density and the mixture of ELBOs, with those of other audits.

        Returns:
            A plotly figure.
        """
        from elbos.audit.figure import figure

        return figure([self, *others])


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _plain(value.tolist())
    if isinstance(value, Oddity):
        return {"kind": value.kind, "text": value.text, "is_fatal": value.is_fatal}
    if isinstance(value, Nearest):
        return {"name": value.name, "distance": _plain(value.distance)}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value
