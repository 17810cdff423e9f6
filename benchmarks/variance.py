r"""The variance of the loss estimator and of its gradient, under several noise schedules.

    python benchmarks/variance.py RUN [--num-losses 8192] [--num-gradients 1024]

The network of RUN is held fixed. With $u = \tfrac12\|\hat\epsilon - \epsilon\|^2$ and $v = w u$,
one sample's loss under a schedule $p$ is $v/p$, so with independent noise levels

$$\mathrm{Var}[v/p] = \int \frac{\mathbb E[v^2 \mid \lambda]}{p}\,d\lambda
  - \left(\int \mathbb E[v \mid \lambda]\,d\lambda\right)^2.$$

$u$, and the squared norm of its gradient, are measured once, at noise levels stratified over the
range, on the test images; every weighting and schedule is then an integral over the same samples.
"Within levels" leaves out the variance between noise levels, which is what remains of the loss's
variance in large batches with low-discrepancy times. The gradient's column is its second moment,
$\int w^2\,\mathbb E\|\nabla u\|^2/p\,d\lambda$, which is above its variance by the same number, the
squared norm of the mean gradient, for every schedule.

Printed are ratios to the cosine schedule, with 95 % bootstrap intervals over the samples. "Lower
bound" is what the best density for that column would reach, fitted in 50 bins.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from elbos.models.likelihood import eps_loss
from elbos.runs.run import Run
from elbos.theory import schedules, weightings
from elbos.theory.adaptive import Adaptive
from elbos.theory.process import diffuse
from elbos.training.data import to_unit
from elbos.training.randomness import generator

WEIGHTINGS = [weightings.ELBO(), weightings.Sigmoid(k=2.0), weightings.EDM()]
NUM_BOOTSTRAP = 500
NUM_BINS = 50


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--num-losses", type=int, default=8192)
    parser.add_argument("--num-gradients", type=int, default=1024)
    arguments = parser.parse_args()
    run = Run(arguments.run)
    ends = run.config.schedule.logsnr_min, run.config.schedule.logsnr_max
    levels = stratified(*ends, arguments.num_losses, seed=0)
    u = torch.stack([losses(run, levels, seed) for seed in (1, 2)])  # two independent ones a level
    gradient_levels = stratified(*ends, arguments.num_gradients, seed=3)
    squared_norms = gradient_norms(run, gradient_levels)
    print(
        f"{run.config.data!r}, {run.config.weighting!r} at step {run.step}, log-SNR in {ends}: "
        f"n = {u.numel():,} losses, {len(squared_norms):,} gradients"
    )
    for weighting in WEIGHTINGS:
        v = weighting(levels) * u
        g = weighting(gradient_levels) ** 2 * squared_norms
        report(repr(weighting), levels, v, gradient_levels, g, ends)


def report(
    title: str, levels: Tensor, v: Tensor, gradient_levels: Tensor, g: Tensor, ends: tuple
) -> None:
    """Print the table of one weighting."""
    width = ends[1] - ends[0]
    square, within = v.square().mean(0), (v[0] - v[1]).square() / 2
    columns: list[tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]] = [
        # levels, what is divided by the density and integrated, and what is taken away from that
        (levels, square, lambda i: (width * v.mean(0)[i].mean(-1)) ** 2),
        (levels, within, lambda i: torch.zeros(len(i))),
        (gradient_levels, g, lambda i: torch.zeros(len(i))),
    ]
    print(f"\n{title}\n{'':26}{'loss':>22}{'within levels':>22}{'gradient':>22}")
    cosine = schedules.Cosine(logsnr_min=ends[0], logsnr_max=ends[1])
    resampled = [bootstrap(len(at)) for at, _, _ in columns]
    for name, density in densities(levels, v, ends).items():
        cells = []
        for (at, moment, taken), i in zip(columns, resampled, strict=True):
            variances = [
                width * (moment / p)[i].mean(-1) - taken(i)
                for p in (density(at), cosine.density(at))
            ]
            cells.append(interval(variances[0] / variances[1]))
        print(f"{name:26}" + "".join(f"{cell:>22}" for cell in cells))
    bounds = []
    for (at, moment, taken), i in zip(columns, resampled, strict=True):
        least = (width * binned(at, moment, ends).sqrt().mean()) ** 2
        base = width * (moment / cosine.density(at)).mean()
        mean = taken(i[:1])[0]
        bounds.append(f"{((least - mean) / (base - mean)).item():.3f}")
    print(f"{'lower bound':26}" + "".join(f"{bound:>22}" for bound in bounds))


def densities(
    levels: Tensor, v: Tensor, ends: tuple[float, float]
) -> dict[str, Callable[[Tensor], Tensor]]:
    """The schedules that are compared; the adaptive ones have converged on these samples."""
    named = {"logsnr_min": ends[0], "logsnr_max": ends[1]}
    candidates = {
        "cosine": schedules.Cosine(**named),
        "EDM": schedules.Normal.edm(**named),
        "linear": schedules.Linear(**named),
        "adaptive, mean": Adaptive(**named),
        "adaptive, root 2nd moment": Adaptive(**named, follow="root-second-moment"),
    }
    for schedule in candidates.values():
        for values in v:
            schedule.update(levels, values / schedule.density(levels))
    return {name: schedule.density for name, schedule in candidates.items()}


def stratified(low: float, high: float, num: int, seed: int) -> Tensor:
    """Noise levels, one at a random place in each of `num` equal intervals."""
    offsets = torch.rand(num, dtype=torch.float64, generator=generator(seed))
    return low + (high - low) * (torch.arange(num) + offsets) / num


def batch(run: Run, num: int, seed: int) -> tuple[Tensor, Tensor | None]:
    """Test images at random, and their labels."""
    split = run.dataset.test
    rows = torch.randint(len(split), (num,), generator=generator(seed, 1))
    x = to_unit(split.x[rows], run.dataset.num_levels)
    return x, split.labels[rows] if run.has_labels and split.labels is not None else None


def losses(run: Run, levels: Tensor, seed: int) -> Tensor:
    """The loss u of a random image at each level."""
    x, labels = batch(run, len(levels), seed)
    found = []
    for rows in torch.arange(len(levels)).split(256):
        cond = None if labels is None else labels[rows]
        g = generator(seed, 2, int(rows[0]))
        level = levels[rows].float()
        found.append(eps_loss(run.denoiser, x[rows], level, cond=cond, generator=g))
    return torch.cat(found).double()


def gradient_norms(run: Run, levels: Tensor) -> Tensor:
    """The squared norm of the gradient of u, for a random image at each level."""
    x, labels = batch(run, len(levels), 4)
    network = run.denoiser.network.requires_grad_(True)
    source, found = generator(5), []
    for i in range(len(levels)):
        cond = None if labels is None else labels[i : i + 1]
        level = levels[i : i + 1].float()
        eps = torch.randn(1, *x.shape[1:], generator=source)
        _, eps_hat = run.denoiser(diffuse(x[i : i + 1], eps, level), level, cond)
        loss = 0.5 * (eps_hat - eps).square().mean()  # `eps_loss`, which has no gradient
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        found.append(sum(gradient.square().sum() for gradient in gradients))
    return torch.stack(found).double()


def binned(levels: Tensor, values: Tensor, ends: tuple[float, float]) -> Tensor:
    """Mean of the values in each of 50 bins."""
    bins = ((levels - ends[0]) / (ends[1] - ends[0]) * NUM_BINS).long().clamp(max=NUM_BINS - 1)
    total = torch.zeros(NUM_BINS, dtype=values.dtype).index_add_(0, bins, values)
    return total / bins.bincount(minlength=NUM_BINS)


def bootstrap(num: int) -> Tensor:
    """Row 0: the samples themselves. The others: resampled with replacement."""
    drawn = torch.randint(num, (NUM_BOOTSTRAP, num), generator=generator(6))
    return torch.cat([torch.arange(num)[None], drawn])


def interval(ratios: Tensor) -> str:
    """The estimate and its bootstrap interval."""
    low, high = ratios[1:].quantile(torch.tensor([0.025, 0.975], dtype=ratios.dtype)).tolist()
    return f"{ratios[0].item():.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()
