"""Evaluation of a trained model: likelihood, loss at every noise level, and samples.

Everything is measured batch by batch into the model's `evaluation` folder, so that an interrupted
evaluation resumes.
"""

from dataclasses import replace
from importlib.metadata import version

from elbos.base.checks import typed
from elbos.base.processes import naming_lost_processes
from elbos.base.progress import Start, silent
from elbos.evaluation.config import EvaluationConfig
from elbos.evaluation.likelihood import chosen_images, conditions, measure
from elbos.evaluation.model import Model
from elbos.evaluation.quality import Scorer
from elbos.evaluation.result import Evaluation, Protocol
from elbos.training.sampling import Sampling


@naming_lost_processes()
@typed
def evaluate(
    model: Model,
    config: EvaluationConfig | None = None,
    sampling: Sampling | None = None,
    start: Start = silent,
) -> Evaluation:
    """Measure likelihood, loss curve and sample quality of a model.

    Args:
        model: A `Run`, or a `Pretrained` model.
        config: What to measure. Default: `EvaluationConfig()`.
        sampling: Sampler and its settings. Default: those of the model.
        start: Starts a progress display for each measurement. Default: no display.

    Raises:
        OSError: If results cannot be stored, or files of the extractor are missing.
        ValueError: If the split has too few images, a loss or a sample is not finite, or the
            network cannot be guided as `sampling` says.
    """
    config, sampling = config or EvaluationConfig(), sampling or model.sampling
    split = config.split or model.split
    config = replace(config, split=split)
    require_measurable(model, config, sampling)
    scorer = None
    is_of_pixels, is_run = model.dataset.num_levels is not None, model.scheduler is None
    if config.num_samples > 0 and is_of_pixels and is_run:  # pipelines are sampled by diffusers
        scorer = Scorer.load(model, config.extractor, start)  # first, as files may be missing
    by_condition = conditions(model, config)
    results = {name: measure(model, name, x, config, start) for name, x in by_condition.items()}
    images = by_condition[model.conditions[0]]
    quality = scorer.quality(sampling, config.num_samples, config.seed, start) if scorer else None
    data = model.dataset.fingerprint()
    protocol = Protocol(
        data=data["name"],
        data_sha256=data["sha256"],
        num_levels=images.num_levels,
        logsnr_min=model.schedule.logsnr_min,
        logsnr_max=model.schedule.logsnr_max,
        num_pilot_images=min(config.num_pilot_images, len(images)),
        precision=model.precision,
        seed=config.seed,
        device=model.device.type,
        versions={name: version(name) for name in ("elbos", "torch")},
        scheduler=model.scheduler,
    )
    return Evaluation(
        run=model.name,
        step=model.step,
        trained=model.trained,
        split=split,
        num_images=len(images),
        num_evaluations=sum(bound.num_evaluations for bound in results.values()),
        results=results,
        quality=quality,
        protocol=protocol,
    )


def require_measurable(model: Model, config: EvaluationConfig, sampling: Sampling) -> None:
    """Raise a ValueError, before anything is measured, if settings do not fit the model."""
    model.require_guidable(sampling)
    sampling.logsnrs(model.schedule)  # raises for an invalid grid
    chosen_images(model, config)  # raises if there are too few
