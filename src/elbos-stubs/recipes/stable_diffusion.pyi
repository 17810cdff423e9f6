from elbos.theory.recipes.stable_diffusion import *
