from elbos.models.networks.mlp import *
