from elbos.theory.schedules.schedule import *
