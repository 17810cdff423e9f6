"""The model card of an export: training objective, measured likelihood, and code to load it."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from elbos.adapters.diffusers.network import DiffusersNetwork, part_name
from elbos.adapters.diffusers.pipeline import Latents
from elbos.adapters.diffusers.trained import trained_scheduler
from elbos.base import files
from elbos.base.html import Markdown, render
from elbos.base.numbers import plus_minus
from elbos.evaluation.result import Evaluation
from elbos.runs.run import Run
from elbos.theory import elbo as analysis
from elbos.training.network import OwnNetwork
from elbos.validation.result import NATS_PER_BIT

_CONDITIONS = {"unconditional": "without labels", "given_label": "given the label"}


@dataclass(frozen=True, kw_only=True)
class Bound:
    """A measured upper bound on the negative log-likelihood of held-out data.

    Attributes:
        bits_per_dim: The bound in bits per dimension.
        standard_error: The standard error of the bound; None if unknown.
        split: The split of the held-out images, "test" or "val".
        measured: The images and the network's condition, in words.
    """

    bits_per_dim: float
    standard_error: float | None
    split: str
    measured: str

    @property
    def text(self) -> str:
        """The bound in bits per dimension as text, with its standard error."""
        return plus_minus(self.bits_per_dim, self.standard_error)


def bounds(run: Run) -> list[Bound]:
    """Return the likelihood bounds of these weights, from the evaluation, or else from validation
    in training.
    """
    return list(_evaluated(run)) or list(_validated(run))


def _evaluated(run: Run) -> Iterator[Bound]:
    path = run.directory.path / "eval.json"
    if not path.exists():
        return
    try:
        found = Evaluation.load(path)
    except ValueError:  # written by an earlier version
        return
    if found.step == run.step:
        for name, one in found.results.items():
            yield Bound(
                bits_per_dim=one.bits_per_dim,
                standard_error=one.standard_error,
                split=found.split,
                measured=f"{found.num_images:,} {found.split} images, {_CONDITIONS[name]}",
            )


def _validated(run: Run) -> Iterator[Bound]:
    """Yield the bound from the last validation in training, if these weights were
    validated then.
    """
    path = run.directory.path / "metrics.jsonl"
    for text in reversed(files.read(path).splitlines() if path.exists() else []):
        try:
            line = json.loads(text)
        except ValueError:  # cut off when the machine went down
            continue
        if "val_nats" in line:
            if line.get("step") == run.step:
                error = line.get("val_nats_se")
                told = _CONDITIONS["given_label" if run.has_labels else "unconditional"]
                yield Bound(
                    bits_per_dim=line["val_nats"] / NATS_PER_BIT,
                    standard_error=None if error is None else error / NATS_PER_BIT,
                    split="val",
                    measured=f"validation samples, {told}",
                )
            return


def card(run: Run, where: str, vae: Latents | None = None) -> str:
    """Return the text of an export's README.md, the model card.

    Args:
        run: The run.
        where: The repository on the Hub, or the name of the folder.
        vae: The autoencoder of the latents, if the folder contains it.
    """
    config, data, network = run.config, run.data, run.network
    ends = config.schedule.logsnr_min, config.schedule.logsnr_max
    is_diffusers = isinstance(network, DiffusersNetwork)
    found = bounds(run)
    return render(
        "runs/export/model_card.md",
        front_matter=Markdown(_front_matter(run, where, found).rstrip()),
        name=where,
        run=run,
        trained=run.trained,
        data=data,
        shape="x".join(map(str, data.shape)),
        ends=ends,
        rising=_rising(config.weighting, *ends),
        bounds=found,
        kind=type(config.parameterization).__name__,
        width=config.averaging.relative_width,
        code=Markdown(_loop(run, where, vae) if is_diffusers else _opening(run, where)),
        has_vae=vae is not None,
        is_diffusers=is_diffusers,
        null_label=network.null_label if isinstance(network, DiffusersNetwork) else None,
    )


def _rising(weighting: Any, low: float, high: float) -> list[tuple[float, float]]:
    """Return the intervals where a weighting increases, within the schedule and log-SNR
    -40 to 40.
    """
    return analysis.rising_intervals(weighting, max(low, -40.0), min(high, 40.0))


def _front_matter(run: Run, where: str, found: list[Bound]) -> str:
    """Return the YAML metadata of the model card for the Hugging Face Hub."""
    is_diffusers, data = isinstance(run.network, DiffusersNetwork), run.data
    task = "unconditional-image-generation"
    entries: dict[str, Any] = {"library_name": "diffusers" if is_diffusers else "elbos"}
    if len(data.shape) == 3:
        entries["pipeline_tag"] = task
    entries["tags"] = ["elbos", "diffusion", *(["class-conditional"] if run.has_labels else [])]
    if found:
        entries["model-index"] = [
            {
                "name": where.rpartition("/")[2],
                "results": [
                    {
                        "task": {"type": task},
                        "dataset": {"type": data.name, "name": data.name, "split": one.split},
                        "metrics": [
                            {
                                "type": "bits_per_dim",
                                "name": f"bits/dim (upper bound), {one.measured}",
                                "value": round(one.bits_per_dim, 4),
                            }
                        ],
                    }
                    for one in found
                    if math.isfinite(one.bits_per_dim)
                ],
            }
        ]
    text: str = yaml.safe_dump(entries, sort_keys=False, allow_unicode=True, width=100)
    return text


def _opening(run: Run, where: str) -> str:
    """Return Python code that loads the export with elbos and draws samples."""
    is_own = isinstance(run.config.network, OwnNetwork)
    arguments = json.dumps(where.rpartition("/")[2]) + (", network=network" if is_own else "")
    lines = [
        "import elbos",
        "",
        f"run = elbos.Run({arguments})  # the folder",
        "x = run.sample(16, seed=0)  # about in [-1, 1]",
    ]
    return "\n".join(lines)


def _loop(run: Run, where: str, vae: Latents | None) -> str:
    """Return Python code that loads the export with diffusers and draws samples."""
    network = run.network
    assert isinstance(network, DiffusersNetwork)
    kind, part = type(network.inner).__name__, part_name(network)
    scheduler = trained_scheduler(run.config.parameterization, network.levels)["_class_name"]
    is_flow = scheduler == "FlowMatchEulerDiscreteScheduler"
    name, num_classes = json.dumps(where), run.data.num_classes
    labels = "" if network.null_label is None else ", class_labels=labels"
    lines = [
        "import torch",
        f"from diffusers import {scheduler}, {kind}",
        "",
        f'network = {kind}.from_pretrained({name}, subfolder="{part}")',
        f'scheduler = {scheduler}.from_pretrained({name}, subfolder="scheduler")',
        "scheduler.set_timesteps(50)",
        f"x = torch.randn(16, {', '.join(map(str, run.data.shape))})"
        + ("" if is_flow else " * scheduler.init_noise_sigma"),
        *([f"labels = torch.arange(16) % {num_classes}"] if labels else []),
        "for t in scheduler.timesteps:",
        f"    z = {'x' if is_flow else 'scheduler.scale_model_input(x, t)'}",
        "    with torch.no_grad():",
        f"        y = network(z, timestep=t.expand(len(x)){labels}).sample",
        "    x = scheduler.step(y, t, x).prev_sample",
        *([] if vae is None else _decoding(name, vae)),
    ]
    return "\n".join(lines)


def _decoding(name: str, vae: Latents) -> list[str]:
    """Return lines of Python code that decode the latents `x` to images."""
    if vae.vae.config.get("latents_mean") is not None:  # a scale for each channel
        opened = f"elbos.adapters.diffusers.load_vae({name})"
        return ["", "import elbos", "", f"images = {opened}.decode(x)  # about in [-1, 1]"]
    kind, shift = type(vae.vae).__name__, vae.vae.config.get("shift_factor")
    latents = "x / vae.config.scaling_factor" + (" + vae.config.shift_factor" if shift else "")
    return [
        "",
        f"from diffusers import {kind}",
        "",
        f'vae = {kind}.from_pretrained({name}, subfolder="vae")',
        "with torch.no_grad():",
        f"    images = vae.decode({latents}).sample  # about in [-1, 1]",
    ]
