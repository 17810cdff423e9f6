"""Findings about a loss that was read from a script, a scheduler's file or trainer's settings."""

from dataclasses import dataclass

from elbos.audit.diagnostics.diagnostic import Diagnostic

# --- scripts -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Script(Diagnostic):
    sentence = (
        "Lines {lines} of the script were run; the data are {data}, the network is {network}."
    )
    lines: str
    data: str
    network: str


@dataclass(frozen=True)
class ScriptConditions(Diagnostic):
    sentence = "Conditions on what the script would load were taken to be false: lines {lines}."
    lines: str


@dataclass(frozen=True)
class ScriptScheduler(Diagnostic):
    sentence = (
        "The scheduler's configuration is not on this machine; {config} was assumed. Another is "
        "read from the folder that the script's own arguments name."
    )
    config: str


# --- schedulers of diffusers ---------------------------------------------------------------------


@dataclass(frozen=True)
class ZeroSnrIgnored(Diagnostic):
    sentence = (
        "{scheduler} ignores rescale_betas_zero_snr; DDPMScheduler, as which diffusers' scripts "
        "load the file, does not."
    )
    scheduler: str


@dataclass(frozen=True)
class ZeroSnrRemainder(Diagnostic):
    sentence = (
        "{scheduler} leaves 2**-24 of the data's variance in the last step; DDPMScheduler, as "
        "which diffusers' scripts load the file, leaves 0."
    )
    scheduler: str


@dataclass(frozen=True)
class MinSnrUndefined(Diagnostic):
    sentence = (
        "At SNR 0 the scripts' Min-SNR coefficient of eps is 0/0 and their loss nan; here it is "
        "the limit, 1."
    )


@dataclass(frozen=True)
class SnrWeightedX(Diagnostic):
    sentence = (
        "diffusers' script for unconditional images multiplies the squared error of x with the "
        "SNR, as a snr_gamma above every SNR does."
    )


@dataclass(frozen=True)
class DynamicShift(Diagnostic):
    sentence = "use_dynamic_shifting shifts the steps of sampling, not those of training."
    scheduler: str


@dataclass(frozen=True)
class SamplingOnly(Diagnostic):
    sentence = (
        "{scheduler} only samples along this path. Scripts load its file as a "
        "FlowMatchEulerDiscreteScheduler, which reads shift and not flow_shift; these are the "
        "steps of that class with flow_shift for its shift."
    )
    scheduler: str


@dataclass(frozen=True)
class LogitMean(Diagnostic):
    sentence = (
        "logit_mean above 0 draws cleaner data, as scripts count steps from noise to data; in the "
        "paper of Stable Diffusion 3 it draws noisier data."
    )
    scheduler: str


@dataclass(frozen=True)
class EdmStyle(Diagnostic):
    sentence = (
        "This is diffusers' EDM style of training, which is not EDM's loss: uniform steps of the "
        "grid and the plain squared error of the denoised data."
    )


@dataclass(frozen=True)
class SigmaMinNotDrawn(Diagnostic):
    sentence = "Scripts load the file as EDMEulerScheduler, which never draws sigma_min."


# --- settings of trainers ------------------------------------------------------------------------


@dataclass(frozen=True)
class UnreadSettings(Diagnostic):
    sentence = "Settings of {trainer} that elbos does not read: {names}."
    names: str
    trainer: str


@dataclass(frozen=True)
class SettingIgnored(Diagnostic):
    sentence = "{setting} changes nothing: the trainer's code for the loss never reads it."
    setting: str


@dataclass(frozen=True)
class SettingOn(Diagnostic):
    sentence = "{setting} is false here, but the trainer only checks that it is given: it is on."
    setting: str


@dataclass(frozen=True)
class DeclaredOverride(Diagnostic):
    sentence = "{setting} is {value}: the trainer sets it for this model, whatever is given."
    setting: str
    value: str


@dataclass(frozen=True)
class DeclaredModel(Diagnostic):
    sentence = (
        "No script is named, so these are read as settings of {model}: if they are not, begin "
        "with the name of the script, such as train_network.py."
    )
    model: str


@dataclass(frozen=True)
class DeclaredResolution(Diagnostic):
    sentence = (
        "The time shift depends on the resolution, {resolution} here: give --resolution for "
        "another."
    )
    resolution: str


@dataclass(frozen=True)
class RoundedTimes(Diagnostic):
    sentence = (
        "Times are rounded to {dtype}, which leaves {num_levels:count} distinct noise levels; w "
        "and the noise levels are those without rounding, but for what it moves to pure noise."
    )
    dtype: str
    num_levels: int


@dataclass(frozen=True)
class DeclaredNotSquared(Diagnostic):
    is_fatal = True
    sentence = "{setting}: the loss is no squared error."
    setting: str


@dataclass(frozen=True)
class DeclaredNoise(Diagnostic):
    is_fatal = True
    sentence = (
        "{setting}: the noise is not white normal noise, which the theory needs; log-SNR is that "
        "without it."
    )
    setting: str


@dataclass(frozen=True)
class DeclaredTarget(Diagnostic):
    is_fatal = True
    sentence = "{setting}: the target is no combination of data and noise alone."
    setting: str


@dataclass(frozen=True)
class DeclaredUneven(Diagnostic):
    sentence = (
        "{setting}: the coefficient differs between the elements of a sample; it is shown without "
        "that."
    )
    setting: str


@dataclass(frozen=True)
class DeclaredPerturbed(Diagnostic):
    sentence = (
        "{setting}: the network's input holds more noise than its target; log-SNR is that without "
        "it."
    )
    setting: str


@dataclass(frozen=True)
class DeclaredTerm(Diagnostic):
    sentence = "{setting}: a term is added to the loss, which is shown without it."
    setting: str


@dataclass(frozen=True)
class DeclaredSnr(Diagnostic):
    sentence = "{setting}: the coefficient uses the SNR of another table than training does."
    setting: str


@dataclass(frozen=True)
class DeclaredDivisor(Diagnostic):
    sentence = (
        "{setting} changes the target, but not the divisor of the Min-SNR coefficient, which is "
        "that of the prediction type in the model's own scheduler file."
    )
    setting: str
