from elbos.models.networks import *
