from elbos.theory.recipes.diffusion import *
