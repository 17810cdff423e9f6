from elbos.models.likelihood import *
