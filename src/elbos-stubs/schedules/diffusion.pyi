from elbos.theory.schedules.diffusion import *
