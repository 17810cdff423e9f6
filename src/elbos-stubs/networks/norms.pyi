from elbos.models.networks.norms import *
