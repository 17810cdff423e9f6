from elbos.theory.recipes import *
