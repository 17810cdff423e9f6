from elbos.theory.weightings.stable_diffusion import *
