from elbos.models.networks.adm import *
