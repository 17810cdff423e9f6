"""Computation of the results of a comparison from the scores of all trained models."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch

from elbos.comparison.experiment import Experiment
from elbos.comparison.objective_result import (
    Failure,
    LearningCurve,
    LevelCurve,
    Metric,
    ObjectiveResult,
    Score,
    Weights,
)
from elbos.comparison.result import (
    Comparison,
    Difference,
    Losses,
    Pair,
    Protocol,
    RankCorrelation,
    Ranking,
    SamplerProtocol,
    Statistics,
    TestedWeighting,
)
from elbos.comparison.scores import RunScores, measured_metrics
from elbos.comparison.statistics import (
    MIN_WEIGHTINGS,
    Correlation,
    Differences,
    differences,
    rank_correlations,
)
from elbos.comparison.variants import Variant
from elbos.theory.elbo import rising_intervals

NUM_WEIGHTS = 201


def summarize(
    experiment: Experiment,
    scores: Mapping[tuple[str, int], RunScores],
    failures: Mapping[tuple[str, int], Failure],
    *,
    name: str,
    command: str | None = None,
    features: str | None = None,
    num_levels: int | None = None,
) -> Comparison:
    table = _Table(experiment, scores)
    some = table.some
    return Comparison(
        name=name,
        command=command,
        data=some.data if some else None,
        num_test_images=some.num_images if some else None,
        num_samples=experiment.scoring.num_samples if some and some.samples else None,
        num_compared=some.num_compared if some else None,
        num_features=some.num_features if some else None,
        num_baseline=some.baseline.num if some and some.baseline else None,
        num_images=experiment.config.num_images,
        num_parameters=some.num_parameters if some else None,
        seeds=experiment.seeds,
        logsnr_min=experiment.ends[0],
        logsnr_max=experiment.ends[1],
        metrics=table.metrics,
        objectives=tuple(_objective(one, table, failures) for one in experiment.objectives),
        statistics={metric.key: _statistics(metric, table) for metric in table.metrics},
        pairs=tuple(
            Pair(
                monotone=yes.name,
                non_monotone=no.name,
                differences={m.key: _difference(m, yes, no, table) for m in table.metrics},
            )
            for yes, no in table.pairs
        ),
        losses=_losses(table),
        ranking=_ranking(table),
        protocol=_protocol(experiment, table, features, num_levels),
    )


class _Table:
    def __init__(self, experiment: Experiment, scores: Mapping[tuple[str, int], RunScores]) -> None:
        self.experiment, self.seeds = experiment, experiment.seeds
        self.scores = {
            one.name: {s: scores[one.name, s] for s in self.seeds if (one.name, s) in scores}
            for one in experiment.objectives
        }
        found = [score for one in self.scores.values() for score in one.values()]
        self.some = found[0] if found else None
        self.metrics = measured_metrics(found[0]) if found else ()
        self.main = [metric for metric in self.metrics if metric.is_main]
        self.rising = {
            one.name: rising_intervals(one.weighting, *experiment.ends)
            for one in experiment.objectives
        }
        self.complete = [
            one for one in experiment.objectives if len(self.scores[one.name]) == len(self.seeds)
        ]

    def is_monotone(self, objective: Variant) -> bool:
        return not self.rising[objective.name]

    def values(self, metric: Metric, objectives: Sequence[Variant]) -> Any:
        """Return the values of a metric as an array `[objectives, seeds]`."""
        found = [
            [s.values.get(metric.key) for s in self.scores[one.name].values()] for one in objectives
        ]
        return np.array(found, dtype=np.float64)

    @cached_property
    def pairs(self) -> list[tuple[Variant, Variant]]:
        schedules = {one.name: self.experiment.run_config(one, 0).schedule for one in self.complete}
        return [
            (yes, no)
            for no in self.complete
            for yes in self.complete
            if self.is_monotone(yes)
            and not self.is_monotone(no)
            and yes.parameterization == no.parameterization
            and schedules[yes.name] == schedules[no.name]
        ]

    @cached_property
    def differences(self) -> dict[str, Differences]:
        if not self.complete:
            return {}
        order = self.complete.index
        scores = np.array([self.values(metric, self.complete) for metric in self.main])
        found = differences(scores, [(order(yes), order(no)) for yes, no in self.pairs])
        return {m.key: one for m, one in zip(self.main, found, strict=True) if one is not None}


def _objective(
    objective: Variant, table: _Table, failures: Mapping[tuple[str, int], Failure]
) -> ObjectiveResult:
    scores = table.scores[objective.name]
    missing = [seed for seed in table.seeds if seed not in scores]
    status: Literal["complete", "incomplete", "failed"] = "incomplete" if scores else "failed"
    config = table.experiment.run_config(objective, 0)
    first = next(iter(scores.values()), None)
    return ObjectiveResult(
        name=objective.name,
        parameterization=repr(objective.parameterization),
        schedule=repr(config.schedule),
        weighting=repr(objective.weighting),
        is_monotone=table.is_monotone(objective),
        rising=tuple(table.rising[objective.name]),
        status=status if missing else "complete",
        failures=tuple(
            failures.get((objective.name, seed))
            or Failure(seed=seed, reason="it is not done yet", is_final=False)
            for seed in missing
        ),
        scores={m.key: _score(m, objective, table) for m in table.metrics} if scores else {},
        weights=_weights(objective, table.experiment, first),
        elbo=_mean_curve([one.elbo for one in scores.values()]),
        curve=_mean_curve([one.curve for one in scores.values()]),
        learning=_mean_learning([one.learning for one in scores.values()]),
        density=(first.density or None) if first else None,
    )


def _score(metric: Metric, objective: Variant, table: _Table) -> Score:
    values = table.values(metric, [objective])[0]
    is_best = is_near = is_unresolved = False
    detectable = None
    if (found := table.differences.get(metric.key)) and objective in table.complete:
        i, best = table.complete.index(objective), found.best(metric.is_lower_better)
        is_best, is_near = i == best, not found.is_significant[best, i]
        is_unresolved = bool(is_near and found.is_wild[i] and not is_best)  # scatters too much
        detectable = None if is_best else float(found.half_widths[best, i])
    return Score(
        values=dict(zip(table.scores[objective.name], values.tolist(), strict=True)),
        mean=float(values.mean()),
        std=float(values.std(ddof=1)) if len(values) > 1 else None,
        is_best=is_best,
        is_best_within_error=bool(is_near and not is_unresolved),
        is_unresolved=is_unresolved,
        detectable=detectable,
    )


def _statistics(metric: Metric, table: _Table) -> Statistics | None:
    if (found := table.differences.get(metric.key)) is None:
        return None
    best = found.best(metric.is_lower_better)
    return Statistics(
        num_objectives=len(table.complete),
        num_seeds=len(table.seeds),
        residual_std=found.residual_std,
        detectable=float(np.median(np.delete(found.half_widths[best], best))),
        erratic=tuple(table.complete[i].name for i in np.flatnonzero(found.is_wild)),
        pairing=found.pairing,
    )


def _difference(metric: Metric, yes: Variant, no: Variant, table: _Table) -> Difference:
    means = table.values(metric, [yes, no]).mean(1)
    mean = float(means[0] - means[1])
    if (found := table.differences.get(metric.key)) is None:
        return Difference(mean=mean)
    pair = table.complete.index(yes), table.complete.index(no)
    half_width = float(found.half_widths[pair])
    return Difference(
        mean=mean,
        low=mean - half_width,
        high=mean + half_width,
        detectable=half_width,
        is_unresolved=bool(found.is_wild[list(pair)].any() and not found.is_significant[pair]),
    )


def _losses(table: _Table) -> Losses | None:
    if not table.complete:
        return None
    names = [repr(weighting) for weighting in table.experiment.weightings]
    scores = [table.scores[one.name].values() for one in table.complete]
    losses = np.array([[[s.losses[name] for s in one] for name in names] for one in scores])
    means = losses.mean(2)
    lowest = means.min(0)  # may be negative, from few images: then no ratio
    relative = np.where(lowest > 0, means / np.where(lowest > 0, lowest, 1), np.nan)
    trained = {
        name: tuple(o.name for o in table.experiment.objectives if repr(o.weighting) == name)
        for name in names
    }
    return Losses(
        objectives=tuple(one.name for one in table.complete),
        weightings=tuple(TestedWeighting(name=n, objectives=of) for n, of in trained.items()),
        relative=tuple(map(_rounded, relative)),
    )


def _ranking(table: _Table) -> Ranking | None:
    objectives = [one for one in table.complete if table.is_monotone(one)]
    weightings = [repr(one.weighting) for one in objectives]
    names = list(dict.fromkeys(weightings))
    if len(names) < MIN_WEIGHTINGS:
        return None
    scores = [list(table.scores[one.name].values()) for one in objectives]
    elbos = np.array([[s.elbo.nats_per_dim for s in one] for one in scores])
    losses = np.array([[[s.losses[name] for name in names] for s in one] for one in scores])
    by_level, by_weighting = {}, {}
    for metric in table.main:
        values = table.values(metric, objectives)
        by_level[metric.key] = _correlation(rank_correlations(elbos, values, weightings))
        known = _correlation(rank_correlations(losses, values, weightings))
        by_weighting[metric.key] = replace(known, p_value=None)
    return Ranking(
        objectives=tuple(one.name for one in objectives),
        weightings=tuple(names),
        num_seeds=len(table.seeds),
        logsnr=scores[0][0].elbo.logsnr,
        by_level=by_level,
        by_weighting=by_weighting,
    )


def _correlation(found: Correlation) -> RankCorrelation:
    ends = {end: _rounded(getattr(found, end)) for end in ("rho", "low", "high")}
    return RankCorrelation(**ends, p_value=_rounded([found.p_value])[0])


def _weights(objective: Variant, experiment: Experiment, first: RunScores | None) -> Weights:
    low, high = experiment.ends
    levels = torch.linspace(low, high, NUM_WEIGHTS, dtype=torch.float64)
    w = objective.weighting(levels)
    schedule = experiment.run_config(objective, 0).schedule
    p = None
    if not schedule.state_dict():
        p = _rounded(schedule.density(levels))
    elif first and first.density:  # adaptive: at the end of the first seed's training
        last = first.density[-1].p
        middle = low + (high - low) * (np.arange(len(last)) + 0.5) / len(last)
        p = _rounded(np.interp(levels.numpy(), middle, last))
    return Weights(logsnr=_rounded(levels), w=_rounded(w / w.max()), p=p)


def _mean_curve(curves: Sequence[LevelCurve]) -> LevelCurve | None:
    if not curves:
        return None
    mean = np.array([curve.nats_per_dim for curve in curves], dtype=float).mean(0)
    return LevelCurve(logsnr=_rounded(curves[0].logsnr), nats_per_dim=_rounded(mean))


def _mean_learning(curves: Sequence[LearningCurve]) -> LearningCurve | None:
    curves = [curve for curve in curves if curve.images]
    if not curves:
        return None
    alike = [curve.bits_per_dim for curve in curves if curve.images == curves[0].images]
    mean = _rounded(np.array(alike, dtype=float).mean(0))
    return LearningCurve(images=curves[0].images, bits_per_dim=mean)


def _rounded(values: Any) -> tuple[Any, ...]:
    numbers = np.asarray(values, dtype=float).tolist()
    return tuple(None if math.isnan(number) else float(f"{number:.6g}") for number in numbers)


def _protocol(
    experiment: Experiment, table: _Table, features: str | None, num_levels: int | None
) -> Protocol:
    scoring, config, some = experiment.scoring, experiment.config, table.some
    runs = [one for found in table.scores.values() for one in found.values()]
    clipped = {
        name: [one.clipped for one in found.values() if one.clipped is not None]
        for name, found in table.scores.items()
    }
    samplers = {
        name: SamplerProtocol(
            sampler=repr(one.sampler),
            grid=repr(one.grid_within(config.schedule)),
            num_steps=one.num_steps,
            num_evaluations=one.num_evaluations(config.schedule),
        )
        for name, one in scoring.samplings.items()
        if some and some.samples
    }
    return Protocol(
        batch_size=config.batch_size,
        network=repr(config.network),
        optimizer=repr(config.optimizer),
        precision=config.precision,
        clipped={name: float(np.mean(shares)) for name, shares in clipped.items() if shares},
        condition=some.condition if some else None,
        samplers=samplers,
        features=features if samplers else None,
        hardware=tuple(sorted({one.machine["device"] for one in runs})),
        versions=tuple(
            sorted({f"torch {m['torch']}, elbos {m['elbos']}" for m in (r.machine for r in runs)})
        ),
        long_warmup=config.long_warmup,
        num_levels=num_levels,
    )
