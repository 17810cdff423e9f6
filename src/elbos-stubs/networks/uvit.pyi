from elbos.models.networks.uvit import *
