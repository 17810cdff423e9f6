"""Callbacks for `lightning` and `pytorch_lightning`: an audit of first steps, and validation."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from elbos.adapters.recorded import RecordedSteps
from elbos.base.extras import needs
from elbos.validation import ValidationHistory

# A trainer takes subclasses of its own package's `Callback` only: ours are subclasses of both.
_INSTALLED = [name for name in ("lightning", "pytorch_lightning") if find_spec(name)]
with needs(None):
    _BASES = [import_module(name).Callback for name in _INSTALLED or ["lightning"]]


class AuditCallback(RecordedSteps, *_BASES):  # type: ignore[misc]
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


class ValidationCallback(*_BASES):  # type: ignore[misc]
    """Lightning callback that validates the model during training.

    The model is validated every `history.every` training steps. Its loggers get the result and the
    loss by noise level under that step. The training stops when `history.should_stop` is true. If
    Lightning averages the weights (`EMAWeightAveraging`), the averaged ones are validated.
    `ModelCheckpoint(monitor="validation/bits_per_dim", every_n_train_steps=history.every)` stores
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

    def setup(self, trainer: Any, *_: object, **__: object) -> None:
        # A checkpoint that monitors the result reads it after us, also where we were appended. The
        # old list stays as it is: the trainer goes through it while it calls this method.
        trainer.callbacks = sorted(trainer.callbacks, key=_is_checkpoint)

    def state_dict(self) -> dict[str, Any]:
        return self.history.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history.load_state_dict(state_dict)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: object) -> None:
        step = trainer.global_step
        averaging = [c for c in trainer.callbacks if self.history.is_due(step) and _is_average(c)]
        for callback in averaging:
            callback.on_validation_epoch_start(trainer, pl_module)  # swaps the averaged weights in
        try:
            metrics = self.history.update(step, pl_module)
        finally:
            for callback in averaging:
                callback.on_validation_epoch_end(trainer, pl_module)  # and out
        if metrics:
            pl_module.log_dict(metrics, logger=False)  # callbacks may monitor these
            for logger in trainer.loggers:  # log_dict would wait for log_every_n_steps
                logger.log_metrics(metrics, step)
        trainer.should_stop |= self.history.should_stop


def _is_checkpoint(callback: Any) -> bool:  # of either package
    return any(kind.__name__ == "Checkpoint" for kind in type(callback).__mro__)


def _is_average(callback: Any) -> bool:  # either package's, once it has averaged
    kinds = {kind.__name__ for kind in type(callback).__mro__}
    return "WeightAveraging" in kinds and bool(getattr(callback._average_model, "n_averaged", 0))
