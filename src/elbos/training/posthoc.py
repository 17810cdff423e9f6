r"""Post-hoc averages: weight averages of any width, computed after training from stored averages.

An average of relative width $\sigma_\mathrm{rel}$ after step $t$ has the profile
$p_{t,\gamma}(\tau) = (\gamma + 1)\,\tau^\gamma / t^{\gamma+1}$ on $[0, t]$ (see `ema`). A sum of
averages $\sum_i x_i\bar\theta_i$ has the profile $\sum_i x_i p_i$, and so is near the average of
another profile $p$ if that is near $p$:

$$\min_x \Big\|\sum_i x_i p_i - p\Big\|_2^2, \quad \sum_i x_i = 1, \qquad
  \langle p_{s,\gamma}, p_{t,\kappa}\rangle = \frac{(\gamma+1)(\kappa+1)}{\gamma+\kappa+1}\,
  \frac{\min(s, t)^{\gamma+\kappa+1}}{s^{\gamma+1}\,t^{\kappa+1}}.$$

The condition, which EDM2 has not, keeps whatever is the same in all steps exactly. The averages are
the snapshots of the run, and those in its checkpoint, after the last step.

References:
    Karras et al. (2024), https://arxiv.org/abs/2312.02696, Section 3.2 and Appendix C
"""

import shutil
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from elbos.base import files
from elbos.base.codec import encode
from elbos.training import checkpoint
from elbos.training.config import Averaging, run_config
from elbos.training.directory import RunDirectory
from elbos.training.ema import MAIN, Snapshot, exponent, group_of, snapshots

Tensors = dict[str, Tensor]
_Array = Float[np.ndarray, "..."]

MAX_ERROR = 0.1  # relative error of the profile above which a warning is given


class Coefficients(NamedTuple):
    r"""Coefficients for combining stored weight averages.

    The coefficients $x$ combine averages with profiles $p_i$ with the relative error
    $\|\sum_i x_i p_i - p\| / \|p\|$.
    """

    values: Float[np.ndarray, " n"]
    error: float


@dataclass(frozen=True)
class Posthoc:
    """Step and accuracy of a post-hoc EMA of the weights.

    `error` is the relative error of the averaging profile.
    """

    step: int
    num_averages: int
    error: float


def _inner(s: _Array, gamma: _Array, t: _Array, kappa: _Array) -> _Array:
    r"""Return the inner product $\langle p_{s,\gamma}, p_{t,\kappa}\rangle$ of two averaging
    profiles.
    """
    scale = (gamma + 1) * (kappa + 1) / (gamma + kappa + 1)
    shared = (gamma + kappa + 1) * np.log(np.minimum(s, t))
    inner: _Array = scale * np.exp(shared - (gamma + 1) * np.log(s) - (kappa + 1) * np.log(t))
    return inner


def coefficients(
    steps: Float[np.ndarray, " n"], widths: Float[np.ndarray, " n"], width: float
) -> Coefficients:
    """Approximate a weight average by a linear combination of stored averages.

    The approximated average has the relative width `width`. It is the average after
    the last of the steps, in any unit.
    """
    t, gamma = steps / steps.max(), np.array([exponent(w) for w in widths])
    end, kappa = np.ones(1), np.array([exponent(width)])
    gram = _inner(t[:, None], gamma[:, None], t, gamma)
    target, norm = _inner(t, gamma, end, kappa), _inner(end, kappa, end, kappa)
    ones = np.ones((len(t), 1))
    system = np.block([[gram, ones], [ones.T, np.zeros((1, 1))]])
    x = np.linalg.lstsq(system, np.append(target, 1.0), rcond=None)[0][:-1]
    squared = (x @ gram @ x - 2 * x @ target + norm) / norm
    return Coefficients(x, float(np.sqrt(squared.clip(min=0)).item()))


def write_average(run: str | Path, width: float, out: str | Path) -> Posthoc:
    """Compute a post-hoc EMA of a run and write a new run directory.

    The average has a relative width that need not be one of the training's. The directory `out`
    holds the configuration with this width, and a checkpoint of the average alone, and can be
    sampled and evaluated.

    Raises:
        OSError: If there is no run, or no checkpoint yet, or a file cannot be written.
        ValueError: If the run has no snapshots, snapshots are corrupt or of another network, the
            width is invalid, or `out` exists.
    """
    directory, out = RunDirectory(Path(run)), RunDirectory(Path(out)).path
    config, averaging = run_config(directory), Averaging(relative_width=width)
    if not config.averaging.snapshot_widths:
        raise ValueError(
            f"{run} has no snapshots of averages: train with --averaging.snapshot-widths 0.05 0.1."
        )
    if out.exists():
        raise ValueError(f"{out} is there already: name another directory with --out.")
    last: list[tuple[float, Tensors]] = []
    with checkpoint.reading_step(directory.checkpoints, None) as (step, groups):
        last.append((config.averaging.relative_width, groups[MAIN]))
        last += [(w, groups[group_of(w)]) for w in config.averaging.snapshot_widths]
    if step == 0:
        raise ValueError(f"{run} has its initial weights alone: train it first.")
    earlier = [one for one in snapshots(directory.averages) if one.step < step]
    steps = np.array([*(one.step for one in earlier), *(step for _ in last)], dtype=float)
    widths = np.array([*(one.width for one in earlier), *(w for w, _ in last)])
    x, error = coefficients(steps, widths, width)
    if error > MAX_ERROR:
        warnings.warn(
            f"The profile of the average of width {width} is off by {error:.0%}: the {len(x)} "
            f"averages of {run} are too few, or their widths too far from {width}.",
            stacklevel=2,
        )
    main = last[0][1]
    names = (
        [*earlier[0].read(main)] if earlier else [n for n in main if main[n].is_floating_point()]
    )
    wide = {name: torch.promote_types(main[name].dtype, torch.float32) for name in names}
    total = {name: torch.zeros_like(main[name], dtype=wide[name]) for name in names}
    averages: list[Snapshot | Tensors] = [*earlier, *(tensors for _, tensors in last)]
    for one, factor in zip(averages, x.tolist(), strict=True):
        tensors = one.read(total) if isinstance(one, Snapshot) else one
        for name, mean in total.items():
            mean.add_(tensors[name], alpha=factor)
    # in the dtypes and with the buffers of the average that was sampled
    weights = {name: total.get(name, tensor).to(tensor.dtype) for name, tensor in main.items()}

    partial = files.partial(out)
    made = RunDirectory(partial)
    try:
        with files.named_errors(out):
            partial.mkdir(parents=True)
            made.write("config.json", encode(replace(config, averaging=averaging)))
            if (data := directory.read("data.json")) is not None:
                made.write("data.json", data)
            checkpoint.save(made.checkpoints, step, {MAIN: weights}, num_kept=1)
            partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Posthoc(step, len(x), error)
