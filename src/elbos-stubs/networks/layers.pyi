from elbos.models.networks.layers import *
