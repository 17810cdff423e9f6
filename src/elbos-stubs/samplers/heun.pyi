from elbos.models.samplers.heun import *
