"""Callbacks of transformers' `Trainer`: an audit of the first steps, and validation by the ELBO."""

from collections.abc import Callable
from typing import Any

from elbos.adapters.recorded import RecordedSteps
from elbos.base.extras import needs
from elbos.validation import ValidationHistory

with needs(None):
    from transformers import TrainerCallback


class AuditCallback(RecordedSteps, TrainerCallback):  # type: ignore[misc]
    """Hugging Face callback that audits the training loss.

    Used as `Trainer(..., callbacks=[AuditCallback("unet")])`.
    """

    def on_train_begin(self, *_: object, model: Any, **__: object) -> None:
        self.start(model)

    def on_step_end(self, *_: object, **__: object) -> None:
        self.step()

    def on_train_end(self, *_: object, **__: object) -> None:
        self.stop()


class ValidationCallback(TrainerCallback):  # type: ignore[misc]
    """Hugging Face callback that validates the model during training.

    The model is validated every `history.every` steps, and the result is logged, with the loss by
    noise level. The training stops when `history.should_stop` is true. Each evaluation of the
    `Trainer` validates, too, so that `metric_for_best_model="bits_per_dim"`,
    `greater_is_better=False` stores the best model. A resumed training restores the history, which
    trainer_state.json holds.

    Args:
        history: How to validate; its `denoiser` takes the model.
        log: The trainer's `log`, which writes to `state.log_history` and all trackers.

    Examples:
        history = ValidationHistory(validator, lambda model: Denoiser(model.unet, V()))
        trainer.add_callback(ValidationCallback(history, trainer.log))
    """

    def __init__(self, history: ValidationHistory, log: Callable[..., object]) -> None:
        super().__init__()
        self.history, self.log = history, log

    def on_train_begin(self, _: object, state: Any, *__: object, **___: object) -> None:
        # An `ExportableState` would be restored on request only, without our arguments.
        if stored := state.stateful_callbacks.get("elbos"):
            self.history.load_state_dict(stored)

    def on_step_end(self, _: object, state: Any, control: Any, *, model: Any, **__: object) -> None:
        self._log(self.history.update(state.global_step, model), state, control)

    def on_evaluate(
        self,
        _: object,
        state: Any,
        control: Any,
        *,
        model: Any,
        metrics: dict[str, float],
        **__: object,
    ) -> None:
        step, results = state.global_step, self.history.results
        if step not in results:
            self._log(self.history.validate(step, model), state, control)
        # the dictionary in which the `Trainer` looks for the best model
        metrics["eval_bits_per_dim"] = results[step].bits_per_dim

    def _log(self, metrics: dict[str, float] | None, state: Any, control: Any) -> None:
        if metrics:
            is_loss_due = control.should_log  # logging resets it
            # "eval_" is the prefix of which the `Trainer`'s trackers make a group
            self.log({name.replace("validation/", "eval_"): metrics[name] for name in metrics})
            control.should_log = is_loss_due
            state.stateful_callbacks["elbos"] = self.history.state_dict()
        control.should_training_stop |= self.history.should_stop
