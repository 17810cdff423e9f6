"""Callback that audits the first steps of a training by transformers' `Trainer`."""

from typing import Any

from transformers import TrainerCallback

from elbos.adapters.recorded import RecordedSteps
from elbos.audit import Audit


class AuditCallback(TrainerCallback):  # type: ignore[misc]
    """A callback that audits the loss of a model: `Trainer(...,
    callbacks=[AuditCallback("unet")])`.

    Args:
        network: The attribute of the model that holds the network; "" if the model is the network.
        num_steps: The number of steps to record. Default: 300, for errors of some per cent at a
            batch of 64.
    """

    def __init__(self, network: str, num_steps: int = 300) -> None:
        self._steps = RecordedSteps(network, num_steps)

    @property
    def audit(self) -> Audit | None:
        """The audit of the recorded steps; None until `num_steps` steps are recorded."""
        return self._steps.audit

    def on_train_begin(self, *_: Any, model: Any, **__: Any) -> None:
        self._steps.start(model)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._steps.step()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self._steps.stop()
