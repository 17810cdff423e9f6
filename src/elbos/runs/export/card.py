"""Model card of an exported model: training objective, measured likelihood and sample quality, and
code to load the model.
"""

import json
import math
from dataclasses import dataclass
from typing import Any

import yaml

from elbos.adapters.diffusers.latents import Latents
from elbos.adapters.diffusers.network import DiffusersNetwork, part_name
from elbos.adapters.diffusers.trained import trained_scheduler
from elbos.base import files
from elbos.base.html import Markdown, render
from elbos.base.numbers import plus_minus
from elbos.evaluation.metrics import FRECHET_DISTANCE, KERNEL_DISTANCE, SampleMetric, Value
from elbos.evaluation.result import Evaluation
from elbos.evaluation.scores import SamplingProtocol
from elbos.runs.run import Run
from elbos.theory import elbo as analysis
from elbos.training.network import OwnNetwork
from elbos.validation.result import NATS_PER_BIT

_CONDITIONS = {"unconditional": "without labels", "given_label": "given the label"}


@dataclass(frozen=True, kw_only=True)
class Bound:
    """Measured upper bound on the negative log-likelihood of held-out data.

    `measured` names the images and the network's condition, in words; `split` is "test" or "val".
    """

    bits_per_dim: float
    standard_error: float | None
    split: str
    measured: str

    @property
    def text(self) -> str:
        return plus_minus(self.bits_per_dim, self.standard_error)


@dataclass(frozen=True, kw_only=True)
class Distance:
    """Distance between generated samples and real images.

    `num_reference` is the number of real images that this metric uses; `protocol` has the settings
    of the measurement.
    """

    metric: SampleMetric
    value: Value
    num_reference: int
    protocol: SamplingProtocol

    @property
    def text(self) -> str:
        return plus_minus(self.value.value, self.value.standard_error)

    @property
    def measured(self) -> str:
        how = self.protocol
        return (
            f"{how.extractor}; {how.num_samples:,} samples, {self.num_reference:,} "
            f"{how.reference} images; {how.sampler_label}, {how.num_evaluations} evaluations per "
            f"sample, guidance {how.guidance:g}"
        )


def evaluation(run: Run) -> Evaluation | None:
    """Return the stored evaluation of a trained model.

    None without an evaluation of these weights.
    """
    path = run.directory.path / "eval.json"
    try:
        found = Evaluation.load(path) if path.exists() else None
    except ValueError:  # written by an earlier version
        return None
    return found if found is not None and found.step == run.step else None


def distances(found: Evaluation | None) -> list[Distance]:
    """Return the measured Fréchet and kernel distance of a model's samples."""
    if found is None or (quality := found.quality) is None:
        return []
    how = quality.protocol
    nums = {FRECHET_DISTANCE: how.num_reference, KERNEL_DISTANCE: how.num_kernel_reference}
    return [
        Distance(metric=metric, value=value, num_reference=num, protocol=how)
        for metric, num in nums.items()
        if math.isfinite((value := quality.scores[metric.name]).value)
    ]


def bounds(run: Run, found: Evaluation | None) -> list[Bound]:
    """Return the measured likelihood bounds of a model.

    They are from its evaluation or, without any, from the last validation of the training.
    """
    if found is not None and found.results:
        return [
            Bound(
                bits_per_dim=one.bits_per_dim,
                standard_error=one.standard_error,
                split=found.split,
                measured=f"{found.num_images:,} {found.split} images, {_CONDITIONS[name]}",
            )
            for name, one in found.results.items()
        ]
    path = run.directory.path / "metrics.jsonl"
    for text in reversed(files.read(path).splitlines() if path.exists() else []):
        try:
            line = json.loads(text)
        except ValueError:  # cut off when the machine went down
            continue
        if "val_nats" in line:  # the last validation, which may be of other weights
            error, is_same = line.get("val_nats_se"), line.get("step") == run.step
            condition = _CONDITIONS["given_label" if run.has_labels else "unconditional"]
            bound = Bound(
                bits_per_dim=line["val_nats"] / NATS_PER_BIT,
                standard_error=None if error is None else error / NATS_PER_BIT,
                split="val",
                measured=f"validation samples, {condition}",
            )
            return [bound] * is_same
    return []


def card(run: Run, where: str, vae: Latents | None = None) -> str:
    """Return the text of the model card of an exported model.

    It is that of README.md. `where` is the repository on the Hub, or the name of the folder; `vae`
    is given if it is exported, too.
    """
    config, data, network = run.config, run.data, run.network
    ends = run.schedule.logsnr_min, run.schedule.logsnr_max
    is_diffusers = isinstance(network, DiffusersNetwork)
    null_label = network.null_label if isinstance(network, DiffusersNetwork) else None
    measured = evaluation(run)
    found, samples = bounds(run, measured), distances(measured)
    use: dict[str, Any] = {"is_diffusers": is_diffusers, "data": data, "vae": vae}
    use |= {"name": json.dumps(where), "folder": json.dumps(where.rpartition("/")[2])}
    use |= {"is_own": isinstance(config.network, OwnNetwork), "has_classes": null_label is not None}
    if isinstance(network, DiffusersNetwork):
        scheduler = trained_scheduler(config.parameterization, network.levels)["_class_name"]
        use |= {"scheduler": scheduler, "kind": type(network.inner).__name__}
        use |= {"is_flow": scheduler.startswith("FlowMatch"), "part": part_name(network)}
    return render(
        "runs/export/model_card.md",
        front_matter=Markdown(_front_matter(run, where, found, samples).rstrip()),
        name=where,
        run=run,
        trained=run.trained,
        data=data,
        shape="x".join(map(str, data.shape)),
        ends=ends,
        rising=analysis.rising_intervals(run.weighting, max(ends[0], -40), min(ends[1], 40)),
        bounds=found,
        distances=samples,
        kind=type(config.parameterization).__name__,
        width=run.relative_width,
        code=Markdown(render("runs/export/use.txt", **use).rstrip()),
        has_vae=vae is not None,
        is_diffusers=is_diffusers,
        null_label=null_label,
    )


def _front_matter(run: Run, where: str, found: list[Bound], samples: list[Distance]) -> str:
    is_diffusers, data = isinstance(run.network, DiffusersNetwork), run.data
    task = "unconditional-image-generation"
    entries: dict[str, Any] = {"library_name": "diffusers" if is_diffusers else "elbos"}
    if len(data.shape) == 3:
        entries["pipeline_tag"] = task
    entries["tags"] = ["elbos", "diffusion", *(["class-conditional"] if run.has_labels else [])]
    by_split = [
        (
            one.split,
            {
                "type": "bits_per_dim",
                "name": f"bits/dim (upper bound), {one.measured}",
                "value": round(one.bits_per_dim, 4),
            },
        )
        for one in found
        if math.isfinite(one.bits_per_dim)
    ]
    by_split += [
        (
            one.protocol.reference,
            {
                "type": one.metric.name,
                "name": f"{one.metric.title}, {one.measured}",
                "value": float(f"{one.value.value:.6g}"),
                "args": {
                    "extractor": one.protocol.extractor,  # names the hash of its weights
                    "num_samples": one.protocol.num_samples,
                    "seed": one.protocol.seed,
                    "num_reference": one.num_reference,
                    "sampler": one.protocol.sampler,
                    "grid": one.protocol.grid,
                    "num_evaluations": one.protocol.num_evaluations,
                    "guidance": one.protocol.guidance,
                },
            },
        )
        for one in samples
    ]
    if by_split:
        results = [
            {
                "task": {"type": task},
                "dataset": {"type": data.name, "name": data.name, "split": split},
                "metrics": [metric],
            }
            for split, metric in by_split
        ]
        entries["model-index"] = [{"name": where.rpartition("/")[2], "results": results}]
    text: str = yaml.safe_dump(entries, sort_keys=False, allow_unicode=True, width=100)
    return text
