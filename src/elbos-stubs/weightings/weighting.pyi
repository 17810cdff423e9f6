from elbos.theory.weightings.weighting import *
