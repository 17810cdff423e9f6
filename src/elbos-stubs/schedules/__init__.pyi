from elbos.theory.schedules import *
