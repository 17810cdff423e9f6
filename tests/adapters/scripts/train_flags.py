"""A script with absl's flags, a module of its project, and a device by the rank of its process."""

import os
import sys

import torch
from absl import flags
from no_such_library import Network, loader

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "project"))

from interpolant import Interpolant

FLAGS = flags.FLAGS
flags.DEFINE_float("shift", 1.0, help="of the times")
flags.DEFINE_bool("is_conditional", False, "with labels")


def train(argv):
    rank = int(os.environ["NO_SUCH_RANK"])
    device = torch.device("cuda", rank)
    interpolant = Interpolant(shift=FLAGS.shift)
    network = Network(FLAGS.is_conditional).to(device)
    network.train()
    for x, _label in loader:
        x = x.to(device)
        with torch.cuda.device(device=rank):
            loss = interpolant.training_losses(network, x)["loss"].mean()
        loss.backward()
