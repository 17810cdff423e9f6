"""Diagnostics from `probe` and `record` about the squared error, target and calls of a network."""

from typing import ClassVar

from elbos.audit.diagnostics.diagnostic import Diagnostic, ShareDiagnostic

# --- is it a squared error? ----------------------------------------------------------------------


class Coupled(ShareDiagnostic, is_fatal=True):
    sentence = (
        "The error of one element changes the gradient of others, as in an adversarial, "
        "perceptual or spectral loss, or in a norm or RMSE of a sample or a batch: the loss is "
        "not a plain squared error."
    )


class NotSquared(Diagnostic, is_fatal=True):
    sentence = "The gradient grows faster than the error: the loss is not a squared error."
    slower: ClassVar[str] = (
        "The gradient grows more slowly than the error, as in a Huber, pseudo-Huber or L1 loss: "
        "the loss is not a squared error."
    )
    growth: float  # growth of the gradient relative to a squared error

    @property
    def template(self) -> str:
        return self.slower if self.growth < 1 else self.sentence


class NotQuadratic(ShareDiagnostic, is_fatal=True):
    sentence = (
        "The second derivative of the loss with respect to the network's output is not that of a "
        "squared error, for {share:percent 0} of the tested samples, as with a perceptual or "
        "adversarial term, a Huber loss, a norm, or weights per pixel."
    )


class ErrorDependent(Diagnostic, is_fatal=True):
    sentence = (
        "The coefficient of a sample depends on the errors in its batch, as where the largest or "
        "smallest are left out, or a loss is divided by its own value: it is not a squared error."
    )


class LinearTerm(Diagnostic, is_fatal=True):
    sentence = (
        "A call of the network enters the loss linearly, not as a squared error, and does not "
        "average out."
    )


class ControlVariate(Diagnostic):
    sentence = (
        "The loss has a term that is linear in a call of the network at constant inputs, with "
        "factors that average out, as a control variate: the expected loss is the same without it."
    )


class NotFinite(Diagnostic, is_error=True):
    sentence = "The loss is NaN or infinite in some batches; only samples with a gradient count."
    of_samples: ClassVar[str] = (
        "The loss is NaN or infinite for {share:percent 2} of the samples, which are left out."
    )
    share: float | None = None

    @property
    def template(self) -> str:
        return self.sentence if self.share is None else self.of_samples


# --- the coefficient -----------------------------------------------------------------------------


class Uneven(Diagnostic):
    sentence = (
        "The coefficient differs between the elements of one sample, as with a mask or weights "
        "per pixel or channel; its mean is shown."
    )
    spread: float


class UntrainedElements(ShareDiagnostic):
    sentence = (
        "{share:percent 0} of the elements of a sample are not trained: the loss has no gradient "
        "there, as where it is taken of some channels or pixels only."
    )


class UnevenLevels(Diagnostic, is_fatal=True):
    sentence = (
        "The coefficients of a sample's elements, such as its channels, are not proportional: an "
        "element's share changes by {change:percent 0} with the noise level, so no single "
        "weighting describes the loss."
    )
    change: float


class LearnedCoefficient(Diagnostic, is_fatal=True):
    sentence = (
        "The coefficient depends on the variance that the network also predicts, as in a KL "
        "divergence with learned variance (L_vlb, not L_hybrid, whose variational part does not "
        "train the mean): w is for a predicted variance output of 0."
    )


class DataDependent(Diagnostic):
    sentence = (
        "The coefficient depends on the data, not on the noise level alone; its mean is shown."
    )


class NoiseDependent(Diagnostic, is_fatal=True):
    sentence = (
        "The coefficient depends on the noise of the sample, not on the noise level alone: its "
        "mean is not a weight."
    )


class BatchMean(Diagnostic, is_error=True):
    sentence = (
        "All samples of a batch share a factor, which changes from batch to batch, and differ at "
        "most by another function of the noise level: the mean of the weights times the mean of "
        "the errors, as where weights of shape [b] are broadcast against errors of another shape. "
        "Samples of different noise levels get the same weight."
    )


class Scattered(Diagnostic):
    sentence = (
        "The coefficient is not a function of the noise level: it varies by {scatter:percent 0} "
        "at one level, as where it depends on the sample's error, the rest of the batch, or a "
        "random number; its mean is shown."
    )
    scatter: float


class NormalizedWeights(Scattered):
    sentence = (
        "The coefficient is a function of the noise level, divided by its mean over the batch: it "
        "varies by {scatter:percent 0} at one level, and its mean, which is shown, depends on the "
        "size of the batch."
    )


class ChangedCoefficient(Scattered):
    sentence = (
        "The coefficient at one noise level changes in the course of the record, as where the "
        "loss is switched or a weight is learned; its mean is shown. Record each stage by itself."
    )


class ScaledSteps(Diagnostic):
    sentence = (
        "All samples of a step share a factor, whose largest value is {change:number 3} times the "
        "smallest, as that of a gradient scaler, a weight that decays, tasks that alternate, or "
        "batches or samples of several sizes: w is without it."
    )
    change: float


class Negative(ShareDiagnostic, is_fatal=True):
    sentence = (
        "The coefficient is negative for {share:percent} of the samples: there, training "
        "increases the error."
    )


class UntrainedSamples(ShareDiagnostic):
    sentence = (
        "{share:percent 0} of each batch is not trained: the loss has no gradient there, in any "
        "batch, as where it is taken of some samples only."
    )


class Unused(ShareDiagnostic):
    sentence = (
        "{share:percent} of the samples have weight 0, at log-SNR {low:fixed 2} to {high:fixed 2}."
    )
    low: float
    high: float


# --- calls of the network ------------------------------------------------------------------------


class SeveralCalls(Diagnostic):
    sentence = "The network is called {num_calls} times in one loss; all calls count."
    num_calls: int


class UntrainedCalls(Diagnostic):
    sentence = (
        "The loss also calls the network without gradient ({num_calls} per loss), as in "
        "self-conditioning; such calls do not count."
    )
    num_calls: int


class CoupledCalls(Diagnostic, is_fatal=True):
    sentence = (
        "The output of one call of the network changes the gradient at another, as through a "
        "consistency penalty: w refers to the squared errors alone."
    )


class LearnedVariance(Diagnostic):
    sentence = (
        "The output has twice the channels of the data, as where a variance is learned; the first "
        "half is audited, a term for the second half is not."
    )


class SecondOutput(Diagnostic):
    sentence = (
        "The output is a pair, as where a second head learns the weight of the loss; the first is "
        "audited, with zeros for the second."
    )


# --- the target ----------------------------------------------------------------------------------


class SelfTarget(Diagnostic, is_fatal=True):
    sentence = (
        "The target contains an output of the network itself, without gradient, as in consistency "
        "training or distillation."
    )


class DerivativeTarget(Diagnostic, is_fatal=True):
    sentence = (
        "The target contains the network's own derivative, as in MeanFlow: audit the plain part "
        "of such a loss, of MeanFlow that with r = t, flow matching."
    )


class DerivativeTerm(Diagnostic, is_fatal=True):
    sentence = (
        "The loss depends on the network's derivative with respect to its input, as through a "
        "gradient penalty: w refers to the squared error alone."
    )


class SharedDraws(ShareDiagnostic):
    sentence = (
        "In {share:percent} of the recorded steps, two {between} have the same {what}: draw new "
        "numbers for each step and sample, and seed each process by itself (seed + rank), with its "
        "own part of the data. The gradient is as noisy as with fewer samples."
    )
    what: str  # noise, noise levels or data
    between: str  # processes, steps or samples of a batch


class ClippedInput(ShareDiagnostic, is_fatal=True):
    sentence = (
        "In {share:percent 0} of its calls the network's input is {how}, and no sum of data and "
        "noise: give the network the noisy data themselves."
    )
    how: str


class SkippedCalls(ShareDiagnostic):
    sentence = (
        "{share:percent 0} of the network's calls were not recorded, so that w is of the others: "
        "{reason}."
    )
    reason: str


class StrangeTarget(ShareDiagnostic, is_fatal=True):
    sentence = (
        "{share:percent} of the target is not a combination of data and noise: the loss has an "
        "additional term, or another target."
    )
    of_some: ClassVar[str] = (
        "For {samples:percent} of the samples, {share:percent} of the target is not a combination "
        "of data and noise: the loss has an additional term, or another target."
    )
    samples: float  # the share of the samples with such a target

    @property
    def template(self) -> str:
        return self.of_some if self.samples < 0.995 else self.sentence


class ScatteredTarget(ShareDiagnostic, is_fatal=True):
    sentence = (
        "The target is not a function of the noise level: for {share:percent 0} of the samples, "
        "its coefficients of data and noise differ from those of their neighbours, as where it is "
        "chosen at random, or noise is divided by its own norm."
    )


class IndependentTarget(ShareDiagnostic):
    sentence = (
        "{share:percent} of the target is normal noise that is independent of the network's input: "
        "it adds a constant to the expected loss, and w refers to the rest."
    )


class TargetNoise(ShareDiagnostic, is_fatal=True):
    sentence = (
        "{share:percent} of the target is a normal draw that the network's input does not contain, "
        "and the input's own noise is not in the target: no network can predict that draw. Use "
        "one draw for both."
    )


class UnknownTarget(Diagnostic):
    sentence = (
        "The target is not one of the usual prediction types; the target y is written in "
        "terms of the data x and the noise eps."
    )


class ScaledTarget(UnknownTarget):
    sentence = (
        "The target is {factor:number 3} times that of the named prediction type, as where it is "
        "the velocity in another time, or the size of the output is penalized: samplers made for "
        "the named type need the output divided by that."
    )
    factor: float
