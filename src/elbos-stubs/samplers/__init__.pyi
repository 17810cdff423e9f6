from elbos.models.samplers import *
