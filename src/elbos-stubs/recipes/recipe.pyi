from elbos.theory.recipes.recipe import *
