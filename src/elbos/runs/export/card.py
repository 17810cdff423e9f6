"""Model card of an exported model: objective, data, measured likelihood, and code to load it."""

import json
from collections.abc import Iterator
from typing import Any

from elbos import __version__
from elbos.adapters.diffusers.latents import Latents
from elbos.base.html import render
from elbos.base.numbers import count, number, plus_minus
from elbos.evaluation.result import Evaluation
from elbos.models.networks.diffusers import DiffusersNetwork, part_name
from elbos.models.networks.timesteps import trained_scheduler
from elbos.runs.run import Run
from elbos.theory import elbo as analysis
from elbos.training.network import OwnNetwork


def card(run: Run, name: str, vae: Latents | None = None) -> str:
    """Return the text of README.md of an exported model, in the form of the Hugging Face Hub."""
    is_diffusers = isinstance(run.network, DiffusersNetwork)
    tags = ["elbos", "diffusion", *(["class-conditional"] if run.has_labels else [])]
    front_matter = {"library_name": "diffusers" if is_diffusers else "elbos", "tags": tags}
    front_matter["license"] = "unknown"  # the owner of the weights has to choose
    if len(run.data.shape) == 3:
        front_matter["pipeline_tag"] = "unconditional-image-generation"
    lines = [f"{key}: {json.dumps(value)}" for key, value in front_matter.items()]
    rows = [f"| {fact} | {value} |" for fact, value in _facts(run)]
    ends = max(run.schedule.logsnr_min, -40), min(run.schedule.logsnr_max, 40)
    rising = analysis.rising_intervals(run.weighting, *ends)
    verdict = (
        "w never rises with the log-SNR: the loss is a mixture of ELBOs of data with Gaussian "
        "noise added to it, a likelihood objective."
    )
    if rising:
        intervals = ", ".join(f"{number(low, 3)} to {number(high, 3)}" for low, high in rising)
        verdict = f"w rises with the log-SNR from {intervals}: this is no likelihood objective."
    intro = (
        f"A diffusion model of {run.data.name}, trained with elbos {__version__}: the averaged "
        f"weights of step {count(run.step)}. The loss is ½ ∫ w(λ) E‖ε̂ − ε‖² dλ. {verdict}"
    )
    parts = [
        "\n".join(["---", *lines, "---"]),
        f"# {name}",
        intro,
        "\n".join(["| | |", "|---|---|", *rows]),
        "## Use",
    ]
    use: dict[str, Any] = {"is_diffusers": is_diffusers, "data": run.data, "vae": vae}
    use |= {"name": json.dumps(name), "is_own": isinstance(run.config.network, OwnNetwork)}
    if isinstance(network := run.network, DiffusersNetwork):
        if has_classes := network.null_label is not None:
            parts.append(f"Label {network.null_label} is the null class of guidance.")
        scheduler = trained_scheduler(run.config.parameterization, network.levels)["_class_name"]
        use |= {"scheduler": scheduler, "kind": type(network.inner).__name__}
        use |= {"is_flow": scheduler.startswith("FlowMatch"), "part": part_name(network)}
        use |= {"has_classes": has_classes}
    code = render("runs/export/use.txt", **use).rstrip()
    return "\n\n".join([*parts, f"```python\n{code}\n```"]) + "\n"


def _facts(run: Run) -> Iterator[tuple[str, str]]:
    trained, data = run.trained, run.data
    yield "predicts", str(trained.parameterization)
    yield "weighting w(λ)", str(trained.weighting)
    ends = f"{number(run.schedule.logsnr_min)} to {number(run.schedule.logsnr_max)}"
    yield "noise levels", f"{trained.schedule}, log-SNR λ from {ends}"
    yield "data", f"{data.name}, {'x'.join(map(str, data.shape))}"
    yield "network", f"{run.config.network!r}, {count(trained.num_parameters)} parameters"
    yield "images seen", f"{count(trained.images_seen)}, {count(trained.batch_size)} a step"
    yield "average of the weights", f"relative width {run.relative_width}, as in EDM2"
    yield "optimizer", str(trained.optimizer)
    path = run.directory.path / "eval.json"
    evaluation = Evaluation.load(path) if path.exists() else None
    if evaluation is not None and evaluation.step == run.step:
        for condition, result in evaluation.results.items():
            bound = plus_minus(result.bits_per_dim, result.standard_error)
            images = f"{count(evaluation.num_images, evaluation.images)}"
            what = condition.replace("_", " ")
            yield "negative log-likelihood", f"at most {bound} bits/dim ({images}, {what})"
