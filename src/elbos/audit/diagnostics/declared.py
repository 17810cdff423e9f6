"""Diagnostics of a loss that was read from a diffusers scheduler's file."""

from elbos.audit.diagnostics.diagnostic import Diagnostic, SchedulerDiagnostic


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
