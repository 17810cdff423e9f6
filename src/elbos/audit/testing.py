"""Assertions on the weighting of a loss, for use in tests: `elbos.testing`.

A refactoring can change the objective and no test sees it: a weight of shape `[b, 1]` broadcast
against losses of shape `[b]`, a shift applied twice, a clamp the wrong way round. Weightings are
compared by `Audit.distance`, of which 0.02 is a difference of 2 %.

    def test_the_loss_is_edm():
        assert_weighting(loss, torch.rand(16, 3, 8, 8) * 2 - 1, like="edm")

Everything here needs the core alone.
"""

import json
from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import Tensor

from elbos.audit import probe
from elbos.audit.calls.instrument import LossFunction
from elbos.audit.declare import from_recipe
from elbos.audit.result import Audit, Distance, log_ratio_of
from elbos.base import files
from elbos.base.checks import typed
from elbos.base.numbers import fixed, number, percent

WITHIN = 0.02
_NUM_ERRORS = 3.0  # standard errors that a difference has to exceed
_EDGE = 0.01  # share of the noise levels at each end whose factors are not named


class Difference:
    """Differences between the weighting of a loss and an expected one.

    Distances up to `within` are tolerated, and three standard errors beyond.
    """

    def __init__(self, audit: Audit, expected: Audit, within: float = WITHIN) -> None:
        if not 0 <= within < np.inf:
            raise ValueError(f"within is {within}: give a number from 0, as 0.02 for 2 %.")
        self.audit, self.expected, self.within = audit, expected, within
        self.weighting = audit.distance(expected)  # None without a common noise level
        # share of one loss's noise levels beyond the range of the other's
        self.outside = max(_outside(audit, expected), _outside(expected, audit))
        kinds = {diagnostic.kind for diagnostic in expected.diagnostics}
        errors_first = sorted(audit.diagnostics, key=lambda d: not (d.is_fatal or d.is_error))
        self.diagnostics = [item.text for item in errors_first if item.kind not in kinds]

    @property
    def has_other_weighting(self) -> bool:
        """True if the weighting is not the expected one."""
        is_valid = self.audit.is_judged or not self.expected.is_judged
        return not is_valid or self.outside > self.within or self._is_far(self.weighting)

    def __str__(self) -> str:
        now = self.audit
        changes = []
        if self.outside > self.within:
            share = percent(self.outside)
            changes.append(
                f"noise levels: {share} of one's samples are where the other has none: "
                f"{_levels(now)}; expected {_levels(self.expected)}"
            )
        if self._is_far(self.weighting):
            changes.append(f"weighting: {self._factors()}")
        findings = [f"diagnostic: {sentence}" for sentence in self.diagnostics]
        return "\n".join(changes + findings if now.is_judged else findings + changes)

    def _is_far(self, distance: Distance | None) -> bool:
        return distance is None or distance.value > self.within + _NUM_ERRORS * distance.error

    def _factors(self) -> str:
        if self.weighting is None:
            return "no noise level in common"
        levels, log_ratio, p = log_ratio_of(self.audit, self.expected)
        below = p.cumsum()
        inner = (below > _EDGE) & (below < 1 - _EDGE)
        levels, log_ratio = levels[inner], log_ratio[inner]
        if not len(levels) or not np.isfinite(log_ratio).all():
            return "zero at noise levels where the other is positive"
        low, high = sorted((log_ratio.argmin(), log_ratio.argmax()))
        parts = (
            f"× {number(float(np.exp(log_ratio[i])), 3)} at log-SNR {fixed(float(levels[i]), 1)}"
            for i in (low, high)
        )
        return f"differs from the expected one by {_size(self.weighting.value)}: {', '.join(parts)}"


def _size(distance: float) -> str:
    return percent(distance, 2) if distance < 0.5 else f"a factor of {np.exp(distance):.1f}"


def _levels(audit: Audit) -> str:
    low, high = (fixed(end, 2) for end in _ends(audit))
    return f"log-SNR {low} to {high}, {audit.schedule or 'no named schedule'}"


def _ends(audit: Audit) -> tuple[float, float]:
    return audit.logsnr[0].item(), audit.logsnr[-1].item()


def _outside(audit: Audit, other: Audit) -> float:
    logsnr, p = audit.logsnr.numpy(), audit.density.numpy()
    below = np.concatenate([[0.0], np.cumsum(np.diff(logsnr) * (p[1:] + p[:-1]) / 2)])
    low, high = np.interp(_ends(other), logsnr, below / below[-1])
    return float(1 - (high - low))


@typed
def assert_weighting(
    loss_fn: LossFunction,
    x: Float[Tensor, "b *d"],
    like: str | Path | Audit | LossFunction,
    within: float = WITHIN,
    num_samples: int = 20_000,
    seed: int = 0,
) -> Audit:
    """Raise an AssertionError unless a loss trains with the expected weighting.

    The loss may draw other noise levels and predict another target: that is the same objective as
    long as the weighting is the same.

    Args:
        loss_fn: `loss_fn(network, x)`, as for `elbos.audit.probe`.
        x: Clean data, `[b, ...]`. Random data serve: `2 * torch.rand(16, 3, 8, 8) - 1`.
        like: The expected weighting: a recipe's name (`elbos weightings` lists them), an audit, a
            file written by `write_golden` or by `elbos audit --json`, or another loss.
        within: Tolerated distance. A distance counts beyond three standard errors of its
            measurement. Default: 2 %, several times the error of 20,000 samples.
        num_samples: Number of noise levels to draw.
        seed: Seed of the random states that the loss uses; they are restored afterwards.

    Returns:
        The audit of the loss.

    Raises:
        AssertionError: If the weighting is another one, or the loss has an error that the expected
            one has not; the message names what differs.
        ValueError: If the loss cannot be measured, or there is no such recipe, file or tolerance.

    Examples:
        >>> import torch
        >>> def loss(network, x):  # rectified flow with uniform times
        ...     t, eps = torch.rand(len(x), 1), torch.randn_like(x)
        ...     return (network((1 - t) * x + t * eps, t) - (eps - x)).square().mean()
        >>> assert_weighting(loss, torch.rand(64, 16), like="flow", num_samples=2000)
        Audit('loss', flow, monotone)
    """
    __tracebackhide__ = True
    audit = probe(loss_fn, x, num_samples, seed)
    if isinstance(like, str | Path | Audit):
        expected = expected_audit(like)
    else:
        expected = probe(like, x, num_samples, seed)
    difference = Difference(audit, expected, within)
    if difference.has_other_weighting:
        raise AssertionError(f"{audit.title} is not weighted like {expected.title}:\n{difference}")
    return audit


def expected_audit(like: str | Path | Audit) -> Audit:
    """Load the audit that a test expects, by the name of a recipe, by a file, or as such.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If there is no such recipe, or the file holds no audit.
    """
    __tracebackhide__ = True
    if isinstance(like, Audit):
        return like
    if isinstance(like, str) and not like.endswith(".json"):
        return from_recipe(like)
    try:
        return Audit.from_dict(files.read_value(Path(like)))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{like} does not exist: write it with elbos.testing.write_golden."
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{like} holds no audit, as `elbos audit --json` writes one.") from error


def write_golden(audit: Audit, path: Path) -> None:
    """Save an audit to a file as the expected result of a test.

    The file holds the curves to five digits at the exact noise levels of the audit, so that a jump
    of the weighting or of the density stays where it is.

    Raises:
        OSError: If the file cannot be written.
    """
    stored = {n: entry for n, entry in audit.to_dict().items() if n not in Audit.DERIVED}
    for name, value in vars(audit).items():
        if isinstance(value, Tensor) and name != "logsnr":
            stored[name] = [float(f"{number:.5g}") for number in value.tolist()]
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in stored.items())
    files.write(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())
