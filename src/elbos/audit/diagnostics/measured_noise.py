"""Diagnostics from `probe` and `record` about the data, noise and noise levels of a loss."""

from typing import ClassVar

from elbos.audit.diagnostics.diagnostic import Diagnostic, ShareDiagnostic

# --- the data and the noise ----------------------------------------------------------------------

_WHITE = "The theory requires white noise; log-SNR refers to its total power."


class Encoded(Diagnostic):
    sentence = (
        "The loss encodes its data or normalizes them by channel first; log-SNR refers to "
        "the result."
    )


class SampledData(ShareDiagnostic):
    sentence = (
        "The loss samples its data in each call, as by a VAE's latent_dist.sample(): a normal "
        "draw, {share:percent} of their standard deviation, is scaled with the data and belongs "
        "to them. Log-SNR refers to the sampled data."
    )


class CleanElements(ShareDiagnostic):
    sentence = (
        "{share:percent} of the elements are given to the network without noise and not trained, "
        "as a state before actions; only the other elements are audited."
    )


class CentredNoise(Diagnostic):
    sentence = (
        "The noise has no mean along axis {axis:number}, as where the centre of mass of atoms is "
        "removed; log-SNR refers to the rest."
    )
    axis: float


class SummedNoise(Diagnostic):
    sentence = "The noise is a sum of {num_draws} normal draws; log-SNR refers to the sum."
    num_draws: int


class InputPerturbation(Diagnostic):
    sentence = (
        "Input perturbation: the network's input contains the noise eps + {gamma:number 3} eps', "
        "but the target only eps. Log-SNR refers to the sum; the noise that the target lacks adds "
        "a constant to the expected loss."
    )
    gamma: float


class OffsetNoise(Diagnostic, is_fatal=True):
    sentence = (
        "Offset noise: a common number is added to the noise of every channel, of "
        f"{{strength:number 2}} times its standard deviation. {_WHITE}"
    )
    strength: float


class ColouredNoise(Diagnostic, is_fatal=True):
    sentence = (
        "The noise is correlated between neighbours ({correlation:number 2}), as pyramid noise, "
        f"or data in a bridge. {_WHITE}"
    )
    low_frequencies: ClassVar[str] = (
        "The noise is coloured: low frequencies have {low_frequency_power:number 2} times the "
        f"power of white noise, as in pyramid or multi-resolution noise. {_WHITE}"
    )
    shared: ClassVar[str] = (
        "The noise is coloured: many elements share the numbers of a draw of shape "
        f"[{{shape:fixed 0}}]. {_WHITE}"
    )
    shared_in_part: ClassVar[str] = (
        "The noise is coloured: many elements share the numbers of a draw of shape "
        "[{shape:fixed 0}], of {strength:number 2} times the standard deviation of the noise. "
        f"{_WHITE}"
    )
    shape: list[float] | None = None
    strength: float | None = None
    correlation: float | None = None
    low_frequency_power: float | None = None

    @property
    def template(self) -> str:
        if self.shape is not None:
            return self.shared if self.strength is None else self.shared_in_part
        return self.sentence if self.low_frequency_power is None else self.low_frequencies


class NotNormal(Diagnostic, is_fatal=True):
    sentence = "The noise is not normal: its kurtosis is {kurtosis:fixed 2}, not 3."
    kurtosis: float


class NoiseUnseen(Diagnostic):
    sentence = (
        "The noise differs from all normal numbers that torch or numpy.random were observed to "
        "draw, but its correlations and its kurtosis are those of white normal noise: noise levels "
        "are measured from its norm, to {logsnr_error:number 2} in log-SNR each."
    )
    logsnr_error: float


# --- the noise levels ----------------------------------------------------------------------------


class NoLevel(Diagnostic, is_fatal=True):
    sentence = (
        "No input of the network depends on its sample's noise level, as in equilibrium matching, "
        "or where times are permuted: it has the same output at all levels, so no weighting "
        "describes the loss."
    )


class RoundedTimes(Diagnostic):
    sentence = (
        "The network's time input is coarse, as where it is rounded: at one value, log-SNR varies "
        "by {spread:number 2} and more."
    )
    spread: float


class UntoldLevels(Diagnostic, is_fatal=True):
    sentence = (
        "The network's time input does not determine the noise level: at a fixed input, log-SNR "
        "varies by {scatter:number 2}, as where noise or data are multiplied by a random number "
        "for each sample (Student's t). Given the time, such noise is not normal."
    )
    scatter: float


class WrongTimes(ShareDiagnostic, is_fatal=True):
    sentence = (
        "For {share:percent} of the samples, the network's time input is that of another noise "
        "level, as where it is drawn or permuted apart from the noise, or an index is off by one."
    )


class OneLevelPerBatch(Diagnostic):
    sentence = (
        "All samples of a batch share one noise level, so only {num_levels:count} levels were "
        "drawn: the gradient is noisier than necessary, and so is this audit (more samples in "
        "smaller batches help)."
    )
    num_levels: int


class SharedNoise(Diagnostic):
    sentence = "All samples of a batch share one noise: the gradient is noisier than necessary."


class SharedLevels(Diagnostic):
    sentence = (
        "Samples of a batch share noise levels in groups, as frames of a clip, so only "
        "{num_levels:count} levels were drawn."
    )
    num_levels: int


class Clamped(ShareDiagnostic):
    sentence = (
        "{share:percent} of the samples have exactly log-SNR {logsnr:number 3}, as where noise "
        "levels are clamped; the weighting refers to the other samples."
    )
    logsnr: list[float]
