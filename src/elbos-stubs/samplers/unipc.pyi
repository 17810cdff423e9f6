from elbos.models.samplers.unipc import *
