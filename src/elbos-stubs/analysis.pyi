from elbos.theory.elbo import *
