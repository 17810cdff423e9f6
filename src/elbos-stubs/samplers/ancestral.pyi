from elbos.models.samplers.ancestral import *
