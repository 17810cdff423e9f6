from elbos.theory.weightings.diffusion import *
