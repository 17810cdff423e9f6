r"""The implied weighting of any training loss, measured.

A training loss that samples log-SNR with density $p$, regresses $y = a x + b\epsilon$ and
multiplies the squared error with $c$ trains

$$w(\lambda) \propto p(\lambda)\; c(\lambda)\;
  \Bigl(b(\lambda) - a(\lambda)\frac{\sigma}{\alpha}\Bigr)^2,$$

whatever it calls its times, scales and targets. None of these need be known: they are read off from
what the loss gives its network and from its gradient (`probe`).

A loss passes through these modules in this order:

| module | content |
|---|---|
| `draws`, `rng`, `instrument` | a call of the loss: random numbers recorded, a stand-in network |
| `queries` | calls that differ in one thing, in the layout of the data |
| `decompose` | from dot products to $\alpha, \sigma, a, b$ of every sample |
| `data`, `noise`, `scales` | the data as the process sees them; the noise; the process |
| `scatter` | does the noise level determine what the loss does? |
| `refusals` | why an input is not data plus noise |
| `squared_error` | is it a squared error, the same for all elements? |
| `diagnostics` | findings that a weighting does not show: a type and a sentence each |
| `pilot`, `measure` | a few batches with all paired calls, then all samples |
| `levels` | the noise levels that were drawn independently |
| `curves`, `families`, `quantiles`, `density` | their density $p$: smooth, named, or of a draw |
| `matching` | names of what was found; the nearest likelihood objective |
| `resemblance` | published losses that it is, or is but for one slip |
| `record`, `steps` | some steps of a live training, instead of calls of its loss |
| `result` | the `Audit`; made of samples by `estimate`, of recipes and tables by `declare` |
| `page`, `figure`, `words`, `formulas`, `terminal`, `gallery` | how it is shown |

`elbos.adapters.scripts` makes such a loss of a whole training script (`from_script`).
"""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from elbos.audit.declare import DeclaredLoss, LossTable, from_loss, from_recipe, from_table
from elbos.audit.diagnostics import Diagnostic
from elbos.audit.estimate import audit_of
from elbos.audit.instrument import LossFunction
from elbos.audit.measure import measuring
from elbos.audit.record import Recording, record
from elbos.audit.result import Audit
from elbos.base.aliases import moved_names
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
    "from_script",
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
    r"""Measure the implied weighting $w(\lambda)$ of a training loss.

    The loss is called some `num_samples / b` times, and thrice as often where its noise is not
    known, with a stand-in for the network that takes any arguments. It may return one number, one
    per sample or per element, a tuple of which the loss is first, or a dict with the key "loss"; it
    may call the network several times, with the data in any layout, and take its output as a
    tensor, as a tuple or a pair, or under `.sample`, with the data's channels or twice as many.

    Args:
        loss_fn: `loss_fn(network, x)`, a training loss as it is. Labels and the like are its own
            matter: wrap it in a function of these two.
        x: Clean data, `[b, ...]`; the loss sees this batch again and again. 64 samples are enough;
            of a single one, 20,000 calls take some ten times as long. Log-SNR is that of data in
            the scale in which the loss diffuses them.
        num_samples: How many noise levels to draw. Default: enough to know the weighting to 1 % to
            2 % where most of the expected loss is.
        seed: For the random states that the loss draws from. They are restored afterwards.
        data_scale: What the loss multiplies its data with before it diffuses them. Default: found
            from the process, which leaves it open only where `data` says so.
        title: Its name in reports. Default: the function's name.
        advance: Called with the number of samples as they are drawn, for a progress bar.

    Returns:
        The weighting with its uncertainty, and how it comes about.

    Raises:
        ValueError: In one line, if the loss cannot be measured: it fails, returns no loss, is not
            finite, never calls the network, or gives it something else than data plus noise.

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


__getattr__ = moved_names({"from_script": "elbos.adapters.scripts"})
