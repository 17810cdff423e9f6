"""Diagnostics of a loss that was read from a scheduler file or a trainer's settings."""

from elbos.audit.diagnostics.diagnostic import Diagnostic, SchedulerDiagnostic, SettingDiagnostic

# --- schedulers of diffusers ---------------------------------------------------------------------


class ZeroSnrIgnored(SchedulerDiagnostic):
    sentence = (
        "{scheduler} ignores rescale_betas_zero_snr; DDPMScheduler, as which diffusers' scripts "
        "load the file, does not."
    )


class ZeroSnrRemainder(SchedulerDiagnostic):
    sentence = (
        "{scheduler} leaves 2**-24 of the data's variance in the last step; DDPMScheduler, as "
        "which diffusers' scripts load the file, leaves 0."
    )


class MinSnrUndefined(Diagnostic):
    sentence = (
        "At SNR 0 the scripts' Min-SNR coefficient of eps is 0/0 and their loss nan; here it is "
        "the limit, 1."
    )


class SnrWeightedX(Diagnostic):
    sentence = (
        "diffusers' script for unconditional images multiplies the squared error of x with the "
        "SNR, as a snr_gamma above every SNR does."
    )


class DynamicShift(SchedulerDiagnostic):
    sentence = "use_dynamic_shifting shifts the steps of sampling, not those of training."


class SamplingOnly(SchedulerDiagnostic):
    sentence = (
        "{scheduler} only samples along this path. Scripts load its file as a "
        "FlowMatchEulerDiscreteScheduler, which reads shift and not flow_shift; these are the "
        "steps of that class with flow_shift for its shift."
    )


class LogitMean(SchedulerDiagnostic):
    sentence = (
        "logit_mean above 0 draws cleaner data, as scripts count steps from noise to data; in the "
        "paper of Stable Diffusion 3 it draws noisier data."
    )


class EdmStyle(Diagnostic):
    sentence = (
        "This is diffusers' EDM style of training, which is not EDM's loss: uniform steps of the "
        "grid and the plain squared error of the denoised data."
    )


class SigmaMinNotDrawn(Diagnostic):
    sentence = "Scripts load the file as EDMEulerScheduler, which never draws sigma_min."


# --- settings of trainers ------------------------------------------------------------------------


class UnreadSettings(Diagnostic):
    sentence = "Settings of {trainer} that elbos does not read: {names}."
    names: str
    trainer: str


class OtherVersion(Diagnostic):
    sentence = "The settings are read as those of {version}; {installed} is installed here."
    version: str
    installed: str


class SettingIgnored(SettingDiagnostic):
    sentence = "{setting} changes nothing: the trainer's code for the loss never reads it."


class SettingOn(SettingDiagnostic):
    sentence = "{setting} is false here, but the trainer only checks that it is given: it is on."


class DeclaredOverride(SettingDiagnostic):
    sentence = "{setting} is {value}: the trainer sets it for this model, whatever is given."
    value: str


class DeclaredModel(Diagnostic):
    sentence = (
        "No script is named, so these are read as settings of {model}: if they are not, begin "
        "with the name of the script, such as train_network.py."
    )
    model: str


class DeclaredResolution(Diagnostic):
    sentence = (
        "The time shift depends on the resolution, {resolution} here: give --resolution for "
        "another."
    )
    resolution: str


class DeclaredNotSquared(SettingDiagnostic, is_fatal=True):
    sentence = "{setting}: the loss is not a squared error."


class DeclaredNoise(SettingDiagnostic, is_fatal=True):
    sentence = (
        "{setting}: the noise is not white normal noise, which the theory requires; log-SNR refers "
        "to the loss without it."
    )


class DeclaredTarget(SettingDiagnostic, is_fatal=True):
    sentence = "{setting}: the target is not a combination of data and noise alone."


class DeclaredUneven(SettingDiagnostic):
    sentence = (
        "{setting}: the coefficient differs between the elements of a sample; it is shown without "
        "this setting."
    )


class DeclaredPerturbed(SettingDiagnostic):
    sentence = (
        "{setting}: the network's input contains more noise than its target; log-SNR refers to the "
        "loss without it."
    )


class DeclaredTerm(SettingDiagnostic):
    sentence = "{setting}: a term is added to the loss; the audit is without this term."


class DeclaredSnr(SettingDiagnostic):
    sentence = "{setting}: the coefficient uses the SNR of another table than training does."


class DeclaredDivisor(SettingDiagnostic):
    sentence = (
        "{setting} changes the target, but not the divisor of the Min-SNR coefficient, which is "
        "that of the prediction type in the model's own scheduler file."
    )
