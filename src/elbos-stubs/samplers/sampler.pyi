from elbos.models.samplers.sampler import *
