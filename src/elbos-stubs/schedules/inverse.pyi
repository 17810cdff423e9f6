from elbos.theory.schedules.inverse import *
