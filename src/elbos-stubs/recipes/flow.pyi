from elbos.theory.recipes.flow import *
