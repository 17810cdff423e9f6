from elbos.theory.tabulated import *
