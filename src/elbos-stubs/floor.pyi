from elbos.theory.floor import *
