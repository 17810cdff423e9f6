from elbos.theory.weightings.wrappers import *
