from elbos.theory.recipes.edm import *
