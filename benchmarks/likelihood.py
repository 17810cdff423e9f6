r"""Network evaluations that a bound of given precision takes, by three estimators.

    python benchmarks/likelihood.py RUN [--num-images 2000]

All three estimate the mean bits/dim of the same test images with the same network, between the same
noise levels, each image as often as any other:

- **independent**: uniform levels, every one drawn independently: the usual estimator;
- **VDM**: uniform levels, low-discrepancy times within each batch of 128 images taken at random;
- **ours**: what `elbos evaluate` does, with its pilot of 64 images counted in full.

The error of the mean over these images has a variance $V/M$ after $M$ evaluations, and
$V/0.005^2$ is what a standard error of 0.005 bits/dim takes. $V$ is measured: of independent times
from the scatter of each image's own losses; of VDM's from the scatter of batches, and of ours from
that of rounds, around the images' bounds, which the average of everything here gives to a few
thousandths.
As an estimate for all images there could be, all three have the scatter between images besides, a
limit that no number of evaluations lowers.

Antithetic noise, $-\epsilon$ after $\epsilon$ at the same level, would help if the two losses were
negatively correlated; their correlation within a level and image is printed.
"""

import argparse
import math
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.likelihood import eps_loss
from elbos.process import diffuse
from elbos.schedules import Linear, Schedule, low_discrepancy_times
from elbos.training.data import to_unit
from elbos.training.randomness import generator
from elbos.training.run import Run
from elbos.validation import Measurements, fit
from elbos.validation.draws import Draws

TARGET = 0.005  # bits/dim
NUM_PILOT, PILOT_TIMES, ROUND_TIMES = 64, 32, 4
VDM_BATCH = 128
BATCH_SIZE = 250
PER_BIT = math.log(2)


class Images:
    """Some test images, and what one evaluation of each says."""

    def __init__(self, run: Run, num: int) -> None:
        rows = torch.randperm(len(run.dataset.test), generator=generator(0))[:num]
        self.run, self.g = run, generator(1)
        self.x = to_unit(run.dataset.test.x[rows], run.dataset.num_levels)
        labels = run.dataset.test.labels
        self.cond = labels[rows] if run.has_labels and labels is not None else None

    def __len__(self) -> int:
        return len(self.x)

    def losses(self, logsnr: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
        """The loss of the first images at levels of their own."""
        parts = []
        for start in range(0, len(logsnr), BATCH_SIZE):
            rows = slice(start, start + BATCH_SIZE)
            cond = None if self.cond is None else self.cond[rows]
            x, level = self.x[rows][: len(logsnr[rows])], logsnr[rows]
            with torch.no_grad(), self.run.autocast():
                found = [
                    eps_loss(
                        self.run.denoiser,
                        x,
                        one.to(x),
                        cond=None if cond is None else cond[: len(x)],
                        generator=self.g,
                    )
                    for one in level.T
                ]
            parts.append(torch.stack(found, 1).double())
        return torch.cat(parts) / PER_BIT

    def independent(self, schedule: Schedule, num_times: int) -> Float[Tensor, "n m"]:
        """Single estimates of each image's diffusion term, independent times."""
        logsnr = schedule.logsnr(torch.rand(len(self), num_times, generator=self.g).double())
        return self.losses(logsnr) / schedule.density(logsnr)

    def vdm(self, schedule: Schedule) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """One estimate of each image's, times shared by batches; and the images in their order."""
        order = torch.randperm(len(self), generator=self.g)
        times = torch.empty(len(self), dtype=torch.float64)
        for batch in order.split(VDM_BATCH):
            u = torch.rand((), generator=self.g).item()
            times[batch] = low_discrepancy_times(u, len(batch))
        logsnr = schedule.logsnr(times[:, None])
        return (self.losses(logsnr) / schedule.density(logsnr))[:, 0], order


def stratified_times(num: int, number: int, num_times: int) -> Float[Tensor, "n m"]:
    """The times of all of `num` images in a round."""
    return Draws(0, num).times(torch.arange(num), number, num_times)


def antithetic_correlation(images: Images, schedule: Schedule, num: int = 500) -> float:
    """Of the losses of opposite noise, within images and levels: over that of independent noise."""
    num = min(num, len(images))
    logsnr = schedule.logsnr(stratified_times(num, 0, 1))[:, 0]
    x = images.x[:num]
    cond = None if images.cond is None else images.cond[:num]

    def loss(eps: Tensor) -> Tensor:
        with torch.no_grad(), images.run.autocast():
            _, eps_hat = images.run.denoiser(diffuse(x, eps, logsnr), logsnr.to(x), cond)
        return 0.5 * (eps_hat - eps).square().flatten(1).mean(1) / schedule.density(logsnr)

    eps, other = torch.randn(2, *x.shape, generator=images.g)
    first, opposite, fresh = loss(eps), loss(-eps), loss(other)
    same_level = (first - fresh).square().mean() / 2  # variance of the noise alone
    return 1 - ((first - opposite).square().mean() / 2 / same_level).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--num-images", type=int, default=2000)
    parser.add_argument("--num-repeats", type=int, default=16, help="passes of each estimator")
    arguments = parser.parse_args()
    run = Run(arguments.run)
    images = Images(run, arguments.num_images)
    n, repeats = len(images), arguments.num_repeats
    ends = {
        "logsnr_min": run.config.schedule.logsnr_min,
        "logsnr_max": run.config.schedule.logsnr_max,
    }
    even = Linear(**ends)

    logsnr = even.logsnr(stratified_times(NUM_PILOT, 0, PILOT_TIMES))
    schedule, control = fit(Measurements(even, logsnr[:, None], images.losses(logsnr)[:, None]))
    rounds = []
    for number in range(repeats):
        logsnr = schedule.logsnr(stratified_times(n, number, ROUND_TIMES))
        measured = Measurements(schedule, logsnr[:, None], images.losses(logsnr)[:, None], control)
        rounds.append(measured.integral(torch.ones_like)[:, 0])
    ours = torch.stack(rounds, 1)
    independent = images.independent(even, repeats)
    vdm = [images.vdm(even) for _ in range(repeats)]
    print(f"{run.config.data!r}, {run.config.weighting!r} at step {run.step}: n = {n:,} images")
    report(ours, independent, vdm, even, images)


def report(
    ours: Float[Tensor, "n r"],
    independent: Float[Tensor, "n r"],
    vdm: list[tuple[Tensor, Tensor]],
    even: Schedule,
    images: Images,
) -> None:
    """Variances per evaluation, and what they mean."""
    n, repeats = ours.shape
    bound = ours.mean(1)
    batches = [
        (values[batch] - bound[batch]).mean()
        for values, order in vdm
        for batch in order.split(VDM_BATCH)
        if len(batch) == VDM_BATCH
    ]
    # around the mean of the rounds themselves: r - 1 degrees of freedom
    scatter = ours.mean(0).var().item() * n * ROUND_TIMES
    stated = ours.var(1).mean().item() * ROUND_TIMES
    variances = {
        "independent": independent.var(1).mean().item(),
        "VDM": torch.stack(batches).var().item() * VDM_BATCH,
        "ours, as stated": stated,
    }
    print(f"diffusion term {bound.mean():.4f} bits/dim; others: ", end="")
    print(f"{independent.mean():.4f}, {torch.stack([v.mean() for v, _ in vdm]).mean():.4f}")
    overhead = {"ours, as stated": NUM_PILOT * PILOT_TIMES}
    needed = {k: v / TARGET**2 + overhead.get(k, 0) for k, v in variances.items()}
    print(f"\n{'':18}{'variance, bits^2':>18}{'evaluations for ±0.005':>25}{'/ ours':>9}")
    for name, variance in variances.items():
        ratio = needed[name] / needed["ours, as stated"]
        print(f"{name:18}{variance:18.3f}{needed[name]:25,.0f}{ratio:9.1f}")
    print(f"ours, scatter of {repeats} rounds: {scatter:.3f} bits^2")
    between = bound.var().item() - stated / ROUND_TIMES / repeats
    print(f"\nbetween images: standard deviation {math.sqrt(between):.3f} bits/dim; ", end="")
    print(f"limit of {n:,} images ±{math.sqrt(between / n):.4f}, of 10,000 ", end="")
    print(f"±{math.sqrt(between / 10_000):.4f}")
    print(f"antithetic noise: correlation {antithetic_correlation(images, even):+.2f}")


if __name__ == "__main__":
    main()
