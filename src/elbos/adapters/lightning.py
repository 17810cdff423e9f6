"""Callback that audits the first steps of a Lightning training."""

from typing import Any

from lightning.pytorch.callbacks import Callback

from elbos.adapters.recorded import RecordedSteps


class AuditCallback(RecordedSteps, Callback):  # type: ignore[misc]
    """Callback auditing a `LightningModule`: `Trainer(callbacks=[AuditCallback("network")])`."""

    def on_train_start(self, _trainer: Any, pl_module: Any) -> None:
        self.start(pl_module)

    def on_train_batch_end(self, *_: Any) -> None:
        self.step()

    def on_train_end(self, *_: Any) -> None:
        self.stop()
