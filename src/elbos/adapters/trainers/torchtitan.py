r"""Trainer torchtitan's Flux: rectified flow with uniform times; no setting changes the loss.

`torchtitan/models/flux/trainer.py` draws $t \sim U(0, 1)$ and sums $\|\hat u - (\epsilon - x)\|^2$
over the elements of all processes' batches, divided by their number. $w = e^{-\lambda/2}$, as of
plain flow matching, whatever prompt dropout, packing of the latents and number of processes.

References:
    https://github.com/pytorch/torchtitan
"""

from elbos.adapters.trainers.flow import flow_loss
from elbos.adapters.trainers.settings import Settings
from elbos.adapters.trainers.trainer import Option, Trainer
from elbos.audit import DeclaredLoss
from elbos.theory.schedules import Flow as Uniform

_CONFIGS = ("flux_debugmodel", "flux_dev", "flux_schnell", "flux_dev_mxfp8", "flux_schnell_mxfp8")


def _read(settings: Settings) -> DeclaredLoss:
    settings.one_of("module", "flux", ("flux",))
    config = settings.one_of("config", "flux_dev", _CONFIGS)
    return flow_loss(f"torchtitan, {config}", Uniform())


TORCHTITAN = Trainer(
    name="torchtitan",
    version="torchtitan after 0.2.2, b5bcd76",
    package=("torchtitan", "0.2.2"),
    read=_read,
    options=(Option(settings={"config": "flux_dev"}),),
)
