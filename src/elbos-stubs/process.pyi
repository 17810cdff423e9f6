from elbos.theory.process import *
