"""The samples of a run, kept batch by batch."""

from functools import partial

from jaxtyping import Float, UInt8
from torch import Tensor

from elbos.evaluation.stores import run_store
from elbos.progress import Start
from elbos.runs.store import Part, Tensors
from elbos.training.data import to_levels
from elbos.training.run import Run
from elbos.training.sampling import BATCH_SIZE, Sampling, num_batches

FORMAT = 3  # of what is kept: another number makes it anew


class NotFiniteError(ValueError):
    """Samples that hold NaN or infinity."""


def require_finite_samples(x: Float[Tensor, "n *d"]) -> None:
    """Fail on samples that no picture can be made of, before they are rounded to pixel values.

    Raises:
        NotFiniteError: If some hold NaN or infinity; it says how many.
    """
    num_bad = int((~x.isfinite()).flatten(1).any(1).sum())
    if num_bad:
        raise NotFiniteError(
            f"{num_bad} of {len(x)} samples hold NaN or infinity: "
            "try another sampler, more steps, less guidance or float32."
        )


def stored_samples(
    run: Run, sampling: Sampling, num: int, seed: int, start: Start
) -> UInt8[Tensor, "n c h w"]:
    """The samples of `elbos sample --num NUM --seed SEED`, as pixel values; kept in the run's
    directory.

    Raises:
        NotFiniteError: If some are not finite.
    """
    store = run_store(run, "samples", format=FORMAT, sampling=sampling, num=num, seed=seed)
    labels = run.class_labels(num)

    def batch(i: int) -> Tensors:
        (x,) = run.sample_batches(sampling, num=num, seed=seed, cond=labels, batches=[i])
        require_finite_samples(x)
        return {"x": to_levels(x, run.data.num_levels)}

    parts = (
        Part(f"{i:05d}", min(BATCH_SIZE, num - i * BATCH_SIZE), partial(batch, i))
        for i in range(num_batches(num))
    )
    return store.concatenated(parts, start(f"samples of seed {seed}", num, "images"))["x"]
