from elbos.models.likelihood.flow import *
