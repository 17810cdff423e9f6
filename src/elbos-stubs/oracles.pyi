from elbos.theory.oracles import *
