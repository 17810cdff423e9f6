"""Callback that audits the first steps of a Lightning training."""

from typing import Any

from lightning.pytorch.callbacks import Callback

from elbos.adapters.recorded import RecordedSteps
from elbos.audit import Audit


class AuditCallback(Callback):  # type: ignore[misc]
    """A callback that audits the loss of a `LightningModule`:
    `Trainer(callbacks=[AuditCallback("network")])`.

    Args:
        network: The attribute of the module that holds the network, such as "network" or
            "model.unet".
        num_steps: The number of steps to record. Default: 300, for errors of some per cent at a
            batch of 64.
    """

    def __init__(self, network: str, num_steps: int = 300) -> None:
        super().__init__()
        self._steps = RecordedSteps(network, num_steps)

    @property
    def audit(self) -> Audit | None:
        """The audit of the recorded steps; None until `num_steps` steps are recorded."""
        return self._steps.audit

    def on_train_start(self, _trainer: Any, pl_module: Any) -> None:
        self._steps.start(pl_module)

    def on_train_batch_end(self, *_: Any) -> None:
        self._steps.step()

    def on_train_end(self, *_: Any) -> None:
        self._steps.stop()
