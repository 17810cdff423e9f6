from elbos.theory.schedules.composed import *
