"""Tables of a validation, and of validation losses by several protocols, with standard errors."""

from collections.abc import Mapping

from elbos.base.numbers import fixed, number, plus_minus
from elbos.base.tables import Column, Table
from elbos.validation.estimate import Estimate
from elbos.validation.protocols import FixedLevels
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
        rows.append([f"loss at log-SNR {fixed(level, 1)}, nats/dim", plus_minus(mean, error)])
    shown = f"{result.bits.num:,} samples, {result.num_evaluations:,} evaluations"
    return Table([Column(shown), Column("", is_numeric=False)], rows)


def protocols_table(bound: Validation, measured: Mapping[FixedLevels, Estimate]) -> Table:
    """Return a table of the losses of a denoiser under several validation protocols.

    Examples:
        protocol = protocols.equispaced_times()
        measured = {protocol: protocol(validator, denoiser)}
        protocols_table(validator(denoiser), measured).rich()
    """
    schedule, unit = bound.measurements.schedule, "bits/dim" if bound.num_levels else "nats/dim"
    ours = bound.bits if bound.num_levels else bound.nats
    ends = f"all from {fixed(schedule.logsnr_min, 1)} to {fixed(schedule.logsnr_max, 1)}"
    rows = [[f"ELBO, {unit}", plus_minus(ours.mean, ours.standard_error), ends, "1"]]
    for protocol, estimate in measured.items():
        rows.append(
            [
                protocol.name,
                plus_minus(estimate.mean, estimate.standard_error),
                ", ".join(fixed(level, 1) for level in protocol.logsnr),
                ", ".join(number(weight, 2) for weight in protocol.weights),
            ]
        )
    heads = ("value", "at log-SNR", "weight of the loss ½‖ε̂ − ε‖² there")
    return Table([Column(""), *(Column(head, is_numeric=False) for head in heads)], rows)
