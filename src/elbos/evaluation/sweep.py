"""Sample quality against the number of network evaluations, by sampler and grid."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from elbos.evaluation.samples import Judge, Quality, protocol, score_set
from elbos.progress import Start
from elbos.samplers import SAMPLERS
from elbos.schedules import Cosine, EDMSampling, Flow
from elbos.training.sampling import Sampling

GRIDS = (EDMSampling(), Cosine(), Flow())


def sweep(
    judge: Judge, quality: Quality, sampling: Sampling, seed: int, start: Start
) -> dict[str, Any]:
    """Scores of a set of samples for every sampler, grid and number of evaluations.

    Every point has the same noise, seed and number of samples.

    Args:
        judge: What samples are compared with.
        quality: How many samples and evaluations.
        sampling: What all points share: guidance; its sampler and grid are points too.
        seed: Seed of the noise.
        start: Told of each piece of work.
    """
    points = []
    for point in _points(judge, quality, sampling):
        how = protocol(point, judge)
        found = score_set(judge, point, quality.sweep_samples, seed, _named(start, how))
        del found["matched"]  # points are compared with each other
        points.append({**how, **found})
    return {
        "points": points,
        "num_samples": quality.sweep_samples,
        "seed": seed,
        "baseline": judge.baseline(quality.sweep_samples, start),
        "best": min(points, key=lambda point: float(point["frechet_distance"])),
    }


def _named(start: Start, how: dict[str, Any]) -> Start:
    """The same, told which point the work is for."""
    grid = how["grid"].partition("(")[0]
    point = f"{how['sampler']} on {grid}, {how['num_evaluations']} evaluations"
    return lambda what, total, unit: start(f"{point}: {what}", total, unit)


def _points(judge: Judge, quality: Quality, sampling: Sampling) -> Iterator[Sampling]:
    """Each sampler on each grid, with as many steps as the evaluations allow."""
    trained = judge.run.config.schedule
    for sampler in dict.fromkeys([sampling.sampler, *(cls() for cls in SAMPLERS)]):
        for grid in dict.fromkeys([sampling.grid, *GRIDS]):
            line = replace(sampling, sampler=sampler, grid=grid)
            for num_evaluations in quality.sweep_evaluations:
                fitting = [
                    point
                    for num_steps in range(2, num_evaluations + 1)
                    if (point := replace(line, num_steps=num_steps)).num_evaluations(trained)
                    <= num_evaluations
                ]
                yield from fitting[-1:]  # guidance may leave none
