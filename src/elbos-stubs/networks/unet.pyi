from elbos.models.networks.unet import *
