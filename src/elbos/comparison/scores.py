"""The scores of one run, and what a report shows of it besides; RUN/scores.json.

Everything slow is kept part by part in the run's `evaluation` folder: scored again, under more
weightings, a run costs seconds.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from elbos import files
from elbos.comparison.experiment import Scoring
from elbos.evaluation.config import EvaluationConfig, OdeConfig
from elbos.evaluation.likelihood import (
    MIN_PILOT_IMAGES,
    Condition,
    chosen_images,
    conditions,
    measure,
    summary,
)
from elbos.evaluation.quality import Scorer
from elbos.evaluation.samples import stored_samples
from elbos.progress import Start
from elbos.records import to_json
from elbos.runs.codec import digest, encode
from elbos.training.config import Config, Output
from elbos.training.data import to_unit
from elbos.training.machine import machine
from elbos.training.pictures import png
from elbos.training.run import Run
from elbos.weightings import Weighting

NUM_SHOWN = 20
MAX_PILOT = 500  # images, of 32 evaluations each: as many as the rounds take
FILE = "scores.json"
_FORMAT = 2  # a higher number forgets stored scores: kernel distances of cuts were 1


def read_scores(
    run: Path, config: Config, scoring: Scoring, weightings: Iterable[str] = ()
) -> dict[str, Any] | None:
    """What `write_scores` wrote, or None if it is not there or not as it was written, or of another
    run, other settings or too few weightings.
    """
    try:
        stored = json.loads(files.read(run / FILE))
        found: dict[str, Any] = stored["scores"]
        is_own = stored["run"] == _identity(config) and found["scoring"] == encode(scoring)
        if is_own and stored["digest"] == _digest(stored["run"], found):
            return found if set(weightings) <= set(found["losses"]) else None
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        pass
    return None


def _identity(config: Config) -> str:
    """What tells a run from others: all that decides its numbers."""
    return digest(encode(replace(config, output=Output())))


def _digest(run: str, scores: dict[str, Any]) -> str:
    """Tells that nothing was changed, and that this version of elbos wrote it."""
    return digest([version("elbos"), _FORMAT, run, scores])


def write_scores(
    run: Run, scoring: Scoring, weightings: Mapping[str, Weighting], start: Start
) -> None:
    """Score a run; losses under other weightings that were measured before are kept.

    Args:
        run: The run, trained.
        scoring: How.
        weightings: What its losses are measured under.
        start: Told of each piece of work.

    Raises:
        ValueError: If a loss or a sample is not finite.
        OSError: If the scores cannot be written.
    """
    seed = run.config.seed
    evaluation = EvaluationConfig(
        num_images=min(scoring.num_images, len(run.dataset.test)),
        num_pilot_images=max(MIN_PILOT_IMAGES, min(scoring.num_images // 8, MAX_PILOT)),
        ode=OdeConfig(num_images=0),
        num_samples=0,
        seed=seed,
    )
    images = chosen_images(run, evaluation)
    condition = conditions(run, run.dataset.test, images)[-1]  # given the label, if it knows labels
    found = {
        "scoring": encode(scoring),
        "seed": seed,
        "step": run.step,
        "images_seen": run.step * run.config.batch_size,
        "num_parameters": sum(p.numel() for p in run.denoiser.network.parameters()),
        "data": run.dataset.fingerprint(),
        "condition": condition.title,
        "precision": run.config.precision,
        "machine": machine(run.device),
        **_likelihood(run, condition, evaluation, weightings, start),
        **_samples(run, scoring, start),
        **_log(run),
    }
    if before := read_scores(run.directory.path, run.config, scoring):
        found["losses"] = {**before["losses"], **found["losses"]}
    identity = _identity(run.config)
    content = {"run": identity, "digest": _digest(identity, found), "scores": found}
    files.write(run.directory.path / FILE, json.dumps(content, allow_nan=False).encode())


def _likelihood(
    run: Run,
    condition: Condition,
    evaluation: EvaluationConfig,
    weightings: Mapping[str, Weighting],
    start: Start,
) -> dict[str, Any]:
    """The bound, the loss under each weighting, and both curves."""
    measured = measure(run, condition, evaluation, start)
    losses = {
        name: measured.rounds.integral(weighting).mean().item()
        for name, weighting in weightings.items()
    }
    bound = summary(measured)
    return {
        "num_images": len(condition),
        "bits_per_dim": bound.bits_per_dim,
        "standard_error": bound.standard_error,
        "measurement_error": bound.measurement_error,
        "losses": losses,
        "curve": to_json(bound.curve),
        "elbo": to_json(bound.elbo),
    }


def _samples(run: Run, scoring: Scoring, start: Start) -> dict[str, Any]:
    """Sample quality with each sampler, and a picture; of points there is none.

    Scores that depend on the number of samples are of as many as the real-data baseline has,
    `num_compared`; the kernel distance is of all.
    """
    if run.dataset.num_levels is None:
        return {"samples": None, "floor": None, "num_compared": None, "num_features": None}
    scorer = Scorer.load(run, scoring.extractor, start)
    seed, num, scores = run.config.seed, scoring.num_samples, {}
    for name, sampling in scoring.samplings.items():
        x = stored_samples(run, sampling, num, seed, start)
        scores[name] = to_json(scorer.score(x, sampling, seed, start).comparable)
    x = stored_samples(run, scoring.heun, num, seed, start)[:NUM_SHOWN]
    picture = png(to_unit(x, run.dataset.num_levels), num_columns=NUM_SHOWN // 2)
    run.directory.samples.mkdir(exist_ok=True)
    files.write(run.directory.samples / "heun.png", picture)
    return {
        "samples": scores,
        "floor": to_json(scorer.baseline(num, start)),
        "num_compared": scorer.num_matched(num) or num,
        "num_features": scorer.num_features,
    }


def _log(run: Run) -> dict[str, Any]:
    """The curves of the training, out of metrics.jsonl."""
    file = run.directory.path / "metrics.jsonl"
    learning, density, clipped = [], [], []
    for number, line in enumerate(files.read(file).splitlines(), 1):
        try:
            values = json.loads(line)
            if "val_nats" in values:
                learning.append([int(values["images"]), values["val_nats"] / math.log(2)])
            if "clipped" in values:
                clipped.append(float(values["clipped"]))
            if "density" in values:
                density.append([int(values["images"]), [float(p) for p in values["density"]]])
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"{file} is damaged: delete its line {number}.") from error
    curves: dict[str, Any] = {"learning": learning, "density": density}
    if clipped:  # earlier versions have none; lines are of equally many steps
        curves["clipped"] = sum(clipped) / len(clipped)
    return curves
