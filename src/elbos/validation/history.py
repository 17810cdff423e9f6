"""Validation at intervals of a training: results by step, the best one, and a reason to stop.

Two validations are compared on the same samples, noise levels and noise, so that the error of their
difference is many times smaller than that of either number: a gain or a worsening is significant
long before two loss curves differ visibly.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import torch.distributed as dist

from elbos.base.checks import Typed, require_positive, typed
from elbos.base.conditions import Condition
from elbos.base.errors import message
from elbos.base.processes import require_calls
from elbos.base.progress import LOGGER
from elbos.theory.denoiser import Denoise
from elbos.validation.by_level import scalars
from elbos.validation.diagnostics import WorseThanUniformWarning
from elbos.validation.estimate import Estimate
from elbos.validation.execution import evaluating, modules, without_autocast
from elbos.validation.result import Validation
from elbos.validation.validator import Validator

NUM_ERRORS = 2.0
"""Standard errors beyond which a difference counts as significant: 95 % for a normal one."""


def _itself(model: Any) -> Any:
    return model


@dataclass
class ValidationHistory(Typed):
    """Validations at regular intervals during a training.

    Args:
        validator: The held-out set.
        denoiser: Makes the denoiser of a model, for example of its averaged weights:
            `lambda model: elbos.Denoiser(model.ema, V())`. Default: the model is a denoiser.
        every: Training steps between validations; images, if steps are counted in images.
        patience: Number of validations in a row without a significant gain after which
            `should_stop` is true. A gain is measured from the last validation that was one, so that
            small ones add up. Default: never.
        on_best: Called with each validation that is the best so far, while the model has the
            weights that it measured: `lambda _: torch.save(model.state_dict(), "best.pt")`. Every
            process calls it, as saving a sharded model takes them all.
        cond: The condition of all samples. Default: the condition in the data.
        batch_size: Function evaluations at once.
        is_shared: Whether all processes call `update` and share the work; False: one calls alone.

    Attributes:
        results: The validations, by training step; of a repeated step the last one.
        best: Validation with the lowest bound so far; None before the first one.
        best_step: The training step of the lowest bound.

    Examples:
        >>> import torch
        >>> from elbos import oracles, Validator
        >>> one = torch.ones(1)
        >>> model = oracles.GaussianMixture(one, torch.zeros(1, 2), one)
        >>> history = ValidationHistory(Validator(model.sample(100)[0]), every=500)
        >>> history.update(499, model), "validation/bits_per_dim" in history.update(500, model)
        (None, True)
        >>> history.best_step, history.should_stop
        (500, False)
    """

    validator: Validator
    denoiser: Callable[[Any], Denoise] = _itself
    _: KW_ONLY
    every: int = 1000
    patience: int | None = None
    cond: Condition = None
    batch_size: int = 64
    on_best: Callable[[Validation], object] | None = None
    is_shared: bool = True
    results: dict[int, Validation] = field(default_factory=dict, init=False)
    best: Validation | None = field(default=None, init=False)
    best_step: int | None = field(default=None, init=False)
    _gain: Validation | None = field(default=None, init=False)  # the last significant one
    _num_without_gain: int = field(default=0, init=False)
    _last_step: int | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        require_positive(every=self.every, batch_size=self.batch_size)
        if self.patience is not None:
            require_positive(patience=self.patience)

    @property
    def should_stop(self) -> bool:
        """True if the last `patience` validations brought no significant gain."""
        return self.patience is not None and self._num_without_gain >= self.patience

    def is_due(self, step: int) -> bool:
        """Return whether `update` would validate the model at this step.

        It does at each multiple of `every`, or at the first step that it gets after one.
        """
        last = step - 1 if self._last_step is None else self._last_step
        return step > 0 and step // self.every > last // self.every

    @typed
    def update(self, step: int, model: Any) -> dict[str, float] | None:
        """Validate the model if a validation is due: `validate`, or None."""
        is_due = self.is_due(step)
        self._last_step = step
        return self.validate(step, model) if is_due else None

    @typed
    def validate(self, step: int, model: Any) -> dict[str, float]:
        """Validate the model now.

        A model of float32 weights is evaluated in float32, though it is trained under autocast, and
        a module in evaluation mode, wherever the denoiser has it.

        Args:
            step: Number of training steps so far.
            model: The model, as `denoiser` takes it.

        Returns:
            For a logger: the bound, its standard error and the loss by noise level, as `scalars`
            names them. From the second validation on, "validation/worse_by" is the paired
            difference from the best one before, "validation/worse_by_error" its error.

        Raises:
            ValueError: If another process does not make the call within a minute.
        """
        is_shared = self.is_shared and dist.is_available() and dist.is_initialized()
        if is_shared:
            require_calls("history.update")
        with evaluating(model):
            denoiser = self.denoiser(model)
            parts = (p for m in modules(denoiser) + modules(model) for p in m.parameters())
            device = next((p.device for p in parts), None)
            with without_autocast(model, denoiser), warnings.catch_warnings():
                if self.results:  # the first validation has warned
                    warnings.simplefilter("ignore", WorseThanUniformWarning)
                result = self.validator(
                    denoiser,
                    cond=self.cond,
                    batch_size=self.batch_size,
                    is_shared=is_shared,
                    device=device,
                )
        metrics = scalars(result)
        bits = f"{result.bits_per_dim:.4f} ± {result.standard_error:.4f} bits/dim"
        is_main = not is_shared or dist.get_rank() == 0
        if is_main:
            LOGGER.info("%s", f"step {step:,}: validation ELBO {bits}")
        self.results[step] = result
        is_best = is_gain = self.best is None
        if self.best is not None and self._gain is not None:
            worse: Estimate = result.difference(self.best)
            metrics["validation/worse_by"] = worse.mean
            metrics["validation/worse_by_error"] = worse.standard_error
            gain = self._gain.difference(result)
            is_best = worse.mean < 0
            # the error of a single sample is NaN
            is_gain = is_best and not gain.mean <= NUM_ERRORS * gain.standard_error
        self._num_without_gain = 0 if is_gain else self._num_without_gain + 1
        if is_gain:
            self._gain = result
        if is_best:
            self.best, self.best_step = result, step
            if self.on_best is not None:
                self.on_best(result)
        if self.should_stop and is_main:
            text = f"step {step:,}: no gain, time to stop; the best is step {self.best_step}"
            LOGGER.info("%s", f"{text}: {self.best}")
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the validation history for a checkpoint.

        It contains the best validation, and the last one that was a significant gain. accelerate
        stores them: `accelerator.register_for_checkpointing(history)`.
        """
        best, gain = self.best, self._gain
        return {
            "best": best and best.to_dict(),
            "gain": gain.to_dict() if gain and gain is not best else None,
            "best_step": self.best_step,
            "num_without_gain": self._num_without_gain,
            "last_step": self._last_step,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the validation history from a checkpoint.

        A resumed training is compared with its best validation.

        Raises:
            ValueError: If another version of elbos or another validator made the state.
        """
        try:
            stored = state["best"], state["gain"]
            best, gain = (s if s is None else Validation.from_dict(s) for s in stored)
            step, last, num = state["best_step"], state["last_step"], state["num_without_gain"]
        except Exception as error:
            cause = f"{type(error).__name__}: {message(error)}"
            raise ValueError(f"the state is of another version ({cause}): leave it out.") from error
        if best and not self.validator.has_levels_of(best):
            raise ValueError(
                f"the state is of other noise levels or samples than those of {self.validator}: "
                "give the validator that measured it, or leave it out."
            )
        self.results = {step: best} if best else {}
        self.best, self._gain, self.best_step = best, gain or best, step
        self._num_without_gain, self._last_step = num, last
