"""Callbacks of a Lightning training: an audit of its first steps, and validation by the ELBO."""

from typing import Any

from elbos.adapters.recorded import RecordedSteps
from elbos.base.extras import needs
from elbos.validation import ValidationHistory

with needs(None):
    from lightning.pytorch import callbacks
    from lightning.pytorch.callbacks import Callback


class AuditCallback(RecordedSteps, Callback):  # type: ignore[misc]
    """Lightning callback that audits the training loss.

    Used as `Trainer(callbacks=[AuditCallback("network")])`.
    """

    def on_train_start(self, _trainer: object, pl_module: Any) -> None:
        self.start(pl_module)

    def on_train_batch_end(self, *_: object) -> None:
        self.step()

    def on_train_end(self, *_: object) -> None:
        self.stop()

    def on_exception(self, *_: object) -> None:
        self.close()


class ValidationCallback(Callback):  # type: ignore[misc]
    """Lightning callback that validates the model during training.

    The model is validated every `history.every` training steps, and the result is logged. The
    training stops when `history.should_stop` is true. If Lightning averages the weights
    (`EMAWeightAveraging`), the averaged ones are validated.
    `ModelCheckpoint(monitor="validation_bits_per_dim", every_n_train_steps=history.every)` stores
    the best model.

    Args:
        history: How to validate; its `denoiser` takes the `LightningModule`.

    Examples:
        history = ValidationHistory(validator, lambda module: Denoiser(module.network, V()))
        Trainer(callbacks=[ValidationCallback(history)])
    """

    def __init__(self, history: ValidationHistory) -> None:
        super().__init__()
        self.history = history

    def state_dict(self) -> dict[str, Any]:
        return self.history.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history.load_state_dict(state_dict)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: object) -> None:
        kind = getattr(callbacks, "WeightAveraging", ())  # from Lightning 2.6 on
        is_due = self.history.is_due(trainer.global_step)
        averaging = [
            callback for callback in trainer.callbacks if is_due and isinstance(callback, kind)
        ]
        for callback in averaging:
            callback.on_validation_epoch_start(trainer, pl_module)  # swaps the averaged weights in
        try:
            metrics = self.history.update(trainer.global_step, pl_module)
        finally:
            for callback in averaging:
                callback.on_validation_epoch_end(trainer, pl_module)  # and out
        if metrics:
            pl_module.log_dict(metrics)
        trainer.should_stop |= self.history.should_stop
