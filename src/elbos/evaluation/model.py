"""A model to be evaluated, whoever trained it.

Both know their data, how they are sampled and what they can be told, under the same names.
"""

from elbos.evaluation.pretrained import Pretrained
from elbos.training.run import Run

Model = Run | Pretrained
"""A run, or a pipeline that diffusers trained with the images that it is evaluated on."""
