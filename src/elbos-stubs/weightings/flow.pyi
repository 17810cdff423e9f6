from elbos.theory.weightings.flow import *
