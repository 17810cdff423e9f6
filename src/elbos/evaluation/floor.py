"""The irreducible loss on a run's training images, at the noise levels of the run's loss.

The irreducible loss does not depend on a network: it is computed part by part into the cache, where
all runs on the same data find it. Its meaning depends on the images of the run's loss:

- **Training images**: no denoiser has a lower loss, in expectation over noise. The excess is what
  the run did not learn about the training images.
- **Held-out images**: no denoiser has a lower loss, on average over training sets, because the
  irreducible loss on images drawn from a distribution is below that of the distribution itself
  (see `elbos.floor`). The excess is the most that any training could gain there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from elbos.base.progress import Advance, Start
from elbos.base.store import Part, Tensors
from elbos.evaluation.config import EvaluationConfig
from elbos.evaluation.model import Model, data_store
from elbos.theory.floor import NUM_NOISED, Floor, floor_losses
from elbos.theory.oracles import FiniteSet
from elbos.training.randomness import generator


def measure_floors(
    model: Model, config: EvaluationConfig, levels: Mapping[str, tuple[float, ...]], start: Start
) -> dict[str, Floor]:
    """Compute the irreducible loss on the training images, by noise level, for each condition.

    Args:
        model: The model.
        config: How many training images are noised; the seed of noise and choice.
        levels: The noise levels of each condition's loss curve. Given the label, noised images are
            compared with training images of the same class only.
        start: Starts a progress display for each condition.

    Raises:
        OSError: If parts cannot be stored.
        ValueError: If `floor_images` exceeds the number of training images.
    """
    train = model.dataset.train
    num = len(train) if config.floor_images is None else config.floor_images
    if num > len(train):
        raise ValueError(
            f"floor_images is {num}, more than the {len(train)} training images: give a smaller "
            "number."
        )
    labels = None if train.labels is None else train.labels.to(model.device)
    data = FiniteSet(train.x[:].to(model.device), model.dataset.num_levels, labels)
    return {
        name: _Measurement(model, data, name, logsnr, num, config.seed).floor(start)
        for name, logsnr in levels.items()
    }


@dataclass(frozen=True)
class _Measurement:
    """A resumable measurement of the irreducible loss under one condition, with random numbers
    keyed by (seed, part).
    """

    model: Model
    data: FiniteSet
    condition: str
    logsnr: tuple[float, ...]
    num: int
    seed: int

    def floor(self, start: Start) -> Floor:
        """Compute the irreducible loss on all training images and on a random tenth of them."""
        order = torch.randperm(len(self.data), generator=generator(self.seed))
        tenth = order[: max(2, len(order) // 10)]
        labels = None if self.data.labels is None else self.data.labels[tenth]
        few = FiniteSet(self.data.x[tenth], self.data.num_levels, labels)
        few_rows = torch.arange(min(self.num, len(few)))
        what = f"floor, {self.condition.replace('_', ' ')}"
        advance = start(what, len(few_rows) + self.num, "images")
        few_losses = self._losses("tenth", few, few_rows, advance)
        losses = self._losses("all", self.data, order[: self.num], advance)
        floor = Floor.from_losses(self._levels, losses, len(self.data))
        return replace(floor, tenth=tuple(few_losses.mean(0).tolist()))

    @property
    def _levels(self) -> Float64[Tensor, " m"]:
        return torch.tensor(self.logsnr, dtype=torch.float64)

    def _losses(
        self, name: str, data: FiniteSet, rows: Int[Tensor, " n"], advance: Advance
    ) -> Float64[Tensor, "n m"]:
        key = {"condition": self.condition, "logsnr": self.logsnr, "num": self.num}
        store = data_store(self.model, "floor", **key, seed=self.seed)
        parts = (
            Part(f"{name}-{part:05d}", len(some), partial(self._part, data, part, some))
            for part, some in enumerate(torch.split(rows, NUM_NOISED))
        )
        return store.concatenated(parts, advance)["loss"]

    def _part(self, data: FiniteSet, part: int, rows: Int[Tensor, " n"]) -> Tensors:
        losses = floor_losses(
            data,
            rows,
            self._levels,
            given_label=self.condition == "given_label",
            generator=generator(self.seed, part),
        )
        return {"loss": losses}
