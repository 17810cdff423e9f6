"""The former name of `figures`."""

from elbos.report.figures import COLORS as COLORS
from elbos.report.figures import DASHES as DASHES
from elbos.report.figures import Panel as Panel
from elbos.report.figures import area as area
from elbos.report.figures import faint as faint
from elbos.report.figures import hide_legend as hide_legend
from elbos.report.figures import log_axis as log_axis
from elbos.report.figures import logsnr_axis as logsnr_axis
from elbos.report.figures import stacked as stacked
