"""Lightning callback that audits the training loss from the first training steps."""

from typing import Any

from lightning.pytorch.callbacks import Callback

from elbos.adapters.recorded import RecordedSteps


class AuditCallback(RecordedSteps, Callback):  # type: ignore[misc]
    """Lightning callback that audits the loss: `Trainer(callbacks=[AuditCallback("network")])`."""

    def on_train_start(self, _trainer: Any, pl_module: Any) -> None:
        self.start(pl_module)

    def on_train_batch_end(self, *_: Any) -> None:
        self.step()

    def on_train_end(self, *_: Any) -> None:
        self.stop()
