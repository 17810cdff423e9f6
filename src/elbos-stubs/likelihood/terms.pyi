from elbos.models.likelihood.terms import *
