"""What a model was trained with, as a record for reports."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a model was trained with, as far as its numbers depend on it.

    None where it is not known, as of a model that was trained elsewhere.
    """

    weighting: str | None
    schedule: str | None
    parameterization: str
    network: str
    num_parameters: int
    optimizer: str | None
    images_seen: int | None
    batch_size: int | None
    precision: str | None
    data: str | None
    seed: int | None
