from elbos.models.samplers.dpm_solver import *
