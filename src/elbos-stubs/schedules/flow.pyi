from elbos.theory.schedules.flow import *
