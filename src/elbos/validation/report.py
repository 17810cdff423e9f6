"""Table of a validation, with standard errors."""

from elbos.base.numbers import fixed, plus_minus
from elbos.base.tables import Column, Table
from elbos.validation.result import NATS_PER_BIT, Validation


def results_table(result: Validation) -> Table:
    """Return a table of the variational bound and its terms."""
    scale, unit = (NATS_PER_BIT, "bits/dim") if result.num_levels else (1.0, "nats/dim")
    parts = {
        "ELBO": result.bound,
        "diffusion": result.diffusion,
        "decoder": result.decoder,
        "prior": result.prior[:, None].expand_as(result.decoder),
    }
    rows = []
    for name, values in parts.items():
        estimate = result.measurements.estimate(values) / scale
        rows.append([f"{name}, {unit}", plus_minus(estimate.mean, estimate.standard_error)])
    curve = result.curve(6)
    for level, mean, error in zip(
        curve.logsnr, curve.nats_per_dim, curve.standard_error, strict=True
    ):
        rows.append(
            [f"loss at log-SNR {fixed(level, 1)}, nats/dim per unit of it", plus_minus(mean, error)]
        )
    shown = f"{result.bits.num:,} samples, {result.num_evaluations:,} evaluations"
    return Table([Column(shown), Column("", is_numeric=False)], rows)
