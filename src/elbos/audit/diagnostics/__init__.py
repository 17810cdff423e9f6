"""Diagnostics of a loss: properties that the weighting does not show, one class for each.

`measured_loss` and `measured_noise` have the findings of `probe` and `record`, `declared` those of
diffusers' schedulers. `Diagnostic.from_values` finds the type by its kind.
"""

from elbos.audit.diagnostics.declared import *
from elbos.audit.diagnostics.diagnostic import KINDS as KINDS
from elbos.audit.diagnostics.diagnostic import Diagnostic as Diagnostic
from elbos.audit.diagnostics.measured_loss import *
from elbos.audit.diagnostics.measured_noise import *
