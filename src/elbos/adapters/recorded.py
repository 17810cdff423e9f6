"""Recorder of the first training steps, the base of the audit callbacks for other trainers."""

from contextlib import ExitStack
from operator import attrgetter
from typing import Any

import torch.distributed as dist

from elbos.audit import Audit, Recording, record
from elbos.base.errors import warn


class RecordedSteps:
    """Base class of trainer callbacks that audit a loss during the first training steps.

    Args:
        network: The attribute of the model that holds the network, such as "network" or
            "model.unet"; "" if the model is the network.
        num_steps: The number of steps to record. Default: 300, for errors of some per cent at a
            batch of 64.

    Attributes:
        audit: The audit; None until the last step is recorded.
        error: Why the recorded steps determine no audit; None otherwise. The training continues.
    """

    def __init__(self, network: str, num_steps: int = 300) -> None:
        super().__init__()
        self.audit: Audit | None = None
        self.error: ValueError | None = None
        self._network, self._num_steps = network, num_steps
        self._stack = ExitStack()
        self._recorded: Recording | None = None

    def start(self, model: Any) -> None:
        network = attrgetter(self._network)(model) if self._network else model
        self._recorded = self._stack.enter_context(record(network))
        self._num_left = self._num_steps

    def step(self) -> None:
        self._num_left -= 1
        if self._num_left == 0:
            self.stop()

    def close(self) -> None:
        """End the recording, also where the training fails."""
        self._stack.close()

    def stop(self) -> None:
        self.close()
        if self._recorded is not None:
            recorded, self._recorded = self._recorded, None
            is_shared = dist.is_available() and dist.is_initialized()
            title = self._network or "network"
            try:
                self.audit = recorded.audit(title=title, is_shared=is_shared)
            except ValueError as error:
                self.error = error
                warn(f"the loss of {title} is not audited: {error}")
