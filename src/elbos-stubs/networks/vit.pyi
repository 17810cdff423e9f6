from elbos.models.networks.vit import *
