from elbos.theory.denoiser import *
