"""Conditions of adapted networks, and guidance by them."""

import pytest
import torch

from elbos import adapters

ADAPTED = {
    "diffusers": lambda network: adapters.diffusers.denoiser(
        network, {"_class_name": "DDPMScheduler"}
    ),
    "edm": adapters.edm.denoiser,
    "flow": lambda network: adapters.flow.denoiser(network, data_at=0),
}


def shifted(z, level, class_labels=None, text=None):
    """A network whose output tells its condition."""
    z = z if class_labels is None else z + class_labels[:, None]
    return z if text is None else z * text[:, None]


@pytest.mark.parametrize("adapted", ADAPTED.values(), ids=ADAPTED)
def test_labels_and_keywords_reach_the_network(adapted, randn):
    z, logsnr = randn(2, 3), torch.tensor([-1.0, 2.0]).double()
    labels, text = torch.tensor([1, 2]), torch.tensor([0.5, 0.25])

    def made(cond):  # the same, inside of the network
        return lambda z, level: shifted(z, level, **cond)

    inputs = {"class_labels": labels, "text": text}
    for cond, named in ((labels, {"class_labels": labels}), (inputs, inputs)):
        actual = adapted(shifted)(z, logsnr, cond)
        expected = adapted(made(named))(z, logsnr)
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)
