"""Callback for transformers' `Trainer` that audits the training loss from the first steps."""

from typing import Any

from transformers import TrainerCallback

from elbos.adapters.recorded import RecordedSteps


class AuditCallback(RecordedSteps, TrainerCallback):  # type: ignore[misc]
    """Callback that audits the training loss: `Trainer(..., callbacks=[AuditCallback("unet")])`."""

    def on_train_begin(self, *_: Any, model: Any, **__: Any) -> None:
        self.start(model)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.step()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.stop()
