from elbos.theory.weightings import *
