"""Generated samples of a model, stored in batches, to be scored."""

from functools import partial

from jaxtyping import Float, UInt8
from torch import Tensor

from elbos.base.progress import Start
from elbos.base.store import Part, Tensors
from elbos.evaluation.model import Model, model_store
from elbos.training.data import to_levels
from elbos.training.sampling import BATCH_SIZE, Sampling, num_batches

FORMAT = 3  # version of stored samples: a change generates all samples again


class NotFiniteError(ValueError):
    """Error raised if generated samples contain NaN or infinity."""


def require_finite_samples(x: Float[Tensor, "n *d"]) -> None:
    if num_bad := int((~x.isfinite()).flatten(1).any(1).sum()):
        raise NotFiniteError(
            f"{num_bad} of {len(x)} samples hold NaN or infinity: "
            "try another sampler, more steps, less guidance or float32."
        )


def stored_samples(
    model: Model, sampling: Sampling, num: int, seed: int, start: Start
) -> UInt8[Tensor, "n c h w"]:
    """Return generated samples as pixel values.

    The samples are those that `elbos sample --num NUM --seed SEED` writes, read from disk or else
    generated.
    """
    store = model_store(model, "samples", format=FORMAT, sampling=sampling, num=num, seed=seed)
    labels = model.class_labels(num)

    def batch(i: int) -> Tensors:
        (x,) = model.sample_batches(sampling, num=num, seed=seed, cond=labels, batches=[i])
        require_finite_samples(x)
        return {"x": to_levels(x, model.data.num_levels)}

    parts = (
        Part(f"{i:05d}", min(BATCH_SIZE, num - i * BATCH_SIZE), partial(batch, i))
        for i in range(num_batches(num))
    )
    return store.concatenated(parts, start(f"samples of seed {seed}", num, "images"))["x"]
