from elbos.theory.adaptive import *
