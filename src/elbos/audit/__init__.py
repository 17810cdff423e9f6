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
| `scatter` | does the noise level decide what the loss does? |
| `refusals` | why an input is not data plus noise |
| `diagnostics` | is it a squared error? findings that a weighting does not show |
| `pilot`, `measure` | a few batches with all paired calls, then all samples |
| `levels` | the noise levels that were drawn independently |
| `curves`, `families`, `density` | their density $p$: smooth, by name, or of the number drawn |
| `matching` | names of what was found; the nearest likelihood objective |
| `resemblance` | published losses that it is, or is but for one slip |
| `record` | some steps of a live training, instead of calls of its loss |
| `script` | a whole training script as such a loss |
| `result` | the `Audit`; made of samples by `estimate`, of recipes and tables by `declare` |
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from elbos.audit.declare import DeclaredLoss, LossTable, from_loss, from_recipe, from_table
from elbos.audit.diagnostics import Diagnostic
from elbos.audit.estimate import audit_of
from elbos.audit.instrument import LossFunction
from elbos.audit.measure import measuring
from elbos.audit.record import Recording, record
from elbos.audit.result import Audit
from elbos.audit.script import ADVICE, own_modules, script_loss
from elbos.checks import typed
from elbos.user_code import as_script

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
    r"""Measure the weighting that a training loss really uses.

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


@typed
def from_script(
    path: Path | str,
    x: Float[Tensor, "b *d"] | Sequence[Tensor],
    flags: Sequence[str] = (),
    num_samples: int = 20_000,
    seed: int = 0,
    *,
    data_scale: float | None = None,
    title: str | None = None,
    advance: Callable[[int], None] | None = None,
) -> Audit:
    """The audit of a training script as it is: of the lines from its noise to its loss (`script`).

    They are those that the argument of `accelerator.backward(loss)`, or the `loss` of
    `loss.backward()`, depends on, in the innermost loop around it. Data, encoders, the network and
    whatever else the script would load or build are stand-ins, and nothing is downloaded; a
    definition above the loop, as that of a scheduler, is run where the loss depends on it.

    Args:
        path: The script. The packages that these lines need must be installed.
        x: Data like those that its network is trained on: latents, where it encodes images. Or
            several, of other shapes: the first counts that the script takes.
        flags: The script's own arguments, as `["--snr_gamma", "5"]`; those that it requires may be
            left out.
        num_samples: As `probe`'s.
        seed: As `probe`'s.
        data_scale: As `probe`'s.
        title: Its name in reports. Default: the script's.
        advance: As `probe`'s.

    Returns:
        The audit; the diagnostic "script" says which lines were run.

    Raises:
        OSError: If the script cannot be read.
        ValueError: In one line, with the line of the script that stopped it.
    """
    path = Path(path)
    with as_script(str(path)), own_modules(path):
        loss = script_loss(path, [x] if isinstance(x, Tensor) else x, flags)
        try:
            audit = probe(
                loss,
                loss.x,
                num_samples,
                seed,
                data_scale=data_scale,
                title=title or path.name,
                advance=advance,
            )
        except ValueError as error:
            raise ValueError(f"{path}: {error} {ADVICE}") from error
    return replace(audit, diagnostics=[*loss.diagnostics, *audit.diagnostics])
