"""Evaluation of a trained model: likelihood, loss at every noise level, and samples.

Everything is measured batch by batch into the model's `evaluation` folder, so that an interrupted
evaluation resumes.
"""

from dataclasses import replace
from importlib.metadata import version

from elbos.base.checks import typed
from elbos.base.progress import Start, silent
from elbos.base.sharing import naming_lost_processes
from elbos.evaluation.config import EvaluationConfig
from elbos.evaluation.floor import measure_floors
from elbos.evaluation.likelihood import chosen_images, conditions, measure
from elbos.evaluation.model import Model
from elbos.evaluation.quality import Scorer, stored_samples
from elbos.evaluation.result import Evaluation, Protocol
from elbos.training.data import to_unit
from elbos.training.pictures import png
from elbos.training.sampling import Sampling
from elbos.validation.measurements import MIN_TUNING_SAMPLES, num_pilot_times
from elbos.validation.validator import ROUND_TIMES

NUM_SHOWN = 100


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
    if _is_sampled(model, config):
        scorer = Scorer.load(model, config.extractor, start)  # first, as files may be missing
    by_condition = conditions(model, config, start)
    results = {name: measure(model, name, x, config, start) for name, x in by_condition.items()}
    images = by_condition[model.conditions[0]]
    quality = scorer.quality(sampling, config.num_samples, config.seed, start) if scorer else None
    floors = None
    if config.floor:
        levels = {name: bound.curve.logsnr for name, bound in results.items()}
        floors = measure_floors(model, config, levels, start)
    data, num_pilot = model.dataset.fingerprint(), min(config.num_pilot_images, len(images))
    protocol = Protocol(
        data=data["name"],
        data_sha256=data["sha256"],
        num_levels=images.num_levels,
        weights_relative_width=model.relative_width,
        logsnr_min=model.schedule.logsnr_min,
        logsnr_max=model.schedule.logsnr_max,
        num_pilot_images=num_pilot,
        num_pilot_levels=num_pilot_times(num_pilot),
        num_round_levels=ROUND_TIMES,
        precision=model.precision,
        seed=config.seed,
        device=model.device.type,
        versions={name: version(name) for name in ("elbos", "torch")},
        origin=model.origin,
    )
    return Evaluation(
        run=model.name,
        step=model.step,
        images_seen=model.trained.images_seen,
        trained=model.trained,
        split=split,
        num_images=len(images),
        num_evaluations=sum(bound.num_evaluations for bound in results.values()),
        results=results,
        quality=quality,
        protocol=protocol,
        floors=floors,
    )


def require_measurable(model: Model, config: EvaluationConfig, sampling: Sampling) -> None:
    """Raise a ValueError, before anything is measured, if settings do not fit the model."""
    model.require_guidable(sampling)
    sampling.logsnrs(model.schedule)  # raises for an invalid grid
    _, images = chosen_images(model, config)
    if (num := config.num_pilot_images) < (least := min(MIN_TUNING_SAMPLES, len(images))):
        raise ValueError(f"num_pilot_images is {num}: give at least {least}.")
    if config.floor and model.origin and model.origin.latents:
        raise ValueError(
            f"The irreducible loss needs pixel values; {model.name} generates latents."
        )
    num, wanted = len(model.dataset.train), config.floor_images
    if config.floor and wanted is not None and wanted > num:
        raise ValueError(f"floor_images is {wanted}: give at most {num}, the training images.")


def samples_picture(model: Model, config: EvaluationConfig, sampling: Sampling) -> bytes | None:
    """Return a PNG image of some generated samples; None if there are none."""
    if not _is_sampled(model, config):
        return None
    x = stored_samples(model, sampling, config.num_samples, config.seed, silent)
    shown = to_unit(x[:NUM_SHOWN], model.dataset.num_levels)
    return png(shown, num_columns=model.num_classes)


def _is_sampled(model: Model, config: EvaluationConfig) -> bool:
    # samples of a pipeline are the business of its own library
    return config.num_samples > 0 and model.dataset.num_levels is not None and model.origin is None
