from elbos.theory.objective import *
