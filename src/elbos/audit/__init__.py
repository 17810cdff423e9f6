r"""Measurement of the weighting of noise levels that a diffusion training loss implies.

A training loss that samples log-SNR with density $p$, regresses $y = a x + b\epsilon$ and
multiplies the squared error with $c$ trains

$$w(\lambda) \propto p(\lambda)\; c(\lambda)\;
  \Bigl(b(\lambda) - a(\lambda)\frac{\sigma}{\alpha}\Bigr)^2,$$

whatever it calls its times, scales and targets. `probe` measures all of these from the inputs that
the loss gives its network, and from its gradient.

A loss passes through these folders in this order:

- `calls/` calls the loss and observes it: `draws` and `rng` record the random numbers,
  `instrument` and `arguments` replace the network, `queries` compares calls with other data or
  other network outputs.
- `probing/` turns calls into coefficients at every noise level. `decompose` turns dot products into
  $\alpha, \sigma, a, b$ of every sample; `data`, `noise` and `scales` find the clean data, the
  noise, the process and the form of the network's input; `squared_error` and `refusals` say why no
  weighting describes a loss; `pilot` measures a few batches with all paired calls, `measure`
  then all samples.
- `live/` records the steps of a running training, or of a script that it runs, instead of calls of
  its loss.
- `density/` finds the density $p$ of the noise levels.
- `names/` finds the nearest published weighting and schedule (`matching`), and published losses
  equal to parts of the loss, or but for one coding mistake (`resemblance`).
- `diagnostics/` holds findings that a weighting does not show: a type and a sentence each, and the
  tests of samples that find them (`scatter`).

`result` defines the `Audit`; `estimate` builds it from samples, `declare` from recipes and tables;
`convention` and `foreign` make a denoiser of it. `words`, `formulas` and `report` show it.
"""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from elbos.audit.calls.instrument import LossFunction
from elbos.audit.declare import DeclaredLoss, LossTable, from_loss, from_recipe, from_table
from elbos.audit.diagnostics import Diagnostic
from elbos.audit.estimate import audit_of
from elbos.audit.live.record import Recording, record
from elbos.audit.probing.measure import measuring
from elbos.audit.result import Audit
from elbos.base.checks import typed

__all__ = [
    "Audit",
    "DeclaredLoss",
    "Diagnostic",
    "LossFunction",
    "LossTable",
    "Recording",
    "from_loss",
    "from_recipe",
    "from_table",
    "probe",
    "record",
]


@typed
def probe(
    loss_fn: LossFunction,
    x: Float[Tensor, "b *d"],
    num_samples: int = 20_000,
    seed: int = 0,
    *,
    data_scale: float | None = None,
    title: str | None = None,
    advance: Callable[[int], None] | None = None,
) -> Audit:
    r"""Measure the noise-level weighting $w(\lambda)$ that a training loss implies.

    The loss is called about `num_samples / b` times, three times as often if it is not a plain
    squared error in recorded noise, and up to eight times as often while the verdict is open. The
    network is a stand-in that accepts any arguments. The loss may return a number, a number per
    sample or per element, a tuple with the loss first, or a dict with the key "loss". It may call
    the network several times, with the data in any layout, and use the output as a tensor, a tuple,
    a pair, or `.sample`, also with twice the channels of the data.

    Args:
        loss_fn: `loss_fn(network, x)`, an unmodified training loss. If the loss needs labels or
            other arguments, wrap it in a function of these two.
        x: Clean data, `[b, ...]`; every call of the loss uses this batch. 64 samples are enough;
            with a single sample, an audit takes about ten times as long. Log-SNR refers to the data
            in the scale in which the loss diffuses them.
        num_samples: Number of noise levels to draw. Default: determines the weighting to 1 % to
            2 % where most of the expected loss is.
        seed: Seed of the random states that the loss uses; they are restored afterwards.
        data_scale: Factor by which the loss multiplies its data before diffusion. Default: inferred
            from the process (`scales`).
        title: Name of the loss in reports. Default: the function's name.
        advance: Called with the number of samples drawn, for a progress bar.

    Raises:
        ValueError: In one line, if the loss cannot be measured: it fails, returns no loss, is not
            finite, never calls the network, or calls it with anything but data plus noise.

    Examples:
        >>> import torch
        >>> def loss(network, x):  # rectified flow with uniform times
        ...     t, eps = torch.rand(len(x), 1), torch.randn_like(x)
        ...     return (network((1 - t) * x + t * eps, t) - (eps - x)).square().mean()
        >>> audit = probe(loss, torch.rand(64, 16), num_samples=2000)
        >>> audit.parameterization, audit.schedule, audit.is_monotone, audit.closest[0].name
        ('flow', 'Flow()', True, 'Exponential()')

    References:
        Kingma & Gao (2023), https://arxiv.org/abs/2303.00848
    """
    title = title or str(getattr(loss_fn, "__name__", "loss"))
    with measuring(loss_fn, x, num_samples, seed, data_scale, advance) as measurement:
        return audit_of(measurement, num_samples, title=title)
