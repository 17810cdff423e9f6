from elbos.training.tracking import *
