from elbos.theory.parameterizations import *
