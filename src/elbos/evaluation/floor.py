"""Irreducible loss on the training images, at the noise levels of the measured loss curve.

It does not depend on a network: it is computed part by part into the cache, where all runs on the
same data find it. Its meaning depends on the images of the run's loss:

- **Training images**: no denoiser has a lower loss, in expectation over noise. The excess is what
  the run did not learn about the training images.
- **Held-out images**: no denoiser has a lower loss, on average over training sets, because the
  irreducible loss on images drawn from a distribution is below that of the distribution itself
  (see `elbos.floor`). The excess is the most that any training could gain there.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from elbos.base.progress import Start
from elbos.base.store import Part, Tensors
from elbos.evaluation.config import EvaluationConfig
from elbos.evaluation.model import Model, data_store
from elbos.theory.floor import NUM_NOISED, Floor, floor_losses
from elbos.theory.oracles import FiniteSet
from elbos.training.randomness import generator


def measure_floors(
    model: Model, config: EvaluationConfig, levels: Mapping[str, tuple[float, ...]], start: Start
) -> dict[str, Floor]:
    """Compute the irreducible loss on the training images at the noise levels of each condition.

    Given the label, noised images are compared with training images of the same class only.
    """
    train = model.dataset.train
    num = len(train) if config.floor_images is None else config.floor_images
    labels = None if train.labels is None else train.labels.to(model.device)
    data = FiniteSet(train.x[:].to(model.device), model.dataset.num_levels, labels)
    order = torch.randperm(len(data), generator=generator(config.seed))
    tenth = order[: max(2, len(order) // 10)]
    few = FiniteSet(data.x[tenth], data.num_levels, None if labels is None else labels[tenth])
    few_rows = torch.arange(min(num, len(few)))

    def floor(condition: str, logsnr: tuple[float, ...]) -> Floor:
        key = {"condition": condition, "logsnr": logsnr, "num": num, "seed": config.seed}
        store, at = data_store(model, "floor", **key), torch.tensor(logsnr, dtype=torch.float64)
        advance = start(f"floor, {condition.replace('_', ' ')}", len(few_rows) + num, "images")

        def part(images: FiniteSet, number: int, rows: Int[Tensor, " n"]) -> Tensors:
            random, given_label = generator(config.seed, number), condition == "given_label"
            losses = floor_losses(images, rows, at, given_label=given_label, generator=random)
            return {"loss": losses}

        def losses(name: str, images: FiniteSet, rows: Int[Tensor, " n"]) -> Float64[Tensor, "n m"]:
            parts = (
                Part(f"{name}-{number:05d}", len(some), partial(part, images, number, some))
                for number, some in enumerate(torch.split(rows, NUM_NOISED))
            )
            return store.concatenated(parts, advance)["loss"]

        few_losses = losses("tenth", few, few_rows)
        result = Floor.from_losses(at, losses("all", data, order[:num]), len(data))
        return replace(result, tenth=tuple(few_losses.mean(0).tolist()))

    return {name: floor(name, logsnr) for name, logsnr in levels.items()}
